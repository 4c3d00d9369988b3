"""WSGI and nothing else: what an application is to the server, and one thing that prefork adds."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Greet, and write to the log after the client has its answer."""
    after_response = environ.get("prefork.after_response")
    if after_response:  # any other WSGI server runs this application too
        errors = environ["wsgi.errors"]
        after_response(lambda: errors.write(f"answered {environ['REQUEST_METHOD']} {environ['PATH_INFO']}\n"))
    body = f"Hello from worker {environ.get('prefork.worker_slot', '?')}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
