"""The real preforkctl."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from harness.processes import run, started

__all__ = ["control", "ordering"]

_PROGRAM: Final = "import sys; from prefork.cli.control import main; sys.exit(main())"


def control(folder: Path, *words: str, status: int = 0, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """preforkctl in a folder, told these words, to its end; that has to be with ``status``."""
    done = run(sys.executable, "-c", _PROGRAM, *words, folder=folder, timeout=timeout)
    assert done.returncode == status, f"preforkctl {' '.join(words)} ended with {done.returncode}: {done.stderr}"
    return done


def ordering(folder: Path, *words: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """preforkctl in a folder, told these words, begun; it is ended with the block."""
    return started(sys.executable, "-c", _PROGRAM, *words, folder=folder)
