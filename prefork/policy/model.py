"""The nouns of the policy: what the master knows, and what it may decide to do.

Everything here is a value. A snapshot is taken by the master's loop, `plan` looks at it and returns
a decision, and the loop performs it. Nothing here knows a descriptor, a clock or a process.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["FINISHING", "FREE", "IDLE", "READING", "RETIRING", "RUNNING", "STARTING", "WRITING", "SlotState"]

# The numbers are the bytes in the scoreboard. They are plain integers because compiled code loads an
# integer constant for nothing and an enum member through two dictionaries.
FREE: Final = 0
STARTING: Final = 1
IDLE: Final = 2
READING: Final = 3
RUNNING: Final = 4
WRITING: Final = 5
FINISHING: Final = 6
RETIRING: Final = 7


class SlotState(IntEnum):
    """What the worker in a slot is doing, by its own account."""

    FREE = FREE  # no worker
    STARTING = STARTING  # forked, not yet accepting
    IDLE = IDLE  # blocked in accept(2)
    READING = READING  # accepted, reading the request's head
    RUNNING = RUNNING  # the application runs
    WRITING = WRITING  # waiting for the client to take the response
    FINISHING = FINISHING  # answered; draining, lingering or running after_response callables
    RETIRING = RETIRING  # left the accept loop, running its exit handlers
