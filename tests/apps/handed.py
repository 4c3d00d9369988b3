"""An application for restarts under load: it tells the version that it had when it was imported, and what it was sent.

``HANDED_VERSION`` names a file that holds the version. ``GET /`` answers with it, ``GET /slow?s=&began=`` after that
time and with a file that says that it began, or with ``until=`` as soon as that file is there; ``POST /`` adds the
length and hash of the body; ``GET /environ`` answers with the environment of the process, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["application"]

VERSION = Path(os.environ["HANDED_VERSION"]).read_text().strip() if "HANDED_VERSION" in os.environ else "1"


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    text = VERSION
    if environ["PATH_INFO"] == "/slow":
        query = parse_qs(environ["QUERY_STRING"])
        if "began" in query:
            Path(query["began"][0]).touch()
        while "until" in query and not Path(query["until"][0]).exists():
            time.sleep(0.01)
        time.sleep(float(query.get("s", ["0"])[0]))
    elif environ["PATH_INFO"] == "/environ":
        text = json.dumps(dict(os.environ))
    if environ["REQUEST_METHOD"] == "POST":
        body = environ["wsgi.input"].read()
        text += f" {len(body)} {hashlib.sha256(body).hexdigest()}"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]
