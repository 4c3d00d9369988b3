"""A guest book: an application whose database connection belongs to the worker, not to the module's import.

`prefork-serve guestbook:application --hooks connections --chdir examples/database_pool --socket ./guests.sock`
"""

from collections.abc import Iterable
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

import connections


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Sign with ``/?name=…``; answer with everybody who has."""
    database = connections.database()
    for name in parse_qs(environ.get("QUERY_STRING", "")).get("name", []):
        with database:
            database.execute("INSERT INTO guests (name) VALUES (?)", (name,))
    guests = [name for (name,) in database.execute("SELECT name FROM guests ORDER BY id")]
    body = "".join(f"{guest}\n" for guest in guests).encode()
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
