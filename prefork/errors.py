"""Every exception of prefork, and the exit status that goes with it.

    PreforkError                    70  an internal error: a bug of ours
    ├── UsageError                  64  the command line cannot be understood
    ├── AddressInUse                69  a live server owns the address
    ├── PermissionProblem           77  the system refuses us something we need
    ├── ConfigurationError          78  what was asked for cannot be done as asked
    │   └── ApplicationError        78  the application cannot be loaded (carries its traceback)
    ├── ProtocolError                –  a peer broke the rules of its protocol; never leaves the worker
    └── ClientDisconnected           –  the request's body ended early; raised into the application (an OSError)

    RequestTimeout                   –  the request took too long; raised into the application (a BaseException, so
                                        that no ``except Exception`` of it goes on regardless)

The numbers are those of sysexits(3), as php-fpm uses them. Messages say what was expected, what was found
and what mends it, in that order.
"""

from __future__ import annotations

__all__ = [
    "AddressInUse",
    "ApplicationError",
    "ClientDisconnected",
    "ConfigurationError",
    "PermissionProblem",
    "PreforkError",
    "ProtocolError",
    "RequestTimeout",
    "UsageError",
]


class PreforkError(Exception):
    """Base of all; on its own an internal error."""

    exit_status = 70


class UsageError(PreforkError):
    """The command line cannot be understood."""

    exit_status = 64


class AddressInUse(PreforkError):
    """A live server already listens where this one was told to listen."""

    exit_status = 69


class PermissionProblem(PreforkError):
    """The operating system refuses something that cannot be done without."""

    exit_status = 77


class ConfigurationError(PreforkError):
    """What was asked for cannot be done as it was asked."""

    exit_status = 78


class ApplicationError(ConfigurationError):
    """The application cannot be loaded.

    ``traceback`` holds the application's own traceback as text; it is empty when the name alone was wrong.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback
        if traceback:
            self.add_note(traceback.rstrip("\n"))  # for a program that does not catch it


class ProtocolError(PreforkError):
    """A peer sent bytes that its protocol does not allow.

    ``status`` is the HTTP status to answer with where the protocol still permits an answer (400 by default).
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ClientDisconnected(PreforkError, ConnectionError):
    """The client went away, or was cut off, before the whole request body had arrived.

    An ``OSError``, so that frameworks that guard ``wsgi.input`` against I/O errors recognise it
    (Django turns it into ``UnreadablePostError``).
    """


class RequestTimeout(BaseException):
    """The request took longer than it may (``request_timeout``): raised wherever the application is just then.

    Clean up and let it through. What is answered is 504, and the worker is replaced afterwards.
    """
