"""Names of the abstract namespace (unix(7)): no file, no lock, and who binds one first has it."""

from __future__ import annotations

import errno
import socket

from prefork.errors import PermissionProblem
from prefork.system.probe import DYING, ORPHANED, Finding, Found, Patience, in_use, is_orphan, probe

__all__ = ["claim_name"]


def claim_name(name: str, *, patient: bool = True) -> socket.socket:
    """The socket ``@name``, bound but not yet listening: by connecting, nobody can tell it from a free one.

    Raises `AddressInUse` and `PermissionProblem`; a name whose server has just been killed is waited for, unless the
    caller is not ``patient``.
    """
    address = "\0" + name
    patience = Patience(patient)
    finding: Finding | None = None
    while True:
        claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claimed.bind(address)
            return claimed
        except OSError as problem:
            claimed.close()
            if problem.errno != errno.EADDRINUSE:
                raise PermissionProblem(f"the socket @{name} cannot be made: {problem}") from problem
        finding = finding or probe(address)
        # Bound and refusing is a server that is being born, hence nobody's orphan.
        orphan = finding.found is Found.LIVE and is_orphan(finding)
        if not patience.wait(ORPHANED if orphan else DYING):
            raise in_use(address, finding)
