"""The benchmarks are part of the checkout, not of what is installed: found here, and behind everything else."""

from __future__ import annotations

import sys

from harness import REPOSITORY

if str(REPOSITORY) not in sys.path:
    sys.path.append(str(REPOSITORY))
