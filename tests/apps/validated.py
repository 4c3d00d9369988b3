"""The examples and the demo behind ``wsgiref.validate``, as factories: ``validated:django_site()``.

The validator asserts both sides of WSGI: what the server hands over and what the application gives back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from wsgiref.validate import validator

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["demo", "django_site", "flask_app", "plain_wsgi"]


def django_site() -> WSGIApplication:
    from mysite.wsgi import application

    return validator(application)


def flask_app() -> WSGIApplication:
    from flask_app import app

    # Where the server says that its input ends by itself, Werkzeug calls read() without a size; the validator knows
    # PEP 3333's letter only, which wants one.
    def sized(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"] = _Sized(environ["wsgi.input"])
        return app(environ, start_response)

    return validator(sized)


class _Sized:
    def __init__(self, stream: InputStream) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


def plain_wsgi() -> WSGIApplication:
    from plain import application

    return validator(application)


def demo() -> WSGIApplication:
    from prefork.demo import application

    return validator(application)
