"""Small files of the kernel's: read whole, or not there."""

from __future__ import annotations

import os

_LONGEST = 65536


def small_file(path: str) -> str | None:
    """The beginning of a small file; None where it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, _LONGEST).decode(errors="replace")
        finally:
            os.close(file)
    except OSError:
        return None
