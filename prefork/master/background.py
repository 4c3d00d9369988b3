"""A server in the background and its launcher: told that it serves, and lived without from then on."""

from __future__ import annotations

from prefork.log import Logger
from prefork.master.loop import Master
from prefork.policy.lifecycle import Command
from prefork.system.daemon import Heard, Link

__all__ = ["Background"]


class Background:
    """Ties the line to the launcher to the master's life. Until the launcher knows that we serve, its end is ours."""

    def __init__(self, master: Master, link: Link, logger: Logger) -> None:
        self._master = master
        self._link = link
        self._logger = logger
        master.attend(link, self._listen)

    def _listen(self, _now: float) -> None:
        heard = self._link.hear()
        if heard is Heard.NOTHING:
            return
        self._master.dismiss(self._link)
        self._link.close()
        if heard is Heard.GONE:
            self._logger.warning("launcher_gone", message="nobody waits for this start any more: the server ends")
            self._master.order(Command.ABANDONED)
