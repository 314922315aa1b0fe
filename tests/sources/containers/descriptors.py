"""The open cgroup files of this process."""

from __future__ import annotations

import contextlib
from pathlib import Path


def cgroup_descriptors(below: Path = Path("/")) -> int:
    """Returns the number of open cgroup files and net/dev below the folder, as of one test."""
    targets = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, as the one of the iteration
            targets.append(str(entry.readlink()))
    return sum(
        target.startswith(str(below)) and ("/cgroup/" in target or "/net/dev" in target)
        for target in targets
    )
