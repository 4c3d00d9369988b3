"""What the servers consist of: programs found, compiled, built or installed, with their versions.

Everything lies in one folder: a virtual environment with the servers from PyPI, two builds of prefork, the floor. Kept
in a cache, it is used again; what is built from files of the checkout is built anew when these have changed, the
environment when the interpreter has. Nothing is left there but the newest of each.

What cannot be had is a `Problem`, one line that says why, and the comparison goes on without it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.machine import Problem, find

__all__ = ["CHECKOUT", "Kit", "environment", "install_system_packages"]

CHECKOUT: Final = Path(__file__).resolve().parent.parent

_PATIENCE: Final = 900.0  # seconds for a build; uWSGI takes half a minute, prefork as long
_OTHERS: Final = ("PREFORK_", "SOCK_", "PYTHON", "GUNICORN_", "GRANIAN_", "UWSGI_", "DJANGO_")
_PHP_FPM: Final = "/usr/sbin/php-fpm*"


def environment(**changes: str) -> dict[str, str]:
    """Ours, without anything that would change how a server behaves."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}, **changes}


def install_system_packages(needs: frozenset[str]) -> None:
    """Install the Debian packages for what is missing, where that is allowed; else say what is missing."""
    sys.path.append(str(CHECKOUT / "tests"))
    from debian import install_packages, missing_packages

    files = {"php-fpm": {_PHP_FPM: "php-fpm"}, "bjoern": {"/usr/include/ev.h": "libev-dev"}}
    wanted = {name: package for need, names in files.items() if need in needs for name, package in names.items()}
    if missing := missing_packages(_base(), {"nginx": "nginx", "wrk": "wrk", "cc": "gcc"}, wanted):
        install_packages(missing)


def _base() -> str:
    """The interpreter under a virtual environment."""
    return getattr(sys, "_base_executable", "") or sys.executable


class Kit:
    """The programs in one folder; ``words`` is where they lie, as commands name them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = folder / "environment"
        self.words: dict[str, str] = {"environment": str(self._environment), "bin": str(self._environment / "bin")}

    @property
    def python(self) -> str:
        """The interpreter that runs the servers."""
        return f"{self.words['bin']}/python"

    def prepare(self) -> None:
        """Make the environment, with what the applications need. Raises `Problem`."""
        folder = self._environment
        state = f"{_base()} {sys.version}"
        if not _is_done(folder, state):
            shutil.rmtree(folder, ignore_errors=True)
            _run([_base(), "-m", "venv", str(folder)], "venv")
            self._pip("setuptools", "wheel", "django")
            _done(folder, state)

    def provide(self, need: str) -> str:
        """Have what a server needs; what it is and its version. Raises `Problem`."""
        if need == "floor":
            return self._floor()
        if need in ("compiled", "plain"):
            return self._prefork(need)
        if need == "php-fpm":
            return self._php_fpm()
        return self._from_pypi(need)

    def _pip(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*command, *arguments], "pip", env)

    def _version(self, package: str) -> str:
        ask = f"import importlib.metadata as about; print(about.version({package!r}))"
        return _run([self.python, "-c", ask], package).strip()

    def _from_pypi(self, package: str) -> str:
        try:
            version = self._version(package)
        except Problem:
            # Not what pip once built and kept: uWSGI's program belongs to the very interpreter it was built with.
            self._pip("--no-cache-dir", package)
            version = self._version(package)
        return f"{package} {version}"

    def _php_fpm(self) -> str:
        found = sorted(Path("/").glob(_PHP_FPM.lstrip("/")))
        if not found:
            raise Problem("php-fpm is not installed")
        self.words["php-fpm"] = str(found[-1])
        return "PHP " + _run([str(found[-1]), "-v"], "php-fpm").split()[1]

    def _floor(self) -> str:
        program = self._folder / "floor"
        _run([find("cc"), "-O2", "-Wall", "-o", str(program), str(CHECKOUT / "benchmarks" / "floor.c")], "cc")
        self.words["floor"] = str(program)
        return "floor.c"

    def _prefork(self, build: str) -> str:
        """prefork as pip builds it for a user, from a copy: a build leaves its traces beside the sources."""
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
        target, copy = self._folder / build, self._folder / f"{build}-source"
        state = f"{_fingerprint()} {sys.version}"
        if not _is_done(target, state):
            for folder in (target, copy):
                shutil.rmtree(folder, ignore_errors=True)
            _copy_sources(copy)
            self._pip(*project["dependencies"])
            wish = environment(PREFORK_COMPILE=str(int(build == "compiled")))
            self._pip("--no-deps", "--target", str(target), str(copy), env=wish)
            _done(target, state)
        hot = list((target / "prefork" / "worker").glob("exchange*.so"))
        if bool(hot) != (build == "compiled"):
            raise Problem(f"expected a {build} build, found another")
        self.words[build] = str(target)
        return f"prefork {project['version']}"


def _sources() -> list[Path]:
    """Everything of the checkout that a build uses."""
    package = [path for path in (CHECKOUT / "prefork").rglob("*") if path.suffix in (".py", ".typed")]
    return sorted([*package, *(path for path in CHECKOUT.iterdir() if path.is_file())])


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(f"{path.relative_to(CHECKOUT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _copy_sources(target: Path) -> None:
    for path in _sources():
        copy = target / path.relative_to(CHECKOUT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def _is_done(folder: Path, state: str) -> bool:
    stamp = folder / "complete"
    return stamp.exists() and stamp.read_text() == state


def _done(folder: Path, state: str) -> None:
    (folder / "complete").write_text(state)


def _run(command: list[str], what: str, env: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment() if env is None else env,
            cwd="/",
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Problem(f"{what}: {error}") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        # pip says first that something failed, and then what the compiler said.
        causes = [line.strip() for line in said if "error:" in line.lower() and "subprocess-exited" not in line]
        told = "".join(causes[:1] or said[-1:])
        raise Problem(f"{what} failed with {done.returncode}: {told}")
    return done.stdout
