"""What a server says of itself when it serves: three lines for a person, the same as fields of an event for a machine.

Where clients connect and whether nginx can; the workers, and how their number came about; what is not limited, or
not there, and may be missed one day.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from prefork.config.model import PoolConfig, default_max_children
from prefork.master.perform import Performer
from prefork.policy.model import Rules
from prefork.system.cpus import usable_cpus
from prefork.system.identity import group_name, user_name
from prefork.system.reach import Reach, Verdict, diagnose

__all__ = ["announce", "banner"]


def announce(hands: Performer) -> None:
    """Report the start of one pool as the events ``serving`` and ``reach``."""
    verdict = _verdict(hands)
    listener = hands.holdings.listener
    hands.logger.info(
        "serving",
        socket=str(listener),
        **_access(listener.path),
        app=hands.pool.app_name,
        max_children=hands.pool.rules.max_children,
        workers=_workers(hands.pool.rules),
        **({} if listener.limit is None else {"backlog": listener.limit}),
        off=list(_off(hands.launch.pool)),
        **({} if verdict is None else {"nginx": verdict.reach.name.lower()}),
    )
    if verdict is not None:
        report = hands.logger.warning if verdict.reach is Reach.BLOCKED else hands.logger.info
        report("reach", socket=listener.path, nginx=verdict.reach.name.lower(), message=str(verdict))


def banner(hands: Performer) -> list[str]:
    """The same as three lines."""
    listener, verdict = hands.holdings.listener, _verdict(hands)
    if hands.launch.pool.internal:
        where = f"http://{listener}/" if listener.path is None else f"{listener} (HTTP)"
        return [f"{hands.pool.name}: pages of this server on {where}"]
    access = _access(listener.path)
    owned = f" (mode {access['mode']}, {access['owner']}:{access['group']})" if access else ""
    # The verdict mentions both where they matter.
    looks = "" if verdict is not None and "(mode " in str(verdict) else owned
    return [
        f"{hands.pool.name}: {hands.pool.app_name} on {listener}{looks}" + ("" if verdict is None else f"; {verdict}"),
        f"  {_workers(hands.pool.rules)}",
        f"  off: {'; '.join(_off(hands.launch.pool)) or 'nothing'}",
    ]


def _verdict(hands: Performer) -> Verdict | None:
    listener = hands.holdings.listener
    return None if listener.path is None else diagnose(listener.path, passed=listener.inherited)


def _access(path: str | None) -> dict[str, Any]:
    """Mode and owner of the socket's file; nothing where there is none."""
    try:
        status = os.lstat(path or "")
    except OSError:
        return {}
    return {
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": user_name(status.st_uid),
        "group": group_name(status.st_gid),
    }


def _workers(rules: Rules) -> str:
    """How many there are or may be, and where the number comes from."""
    usual, cpus, count = default_max_children(), usable_cpus(), rules.max_children
    workers = f"{count} worker{'s' if count != 1 else ''}"
    if rules.pm == "dynamic":
        idle = str(rules.max_spare) if rules.min_spare == rules.max_spare else f"{rules.min_spare} to {rules.max_spare}"
        workers = f"up to {workers} ({idle} idle)"
    elif rules.pm == "ondemand":
        workers = f"up to {workers} (none before somebody connects)"
    if count == usual:
        return f"{workers}, the default for {cpus}"
    return f"{workers}, as asked for; the default for {cpus} is {usual}"


def _off(pool: PoolConfig) -> list[str]:
    """What is not limited and not there."""
    off = []
    if pool.request_terminate_timeout is None:
        off.append("request_terminate_timeout: a request that hangs holds its worker until that is killed")
    if pool.max_body_size is None:
        off.append("max_body_size")
    if pool.access_log is None:
        off.append("access_log")
    return off
