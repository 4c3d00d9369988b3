"""The shop: three pages, all of which greet their visitor by name. One of them, seldom asked for, runs a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from shop import db


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    body = db.yearly_report() if path == "/report" else f"{path} for {db.fetch_user(7)}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]
