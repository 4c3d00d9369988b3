"""The README's commands, copied verbatim, on a machine as bare as a new virtual environment."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import REPOSITORY, wait_until
from prefork.config.options import OPTIONS

pytestmark = pytest.mark.once

README = (REPOSITORY / "README.md").read_text()
SHELL_BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
INSTALL, SEE, DJANGO, TESTS = SHELL_BLOCKS
BYSTANDER = "nobody"

LOADED = "import prefork.protocol.fastcgi as m; print(m.__file__)"


@pytest.fixture
def checkout(folder: Path) -> Path:
    """A copy of the checkout, as a clone would be, that belongs to whoever will use it."""
    left_out = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "__pycache__", "*.egg-info", ".*_cache")
    copy = folder / "checkout"
    shutil.copytree(REPOSITORY, copy, ignore=left_out)
    give(folder)
    return copy


def give(path: Path) -> None:
    """Hand a tree to an ordinary user if we are root: the README says "without root"."""
    if os.geteuid() == 0:
        user = pwd.getpwnam(BYSTANDER)
        for entry in [path, *path.rglob("*")]:
            os.chown(entry, user.pw_uid, user.pw_gid, follow_symlinks=False)


class Shell:
    """What somebody types in a directory: their own user, no root, nothing of ours in the environment."""

    def __init__(self, folder: Path, home: Path, **extra: str) -> None:
        # The interpreter of the test is a virtual environment; a fresh machine has the one behind it, as python3.
        bin_folder = home / "bin"
        bin_folder.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (bin_folder / "python3").symlink_to(Path(sys.executable).resolve())
        ours = ("PREFORK_", "SOCK_PATH", "PYTHON", "COV_", "COVERAGE_", "VIRTUAL_ENV")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self._options = {
            "cwd": folder,
            "env": {**env, "HOME": str(home), "PATH": f"{bin_folder}:{os.environ['PATH']}", **extra},
            "user": BYSTANDER if os.geteuid() == 0 else None,
            "group": pwd.getpwnam(BYSTANDER).pw_gid if os.geteuid() == 0 else None,
            "extra_groups": [] if os.geteuid() == 0 else None,
        }

    def run(self, command: str) -> str:
        """Run a command that ends; its output."""
        done = subprocess.run(  # type: ignore[call-overload]
            ["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False, **self._options
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    @contextlib.contextmanager
    def serving(self, command: str, socket: Path) -> Iterator[None]:
        """Run a command until its socket is there; at the end, Ctrl-C, which it must take as its end in order."""
        output = socket.parent / "output"
        with open(output, "wb") as file:
            process = subprocess.Popen(  # type: ignore[call-overload]
                ["sh", "-c", command], stdout=file, stderr=file, start_new_session=True, **self._options
            )
        try:
            wait_until(lambda: socket.exists() or process.poll() is not None, 800, command)
            assert process.poll() is None, output.read_text()
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) in (0, -signal.SIGINT), output.read_text()
        assert '"event": "stopped"' in output.read_text()
        assert not socket.exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.tool("cc")
def test_from_a_checkout(checkout: Path) -> None:
    """The first block installs, compiled, and serves the demo; the second one sees it answer.

    The build leaves nothing in the checkout, which may belong to somebody else when it is named by its path.
    """
    shell = Shell(checkout, checkout.parent)
    before = set(os.listdir(checkout))
    with shell.serving(INSTALL, checkout / "demo.sock"):
        assert "It works" in shell.run(SEE)
    assert shell.run(f"cd / && {checkout}/.venv/bin/python -c '{LOADED}'").endswith(".so\n")
    assert set(os.listdir(checkout)) - before <= {".venv", "demo.sock.lock", "output"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_an_empty_directory_without_a_compiler(checkout: Path) -> None:
    """With the checkout's path in place of the dot it works anywhere, with no C compiler and only what is declared."""
    empty = checkout.parent / "empty"
    empty.mkdir()
    give(empty)
    shell = Shell(empty, checkout.parent, CC="no-such-compiler")
    with shell.serving(INSTALL.replace("install .", f"install {checkout}"), empty / "demo.sock"):
        assert "It works" in shell.run(SEE)
    assert shell.run(f"cd / && {empty}/.venv/bin/python -c '{LOADED}'").endswith(".py\n")
    assert "mypy" not in shell.run(".venv/bin/pip list")


def test_the_test_command_is_the_one_ci_runs() -> None:
    """CI runs what the README says, so whoever follows it sees what CI sees."""
    assert TESTS.strip() in (REPOSITORY / ".ci" / "run").read_text()
    assert os.access(REPOSITORY / "tests" / "run", os.X_OK)


def test_the_django_command_is_understood() -> None:
    """The command for one's own site has only options that exist."""
    from prefork.config.arguments import parse
    from prefork.config.load import from_arguments

    config = from_arguments(parse(DJANGO.split()[1:]), {}).config
    assert config.pools[0].app == "mysite.wsgi:application"


def test_the_options_exist() -> None:
    """Every option in the README's table exists."""
    rows = re.findall(r"^\| (`--[^|]*) \|", README, re.MULTILINE)
    named = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row)}
    assert named
    assert named - {option.flag for option in OPTIONS} == set()


def test_local_links_lead_somewhere() -> None:
    """The files that the README points to exist."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []
