"""The hooks module: each worker opens its own connection after the fork, and closes it when it leaves.

With psycopg or SQLAlchemy it looks the same: make the pool in `on_worker_start` (an engine that exists already:
`engine.dispose(close=False)`), close it in `on_worker_stop`. A worker runs one request at a time, so a pool of one
connection is enough.
"""

import os
import sqlite3

import prefork

_database: sqlite3.Connection | None = None


def database() -> sqlite3.Connection:
    """The connection of this worker."""
    if _database is None:
        raise RuntimeError("no connection: serve with --hooks connections, and ask for it in a request")
    return _database


def on_worker_start(worker: prefork.Worker) -> None:
    """After the fork, before the first request. An exception here keeps the worker from starting."""
    global _database
    _database = sqlite3.connect(os.environ.get("GUESTS", "guests.db"), timeout=10)
    with _database:
        _database.execute("CREATE TABLE IF NOT EXISTS guests (id INTEGER PRIMARY KEY, name TEXT)")


def on_worker_stop(worker: prefork.Worker) -> None:
    """After the last response, before the process ends."""
    if _database is not None:
        _database.close()
