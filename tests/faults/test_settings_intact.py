"""What an application sets for its whole process stays as it set it: prefork touches none of it, before or after."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from harness import Server, wait_until

SETTING = """
import atexit, json, locale, logging, logging.config, os, pathlib, signal, socket, subprocess, sys, threading, warnings
import structlog

BEFORE = {
    "default": [signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGCHLD, signal.SIGALRM)],
    "pipe": signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN,
    "root": len(logging.getLogger().handlers),
    "structlog": structlog.is_configured(),
    "warnings": len(warnings.filters),
    "excepthook": sys.excepthook is sys.__excepthook__,
    "streams": [sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno()],
    "timeout": socket.getdefaulttimeout(),
}
LOGGED = []

class Collect(logging.Handler):
    def emit(self, record):
        LOGGED.append((os.getpid(), record.getMessage()))

def keep(logger, method, event):
    LOGGED.append((os.getpid(), event["event"]))
    raise structlog.DropEvent

def handle(number, frame):
    LOGGED.append((os.getpid(), signal.Signals(number).name))

def hook(*_):
    pass

structlog.configure(processors=[keep], cache_logger_on_first_use=True)
logging.config.dictConfig({"version": 1, "disable_existing_loggers": True, "root": {"level": "WARNING"}})
logging.getLogger().addHandler(Collect())
logging.captureWarnings(True)
warnings.simplefilter("always")
socket.setdefaulttimeout(7)
sys.excepthook = hook
HANDLED = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCHLD]
for number in HANDLED:
    signal.signal(number, handle)
os.umask(0o027)
sys.setrecursionlimit(2_345)
atexit.register(lambda: pathlib.Path(f"exit-{os.getpid()}").touch())

def state():
    return {
        "structlog": structlog.get_config()["processors"] == [keep],
        "handlers": [signal.getsignal(number) is handle for number in HANDLED],
        "root": [type(handler).__name__ for handler in logging.getLogger().handlers],
        "level": logging.getLogger().level,
        "warnings": warnings.filters[0][0],
        "timeout": socket.getdefaulttimeout(),
        "excepthook": sys.excepthook is hook,
        "recursion": sys.getrecursionlimit(),
        "umask": os.umask(0o027),
        "wakeup": signal.set_wakeup_fd(-1),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "threads": threading.active_count(),
        "locale": locale.setlocale(locale.LC_ALL, None),
    }

AT_IMPORT = state()

def application(environ, start_response):
    LOGGED.clear()
    structlog.get_logger().info("from structlog")
    logging.getLogger("app").warning("from logging")
    warnings.warn("from warnings")
    done = subprocess.run(["sh", "-c", "echo out; exit 3"], capture_output=True, text=True)
    signal.raise_signal(signal.SIGUSR1)
    start_response("200 OK", [])
    answer = {"before": BEFORE, "at_import": AT_IMPORT, "now": state(), "pid": os.getpid()}
    answer |= {"logged": [text for pid, text in LOGGED if pid == os.getpid()], "run": [done.returncode, done.stdout]}
    answer["fds"] = {name: os.readlink(f"/proc/self/fd/{number}") for number, name in ((1, "stdout"), (2, "stderr"))}
    return [json.dumps(answer).encode()]
"""


def test_what_an_application_sets_is_as_it_set_it(folder: Path) -> None:
    """structlog, logging, warnings, signals, subprocess, atexit, and what else belongs to a process as a whole.

    What it found is what a fresh interpreter has; what it set at its import stands in its requests, between them, and
    after logs were reopened; children are its own to wait for; its exit handlers run. And our log is none the worse.
    """
    (folder / "setting.py").write_text(SETTING)
    log = folder / "a.log"
    options = ("--workers", "1", "--access-log", str(log))
    with Server("setting", *options, folder=folder, env={"PYTHONWARNINGS": ""}) as server:
        (worker,) = server.wait_workers(1)
        answers = [json.loads(server.ask().body)]
        log.rename(folder / "old.log")
        server.send(signal.SIGUSR1)
        server.wait_event("logs_reopened")
        answers.append(json.loads(server.ask().body))
    for answer in answers:
        assert answer["pid"] == worker
        assert answer["now"] == answer["at_import"]
        assert answer["run"] == [3, "out\n"]
        first, second, third, *rest = answer["logged"]
        assert (first, second) == ("from structlog", "from logging")
        assert "UserWarning: from warnings" in third
        assert sorted(rest) == ["SIGCHLD", "SIGUSR1"]
        assert answer["fds"]["stderr"].startswith("pipe:")
    assert answers[0]["before"] == {
        "default": [True, True],
        "pipe": True,
        "root": 0,
        "structlog": False,
        "warnings": answers[0]["before"]["warnings"],
        "excepthook": True,
        "streams": [0, 1, 2],
        "timeout": None,
    }
    assert (folder / f"exit-{worker}").exists()
    assert log.read_text().count("\n") == 1
    assert server.find("serving")
    assert os.path.exists(folder / "old.log")
    wait_until(lambda: server.find("stopped"))
