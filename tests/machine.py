"""What not every machine has that runs the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["HAS_IPV6"]

_ADDRESSES: Final = Path("/proc/net/if_inet6")

HAS_IPV6: Final = _ADDRESSES.exists() and _ADDRESSES.read_text() != ""
"""Whether it has an address of that kind, be it the loopback's: many a container has none."""
