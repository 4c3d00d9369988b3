"""How many connections may wait at a listener, and how many the kernel lets."""

from __future__ import annotations

from typing import Final

from prefork.errors import ConfigurationError

__all__ = ["clamp"]

_SOMAXCONN: Final = "/proc/sys/net/core/somaxconn"
_LARGEST_BACKLOG: Final = 2**31 - 1  # an int, listen(2)


def clamp(backlog: int) -> tuple[int, tuple[str, ...]]:
    """The backlog as listen(2) will apply it, and the warning that goes with a smaller one.

    Raises `ConfigurationError` for one that admits nobody.
    """
    if backlog < 1:
        raise ConfigurationError(f"backlog {backlog}: expected the number of connections that may wait, 1 or more")
    try:
        with open(_SOMAXCONN) as text:
            limit = int(text.read())
    except (OSError, ValueError):
        limit = _LARGEST_BACKLOG
    if backlog <= limit:
        return backlog, ()
    warning = (
        f"backlog {backlog} is more than the kernel allows, net.core.somaxconn = {limit}: {limit} is used "
        f"(sysctl -w net.core.somaxconn={backlog} raises it)"
    )
    return limit, (warning,)
