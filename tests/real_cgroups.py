"""Cgroups of the host's kernel, removed at the end, also those of a test run that was killed."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.parts import missing
from tests.waiting import until

ROOT = Path("/sys/fs/cgroup")
_PREFIX = "exporter-test"


def cgroup_tree() -> Path:
    """Returns the root of the hierarchy in which containers are searched: v2's, or cpuacct's."""
    return ROOT if (ROOT / "cgroup.controllers").exists() else ROOT / "cpuacct"


@contextlib.contextmanager
def cgroup_folder() -> Iterator[Path]:
    """Creates a folder in the tree, for cgroups of this test; removes it with all in it."""
    tree = cgroup_tree()
    folder = tree / f"{_PREFIX}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        for left in tree.glob(f"{_PREFIX}-*"):
            if not Path(f"/proc/{left.name.split('-')[2]}").exists():
                remove_cgroup(left)
        folder.mkdir()
    except OSError as error:
        missing(f"no cgroup can be created: {error}")
    try:
        yield folder
    finally:
        until(lambda: remove_cgroup(folder), f"{folder} to be removable", seconds=60)


def remove_cgroup(folder: Path) -> bool:
    """Removes a cgroup and those in it; returns False while one of them is busy."""
    for path, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(path)  # noqa: PTH106 - a third of the time of Path.rmdir
        except OSError:
            return False
    return True


def create_cgroups(folder: Path, count: int) -> None:
    """Creates that many cgroups in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        os.mkdir(f"{folder}/{number}")  # noqa: PTH102 - a third of the time of Path.mkdir
