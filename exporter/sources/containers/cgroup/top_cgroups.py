"""CPU and memory of the cgroups at the top of the hierarchy, such as /system.slice. Blocks.

They are no containers: only the dialect of cAdvisor exports them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from exporter.faults import Faults, FaultTotals
from exporter.kernel_file import read_kernel_file
from exporter.sources.containers.cgroup.files import CGROUP_FILES, USAGE_BUILDERS, CgroupFile
from exporter.sources.containers.cgroup.paths import CgroupVersion, cgroup_version, mount_point
from exporter.sources.containers.reading import NO_LIMITS, CgroupUsage

# Bounds of the folders that are read.
_MAX_CGROUPS, _MAX_ENTRIES, _MAX_NAME_BYTES = 64, 1000, 256
_MAX_FILE_BYTES = 1 << 16
_KEYS = ("cpuacct_usage", "cpuacct_stat", "cpu_stat", "memory", "memory_stat", "swap")


class TopCgroups:
    """Reads the cgroups at the top of the hierarchy below a root."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, faults: FaultTotals) -> list[CgroupUsage]:
        """Returns the usage of each; a file that cannot be read costs only its own values."""
        version = cgroup_version(self._root)
        if version is None:
            return []
        files = [file for file in CGROUP_FILES[version] if file.key in _KEYS]
        names = {name for folder in self._mounts(version) for name in _folders(folder)}
        return [
            self._usage(version, name, files, faults)
            for name in islice(sorted(names), _MAX_CGROUPS)
        ]

    def _mounts(self, version: CgroupVersion) -> Iterator[Path]:
        if version == 2:
            yield self._root
            return
        for controller in ("cpuacct", "memory"):
            if (mounted := mount_point(self._root, controller, controller)) is not None:
                yield mounted

    def _usage(
        self, version: CgroupVersion, name: str, files: list[CgroupFile], faults: FaultTotals
    ) -> CgroupUsage:
        values: dict[str, Any] = {}
        for file in files:
            mounted = mount_point(self._root, file.controller, file.controller)
            folder = self._root if version == 2 else mounted
            if folder is None:
                continue
            of_file = Faults()
            try:
                content = read_kernel_file(folder / name / file.name, _MAX_FILE_BYTES)
            except (OSError, ValueError):  # without the controller, or gone
                continue
            values[file.key] = file.parse(content, of_file)
            faults.add(file.name, of_file, f"{file.name} of cgroup /{name}")
        build = USAGE_BUILDERS[version]
        return CgroupUsage((f"/{name}",), build((), values, NO_LIMITS, str, True))


def _folders(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _MAX_ENTRIES):
                name = entry.name
                if len(name) <= _MAX_NAME_BYTES and entry.is_dir(follow_symlinks=False):
                    yield name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except OSError:
        return
