"""``preforkctl top``: a server, live, in a terminal.

One frame a second, made of what the order ``status`` answers; nothing is asked of the workers. Keys: q ends, space
pauses, Tab or 1 to 9 choose the pool. A frame is made by a pure function; the terminal is given back as it was found,
however the command ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from prefork.cli.console import Failure, printable
from prefork.cli.latency import difference, spell_latency
from prefork.cli.status import spell_duration, spell_saturation
from prefork.status.fields import AT_WORK

__all__ = ["Look", "frame", "top"]

_EVERY: Final = 1.0
_LATE: Final = 1.0  # seconds after which a request is shown as late, and as stuck
_STUCK: Final = 10.0

# One letter a worker, as Apache's scoreboard shows them.
_LETTERS: Final = {
    "Idle": ".",
    "Starting": "s",
    "Reading headers": "r",
    "Running": "R",
    "Writing": "W",
    "Finishing": "F",
    "Ending": "x",
}
_BOLD, _DIM, _RED, _YELLOW, _BLUE = "1", "2", "31", "33", "34"
_SHADES: Final = {".": _DIM, "R": _BLUE, "W": _BLUE}

_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # the alternate screen, without a cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"


@dataclass(frozen=True, slots=True)
class Look:
    """One answer and when it came (monotonic seconds)."""

    answer: Mapping[str, Any]
    at: float


def frame(now: Look, before: Look | None, *, chosen: int, width: int, height: int, colour: bool) -> list[str]:
    """The lines of one screen. ``before`` is an earlier look, for what is counted a second."""

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour and text else text

    answer = now.answer
    pools = answer["pools"]
    chosen = min(chosen, len(pools) - 1)
    up = spell_duration(answer["start since"])
    title = f"prefork {answer['version']}, pid {answer['pid']}, {answer['phase']}, up {up}"
    lines = [paint(_fit(title, width), _BOLD)]
    if len(pools) > 1:
        names = [f"[{pool['pool']}]" if index == chosen else pool["pool"] for index, pool in enumerate(pools)]
        lines.append(_fit("pools  " + "  ".join(names), width))
    if not pools:
        return lines
    pool = pools[chosen]
    lines.append(_fit(f"{pool['pool']}: {pool['application']} on {pool['socket']}", width))
    lines.append("")
    lines += [
        paint(_fit(text, width), code) for text, code in _figures(pool, _pool_of(before, pool["pool"]), now, before)
    ]
    lines.append("")
    lines += _letters(pool, width, max(1, height // 4), paint)
    lines.append("")
    lines += _requests(pool, width, height - len(lines), paint)
    return lines[:height]


def _fit(text: str, width: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= width else shown[: max(0, width - 1)] + "…"


def _pool_of(look: Look | None, name: str) -> Mapping[str, Any] | None:
    if look is None:
        return None
    return next((pool for pool in look.answer["pools"] if pool["pool"] == name), None)


def _figures(
    pool: Mapping[str, Any], earlier: Mapping[str, Any] | None, now: Look, before: Look | None
) -> Iterator[tuple[str, str]]:
    busy, total = pool["active processes"], pool["total processes"]
    everybody = total > 0 and busy >= pool["max children"]
    limit = f"at most {pool['max children']} ({pool['process manager']})"
    workers = f"  workers   {busy} busy, {pool['idle processes']} idle, {limit}, generation {pool['generation']}"
    yield workers, _YELLOW if everybody else ""
    waiting, limit = pool["listen queue"], pool["listen queue len"]
    full = waiting is not None and limit is not None and waiting > limit
    shown = "unknown" if waiting is None else f"{waiting} of {limit} waiting, at most {pool['max listen queue']} so far"
    yield (
        f"  queue     {shown}" + (": full, newcomers are refused" if full else ""),
        _RED if full else _YELLOW if waiting else "",
    )
    if pool.get("saturated since"):
        yield f"  saturated {spell_saturation(pool)}", _RED
    rate = ""
    if earlier is not None and before is not None and now.at > before.at:
        rate = f"{max(0, pool['accepted conn'] - earlier['accepted conn']) / (now.at - before.at):.1f} a second, "
    slow = f", {pool['slow requests']} slow" if pool.get("slow requests") else ""
    yield f"  requests  {rate}{pool['accepted conn']} in all{slow}", ""
    yield f"  latency   {_latency(pool, earlier)}", ""


def _latency(pool: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> str:
    """Since the look before, if anything ended since; else of all requests there were."""
    key = "request seconds"
    lately = difference(pool.get(key), None if earlier is None else earlier.get(key))
    return spell_latency(lately) or spell_latency(pool.get(key)) or "no request has ended yet"


def _letters(pool: Mapping[str, Any], width: int, rows: int, paint: Callable[[str, str], str]) -> Iterator[str]:
    """All workers side by side, by slot."""
    room = max(1, width - 4)
    cells = [_letter(process) for process in sorted(pool["processes"], key=lambda process: int(process["slot"]))]
    for start in range(0, min(len(cells), rows * room), room):
        yield "  " + "".join(paint(letter, shade) for letter, shade in cells[start : start + room])
    if len(cells) > rows * room:
        yield f"  and {len(cells) - rows * room} more"


def _letter(process: Mapping[str, Any]) -> tuple[str, str]:
    letter = _LETTERS.get(process["state"], "?")
    seconds = (process["request duration"] or 0) / 1_000_000
    if letter == "R" and seconds >= _LATE:
        return "R", _RED if seconds >= _STUCK else _YELLOW
    return letter, _SHADES.get(letter, "")


def _requests(pool: Mapping[str, Any], width: int, room: int, paint: Callable[[str, str], str]) -> Iterator[str]:
    """What runs now, the longest first."""
    running = [process for process in pool["processes"] if process["request method"] and process["state"] in AT_WORK]
    running.sort(key=lambda process: -(process["request duration"] or 0))
    yield paint(_fit(f"  {'time':>9} {'worker':>7} {'pid':>8}  request", width), _DIM)
    for process in running[: max(0, room - 1)]:
        seconds = (process["request duration"] or 0) / 1_000_000
        text = (
            f"  {seconds:>7.1f} s {process['slot']:>7} {process['pid'] or '-':>8}  "
            f"{process['request method']} {process['request uri']}"
        )
        yield paint(_fit(text, width), _RED if seconds >= _STUCK else _YELLOW if seconds >= _LATE else "")
    if not running:
        yield "  no request runs at this moment"


# --- the terminal -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _View:
    chosen: int = 0
    paused: bool = False
    over: bool = False


def _press(view: _View, key: str, pools: int) -> _View:
    if key in ("q", "\x03", "\x04"):
        return replace(view, over=True)
    if key == " ":
        return replace(view, paused=not view.paused)
    if key == "\t":
        return replace(view, chosen=(view.chosen + 1) % max(1, pools))
    if key.isdecimal() and 1 <= int(key) <= pools:
        return replace(view, chosen=int(key) - 1)
    return view


def top(ask: Callable[[], Mapping[str, Any]]) -> int:
    """Show what ``ask`` answers until q is pressed. Raises `Failure` where there is no terminal, or no answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("top needs a terminal; elsewhere: preforkctl status, with --json for programs")
    colour = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    view, now, before = _View(), Look(ask(), time.monotonic()), None
    with _terminal():
        while not view.over:
            size = shutil.get_terminal_size()
            lines = frame(now, before, chosen=view.chosen, width=size.columns, height=size.lines - 1, colour=colour)
            help_text = "q end, space " + ("go on" if view.paused else "pause") + ", Tab pool"
            lines += [""] * (size.lines - 1 - len(lines)) + [_fit(help_text, size.columns)]
            sys.stdout.write("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")
            sys.stdout.flush()
            view = _wait(view, len(now.answer["pools"]))
            if not view.paused and not view.over and time.monotonic() - now.at >= _EVERY:
                now, before = Look(ask(), time.monotonic()), now
    return 0


def _wait(view: _View, pools: int) -> _View:
    """Until a key was pressed, or it is time for another look."""
    ready, _, _ = select.select([sys.stdin], [], [], _EVERY)
    if not ready:
        return view
    keys = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
    if not keys:
        return replace(view, over=True)
    for key in keys:
        view = _press(view, key, pools)
    return view


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Raw keys and the alternate screen; everything as before at the end."""
    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
