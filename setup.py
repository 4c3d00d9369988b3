"""Builds prefork's hot modules with mypyc where a C compiler is at hand; everything else stands in pyproject.toml.

``PREFORK_COMPILE=1`` demands the compiled build and fails without it, ``PREFORK_COMPILE=0`` refuses it. Unset, the
build compiles two lines against ``Python.h`` and goes by the outcome. It says on its output which way it went.
The ``.py`` files are shipped in either case: without the extension modules beside them they are what runs.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError

HERE = Path(__file__).resolve().parent
DEMANDED = os.environ.get("PREFORK_COMPILE") == "1"

SCRATCH = tempfile.mkdtemp(prefix="prefork-build-")

# What runs for every request: the protocols and the worker, but for what happens once in a worker's life.
ONCE = {
    f"prefork/worker/{name}.py" for name in ("application", "canary", "hooking", "inside", "logs", "loop", "metrics")
}
HOT_MODULES = [
    "prefork/system/logfile.py",
    "prefork/system/scoreboard.py",
    *sorted(
        name
        for room in ("protocol", "worker")
        for path in HERE.glob(f"prefork/{room}/[!_]*.py")
        if (name := str(path.relative_to(HERE))) not in ONCE
    ),
]

# What the hot modules import is read for its types and not judged: a build environment has no structlog. The checkout
# may be somebody else's, and is nobody's place for a cache.
CHECKED = ["--follow-imports=silent", "--ignore-missing-imports", f"--cache-dir={SCRATCH}/mypy"]

# The phases of a build that make files. The others ask for metadata only, and compiling takes half a minute.
BUILDING = {"bdist_wheel", "build", "build_ext", "editable_wheel", "install"}

# Needed in the build environment only: what mypyc makes of these modules imports nothing of mypy's.
COMPILER_REQUIREMENT = "mypy>=2.0"

PROBE = "#include <Python.h>\nint main(void) { return Py_IsInitialized(); }\n"


def compiler_problem() -> str:
    """Why extension modules cannot be compiled here, or nothing if they can: tried, not guessed."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    paths = sysconfig.get_paths()
    includes = [f"-I{paths[key]}" for key in ("include", "platinclude")]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(PROBE)
        command = [*compiler, *includes, "-c", str(source), "-o", str(source.with_suffix(".o"))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"no C compiler ({compiler[0]}: {error.strerror})"
    return f"no {compiler[0]} that compiles against Python.h:\n{done.stderr}" if done.returncode else ""


def wanted() -> bool:
    """Whether this build compiles. Exits where the build was told to and cannot."""
    wish = os.environ.get("PREFORK_COMPILE", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(
            f"prefork: PREFORK_COMPILE is {wish!r}; expected 1 (compile), 0 (do not), or nothing (automatic)"
        )
    if wish == "0":
        print("prefork: plain Python build, as PREFORK_COMPILE=0 says")
        return False
    if not wish and "editable_wheel" in sys.argv:
        print("prefork: plain Python build: an extension module in the checkout would hide every edit beside it")
        return False
    problem = compiler_problem()
    if problem and wish:
        raise SystemExit(f"prefork: PREFORK_COMPILE=1 demands a compiled build, but there is {problem}")
    if problem:
        print(f"prefork: plain Python build: {problem}")
    return not problem


def compile_hot_modules() -> list[Any]:
    """The extension modules of the hot path; none if mypyc declines and nobody demanded them."""
    if not find_spec("mypyc"):
        if DEMANDED:
            raise SystemExit(
                f"prefork: PREFORK_COMPILE=1 demands the compiled build, which needs {COMPILER_REQUIREMENT}"
            )
        print(f"prefork: plain Python build: {COMPILER_REQUIREMENT} is not in this build environment")
        return []
    from mypyc.build import mypycify

    print(f"prefork: compiling {len(HOT_MODULES)} modules with mypyc")
    try:
        # One shared library for all, so that calls between them are calls of C functions. Its name is fixed: the
        # default is a hash of the files' names. No debug symbols: they are four fifths of the library.
        extensions = list(
            mypycify([*CHECKED, *HOT_MODULES], opt_level="3", debug_level="0", target_dir=SCRATCH, group_name="prefork")
        )
    except SystemExit:  # how mypycify reports, its findings are printed: a mypy that this source has not met yet
        if DEMANDED:
            raise
        print("prefork: plain Python build: this mypy does not take the source (see above)")
        return []
    for extension in extensions:
        # Nobody calls these functions by name: without that, each call between them could be one of another library's.
        extension.extra_compile_args.append("-fvisibility=hidden")
    return extensions


class BuildExtensions(build_ext):
    """Compiles, and where nobody demanded that, goes on without what the compiler will not take."""

    def run(self) -> None:
        """Compile all extension modules or none: one half of them would not load."""
        try:
            super().run()
        except (BaseError, CompileError, LinkError) as error:
            if DEMANDED:
                raise
            print(f"prefork: plain Python build: {error}")
            for name in self.get_outputs():
                Path(name).unlink(missing_ok=True)
            self.extensions.clear()


os.chdir(HERE)
# Built aside: from a build/ in the checkout setuptools would ship modules that are gone from the source, and a checkout
# that belongs to somebody else could not be installed from.
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
options: dict[str, Any] = {"options": {"build": {"build_base": SCRATCH}, "egg_info": {"egg_base": SCRATCH}}}
if wanted():
    # setuptools hands this on to pip (PEP 517, get_requires_for_build_wheel): mypy is fetched where there is a
    # compiler to feed, and nowhere else.
    options["setup_requires"] = [COMPILER_REQUIREMENT]
    if BUILDING.intersection(sys.argv):
        options |= {"ext_modules": compile_hot_modules(), "cmdclass": {"build_ext": BuildExtensions}}
setup(**options)
