"""The life of the server as a table: (phase, command) → phase.

A command is a signal's name, an order (`Command.STOP`) or something the loop noticed (`Command.SERVES`). Every cell is
written down; a test asserts each of them. Commands that change no phase belong here too, so that the table answers for
all.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from prefork.policy.model import Phase

__all__ = ["Command", "step"]


class Command(Enum):
    """What can move the server from one phase to another."""

    TERM = "SIGTERM"  # graceful stop
    QUIT = "SIGQUIT"  # graceful stop
    INT = "SIGINT"  # graceful stop; the second one: now
    STOP = "stop"  # graceful stop, asked for over the control socket
    STOP_NOW = "stop now"  # likewise, without waiting
    ABANDONED = "the launcher is gone"  # whoever started it in the background does not wait any longer
    SERVES = "serves"  # every pool's listener is open
    FAILED = "failed"  # a pool cannot start
    EMPTY = "empty"  # no process of ours is left
    RELOAD = "reload"  # a reload begins; what may keep it from that is looked at before
    COMMITTED = "committed"  # the next generation of every pool has proved itself, and serves
    GIVEN_UP = "given up"  # it has not: the reload has changed nothing


_TABLE: Final[dict[Phase, dict[Command, Phase]]] = {
    Phase.BOOTING: {
        Command.TERM: Phase.DRAINING,
        Command.QUIT: Phase.DRAINING,
        Command.INT: Phase.DRAINING,
        Command.STOP: Phase.DRAINING,
        Command.STOP_NOW: Phase.KILLING,
        Command.ABANDONED: Phase.DRAINING,
        Command.SERVES: Phase.SERVING,
        Command.FAILED: Phase.KILLING,
        Command.EMPTY: Phase.BOOTING,  # before the first fork, and between two tries
        Command.RELOAD: Phase.BOOTING,  # it waits until this one is done
        Command.COMMITTED: Phase.BOOTING,
        Command.GIVEN_UP: Phase.BOOTING,
    },
    Phase.SERVING: {
        Command.TERM: Phase.DRAINING,
        Command.QUIT: Phase.DRAINING,
        Command.INT: Phase.DRAINING,
        Command.STOP: Phase.DRAINING,
        Command.STOP_NOW: Phase.KILLING,
        Command.ABANDONED: Phase.DRAINING,
        Command.SERVES: Phase.SERVING,
        Command.FAILED: Phase.SERVING,  # what once served is tried again
        Command.EMPTY: Phase.SERVING,
        Command.RELOAD: Phase.RELOADING,
        Command.COMMITTED: Phase.SERVING,
        Command.GIVEN_UP: Phase.SERVING,
    },
    Phase.RELOADING: {
        Command.TERM: Phase.DRAINING,
        Command.QUIT: Phase.DRAINING,
        Command.INT: Phase.DRAINING,
        Command.STOP: Phase.DRAINING,
        Command.STOP_NOW: Phase.KILLING,
        Command.ABANDONED: Phase.DRAINING,
        Command.SERVES: Phase.RELOADING,
        Command.FAILED: Phase.RELOADING,
        Command.EMPTY: Phase.RELOADING,
        Command.RELOAD: Phase.RELOADING,  # the next one waits
        Command.COMMITTED: Phase.SERVING,
        Command.GIVEN_UP: Phase.SERVING,
    },
    Phase.DRAINING: {
        Command.TERM: Phase.DRAINING,
        Command.QUIT: Phase.DRAINING,
        Command.INT: Phase.KILLING,
        Command.STOP: Phase.DRAINING,
        Command.STOP_NOW: Phase.KILLING,
        Command.ABANDONED: Phase.DRAINING,
        Command.SERVES: Phase.DRAINING,
        Command.FAILED: Phase.DRAINING,
        Command.EMPTY: Phase.ENDED,
        Command.RELOAD: Phase.DRAINING,  # refused
        Command.COMMITTED: Phase.DRAINING,
        Command.GIVEN_UP: Phase.DRAINING,
    },
    Phase.KILLING: {
        Command.TERM: Phase.KILLING,
        Command.QUIT: Phase.KILLING,
        Command.INT: Phase.KILLING,
        Command.STOP: Phase.KILLING,
        Command.STOP_NOW: Phase.KILLING,
        Command.ABANDONED: Phase.KILLING,
        Command.SERVES: Phase.KILLING,
        Command.FAILED: Phase.KILLING,
        Command.EMPTY: Phase.ENDED,
        Command.RELOAD: Phase.KILLING,  # refused
        Command.COMMITTED: Phase.KILLING,
        Command.GIVEN_UP: Phase.KILLING,
    },
    Phase.ENDED: dict.fromkeys(Command, Phase.ENDED),
}


def step(phase: Phase, command: Command) -> Phase:
    """The phase that follows."""
    return _TABLE[phase][command]
