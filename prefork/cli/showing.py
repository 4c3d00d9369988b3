"""``preforkctl status``: its forms, once or again every second."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from prefork.cli.status import as_text
from prefork.status import render
from prefork.status.openmetrics import as_openmetrics

__all__ = ["FORMATS", "put", "show", "watch"]

_EVERY: Final = 1.0  # seconds
_CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"  # home, the screen, what was scrolled away

_Pools = Sequence[Mapping[str, Any]]
_FORMS: Final[dict[str, Callable[[_Pools, bool], str]]] = {
    "text": lambda pools, full: render.as_text(pools, full=full),
    "json": lambda pools, full: render.as_json(pools, full=full),
    "xml": lambda pools, full: render.as_xml(pools, full=full),
    "html": lambda pools, full: render.as_html(pools, full=full),
    "openmetrics": lambda pools, _full: as_openmetrics(pools),
}
FORMATS: Final = tuple(_FORMS)
"""Those of php-fpm's page, and OpenMetrics: as the status pages show them."""


def show(answer: Mapping[str, Any], *, form: str | None, full: bool, as_it_is: bool) -> str:
    """What the order ``status`` answered: for a person, in one of `FORMATS`, or as it is; with a line's end."""
    if as_it_is:
        return json.dumps(answer, indent=2) + "\n"
    if form is None:
        return as_text(answer) + "\n"
    return _FORMS[form](answer["pools"], full).rstrip("\n") + "\n"


def watch(ask: Callable[[], str]) -> int:
    """Show what is asked for until the user interrupts; a terminal is cleared each time."""
    clear = _CLEAR if sys.stdout.isatty() else ""
    try:
        while True:
            put(clear + ask())
            time.sleep(_EVERY)
    except KeyboardInterrupt:
        return 0


def put(text: str) -> None:
    """Write UTF-8, whatever the locale: it is what XML and HTML say they are in."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()
