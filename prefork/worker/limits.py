"""What a worker allows a request, and those who send it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What one request may ask of a worker: bytes and numbers, and seconds of waiting for its client, or of its own.

    See `prefork.policy.pace` for what the timeouts of body and response and their rates mean together.
    """

    max_header_size: int = 65_536
    max_header_count: int = 200
    max_body_size: int | None = None
    header_timeout: float = 10.0  # from the first wait to the end of the head
    body_timeout: float = 30.0
    body_min_rate: int = 500  # bytes a second; 0: none
    write_timeout: float = 30.0
    write_min_rate: int = 500  # bytes a second; 0: none
    queue_timeout: float | None = None  # by the proxy's stamp; None: however long it waited
    skip_abandoned: bool = True  # while connections wait, a request whose client has left is not run
    request_timeout: float | None = None  # from the end of the head to the end of the response
    max_connections: int = 1  # what GET_VALUES answers for FCGI_MAX_CONNS: the pool's max_children
