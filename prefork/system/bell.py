"""An eventfd that others ring and the master silences."""

from __future__ import annotations

import contextlib
import os

__all__ = ["silence"]


def silence(descriptor: int) -> None:
    """Take what was rung, without ever waiting.

    O_NONBLOCK is not enough: that flag belongs to the open file, which everybody who may ring shares and may change.
    """
    try:
        os.preadv(descriptor, [bytearray(8)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
    except OSError:  # EOPNOTSUPP: an eventfd before Linux 5.8
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(descriptor)
