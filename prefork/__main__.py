"""``python -m prefork``: the same as ``prefork-serve``."""

from __future__ import annotations

import sys

from prefork.cli.serve import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
