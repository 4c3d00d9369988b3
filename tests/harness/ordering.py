"""The real preforkctl, run to its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from harness.processes import run

__all__ = ["control"]

_PROGRAM: Final = "import sys; from prefork.cli.control import main; sys.exit(main())"


def control(folder: Path, *words: str, status: int = 0, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """preforkctl in a folder, told these words; it has to end with ``status``."""
    done = run(sys.executable, "-c", _PROGRAM, *words, folder=folder, timeout=timeout)
    assert done.returncode == status, f"preforkctl {' '.join(words)} ended with {done.returncode}: {done.stderr}"
    return done
