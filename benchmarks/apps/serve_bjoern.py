"""bjoern has no command of its own: ``python serve_bjoern.py MODULE SOCKET``."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    bjoern = importlib.import_module("bjoern")
    bjoern.run(importlib.import_module(sys.argv[1]).application, f"unix:{sys.argv[2]}")
