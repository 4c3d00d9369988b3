"""The path of a pool's socket is looked at once a beat, and as soon as the kernel hints, and made anew if deleted.

* Deleted: a new socket is bound there at once, and new workers are forked for it. Who is connected to the old one, or
  waits in its queue, is served by the workers of that.
* Something else stands there: it is left alone, and told once. When it goes away, the socket is made anew.
* Not possible now (the directory is gone, or may not be written to): told once, and tried again whenever the directory
  has changed, else with pauses that grow.
* The lock file was deleted: it is made anew, so that no other server can claim the path; who claimed it meanwhile has
  it.
* An inherited socket is its owner's: what happens to its path is told, and no more.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import Final

from prefork.errors import AddressInUse, PreforkError
from prefork.master.loop import Master
from prefork.master.perform import Performer
from prefork.system.filewatch import FileWatch
from prefork.system.listener import Listener, Standing
from prefork.system.probe import describe

__all__ = ["LONGEST_PAUSE", "Healer", "Watch"]

_BEAT: Final = 0.2
"""Seconds between two looks at least, so that whoever deletes in a loop does not make us fork in one; at most a round
of the loop more, which is a second where nothing happens."""

_FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0


class Healer:
    """Looks after the sockets of all pools of a master. Made before it runs, closed after."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._watches: dict[Performer, Watch] = {}
        self._look_at = 0.0
        self._hinted = False
        self._hints = FileWatch()
        if self._hints.works:
            master.attend(self._hints, self._take_hint)
        master.at_beat(self.beat)
        master.at_serving(self._look)

    def _take_hint(self, _now: float) -> None:
        self._hints.take()
        self._hinted = True

    def beat(self, now: float) -> float | None:
        """Once a round of the loop; returns when to be called at the latest, if there is something to see."""
        if now < self._look_at:
            return self._look_at if self._hinted else None
        self._look_at, self._hinted = now + _BEAT, False
        self._look(now)
        return None

    def _look(self, now: float | None = None) -> None:
        self._watches = {hands: self._watches.get(hands) or Watch(hands, self._hints) for hands in self._master.pools}
        for watch in self._watches.values():
            watch.look(time.monotonic() if now is None else now)

    def close(self) -> None:
        """Look no more."""
        self._hints.close()


class Watch:
    """What is known of one pool's path, so that everything is told once."""

    def __init__(self, hands: Performer, hints: FileWatch) -> None:
        self._hands = hands
        self._hints = hints
        self._hinting: Listener | None = None  # whose file the kernel gives hints about
        self._told: object = None  # what was last reported, as a value that changes with it
        self._trouble = ""  # why it could not be mended, as last reported
        self._directory: object = None  # as it was at the last attempt
        self._pause = 0.0
        self._try_at = 0.0

    def look(self, now: float) -> None:
        """Compare the path with the listener, and mend what can be."""
        pool, holdings = self._hands.pool, self._hands.holdings
        holdings.close_earlier(pool.listeners_served)
        if not pool.open or pool.shut:
            return
        self._heal(holdings.listener, now)
        if holdings.listener is not self._hinting and self._hints.add(holdings.listener.path or ""):
            self._hinting = holdings.listener

    def _heal(self, listener: Listener, now: float) -> None:
        match listener.standing():
            case Standing.OURS if listener.is_claimed:
                self._settle()
            case Standing.OURS:
                self._told = None
                self._attempt(listener, now, self._claim_again)
            case Standing.GONE:
                self._vanished(listener)
                if not listener.inherited:
                    self._attempt(listener, now, self._renew)
            case Standing.TAKEN:
                self._taken(listener)
            case Standing.HIDDEN:
                self._hidden(listener)

    def _settle(self) -> None:
        self._told, self._trouble, self._pause, self._directory = None, "", 0.0, None

    def _once(self, value: object) -> bool:
        new, self._told = value != self._told, value
        return new

    def _vanished(self, listener: Listener) -> None:
        taken = isinstance(self._told, tuple)
        if self._once(Standing.GONE) and not taken:
            message = "it was deleted, and is made anew"
            if listener.inherited:
                message = "it belongs to whoever passed it, who has to make it anew; nobody can connect until then"
            self._hands.logger.warning("socket_vanished", socket=str(listener), path=listener.path, message=message)

    def _taken(self, listener: Listener) -> None:
        path = listener.path or ""
        try:
            status = os.lstat(path)
        except OSError:
            return  # it has just gone again
        # A file system may give a new socket the inode of the one before it; a file changes while it is written to.
        since = status.st_ctime_ns if stat.S_ISSOCK(status.st_mode) else 0
        if self._once((status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode), since)):
            message = "it is left alone, and who is connected is served; once it is gone, the socket is made anew"
            if listener.inherited:
                message = "clients do not reach this server by its path"
            self._hints.add(path)
            self._hands.logger.error(
                "socket_taken", socket=str(listener), path=path, found=describe(path), message=message
            )

    def _hidden(self, listener: Listener) -> None:
        if self._once(Standing.HIDDEN):
            self._hands.logger.warning(
                "socket_hidden",
                socket=str(listener),
                path=listener.path,
                message="a directory on the way to it may not be entered any more: it cannot be watched, nor made anew",
            )

    def _attempt(self, listener: Listener, now: float, mend: Callable[[Listener], None]) -> None:
        """Try, unless it has just failed and the directory is still as it was then."""
        directory = _signature(os.path.dirname(listener.path or ""))
        if directory == self._directory and now < self._try_at:
            return
        try:
            mend(listener)
        except PreforkError as problem:
            self._failed(listener, problem, directory, now)
        else:
            self._settle()

    def _failed(self, listener: Listener, problem: PreforkError, directory: object, now: float) -> None:
        # Who has the path now may give it up at any time, and asking costs nothing: then the pause does not grow.
        grows = directory == self._directory and not isinstance(problem, AddressInUse)
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if grows else _FIRST_PAUSE
        self._directory, self._try_at = directory, now + self._pause
        if str(problem) != self._trouble:
            self._trouble = str(problem)
            self._hands.logger.error("socket_not_renewed", socket=str(listener), error=self._trouble)

    def _renew(self, listener: Listener) -> None:
        successor = listener.renew()
        self._hands.replace_listener(successor)
        self._hands.logger.info("socket_renewed", socket=str(successor), path=successor.path)

    def _claim_again(self, listener: Listener) -> None:
        listener.claim_again()
        self._hands.logger.warning(
            "lock_renewed",
            socket=str(listener),
            message="its lock file had been deleted: without it another server could have claimed the path",
        )


def _signature(directory: str) -> object:
    """A value that changes when what may be done in a directory does."""
    try:
        status = os.stat(directory)
    except OSError as problem:
        return problem.errno
    return status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid
