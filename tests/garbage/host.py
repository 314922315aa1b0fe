"""The host's readers: kernel files, mounts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from exporter.errors import SourceError
from exporter.faults import Faults, FaultTotals
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.host.filesystems import FilesystemsTarget
from exporter.sources.host.kernel import Kernel
from exporter.sources.host.metrics import METRICS
from exporter.sources.host.settings import Settings
from tests.fakes.procfs import FILES, make_tree
from tests.garbage.law import Fixture, Outcome, counters, series

# For each file, the metrics that depend on its lines beyond their numbers and labels.
_DEPENDS: dict[str, tuple[tuple[str, str], ...]] = {
    "stat": ((r"^cpu\d", "host_cpus"), (r"^btime", "host_boot_time_seconds")),
}
STATVFS = os.statvfs_result((4096, 1024, 1000, 600, 500, 200, 150, 150, 0, 255))


def fixtures(folder: Path) -> Iterator[Fixture]:
    """Yields a fixture for each file."""
    root = make_tree(folder / "proc")
    for name, content in FILES.items():
        if name == "1/mountinfo":
            read = partial(_read_mounts, folder, root / name)
        elif name == "net/dev":  # of the reader's own namespace: not read here
            continue
        else:
            read = partial(_read_kernel, root, root / name, content.encode())
        yield Fixture(
            f"host: {name}",
            content.encode(),
            read,
            counters(METRICS),
            counted="host_cpus" if name == "stat" else "nothing",
            depends=_DEPENDS.get(name, ()),
        )


def _read_kernel(root: Path, file: Path, intact: bytes, content: bytes) -> Outcome:
    file.write_bytes(content)
    try:
        reading = Kernel(str(root), Settings(disk_exclude="", network_exclude="")).read()
    except SourceError as error:
        return Outcome({}, (error,), error)
    finally:
        file.write_bytes(intact)
    return Outcome(series(METRICS, reading), reading.problems)


def _read_mounts(folder: Path, file: Path, content: bytes) -> Outcome:
    file.write_bytes(content)
    target = FilesystemsTarget(
        Settings(),
        Paths(procfs=str(folder / "proc"), rootfs="/nowhere"),
        lambda _: STATVFS,
        lambda _path, _number: True,
    )
    faults, impossible = Faults(), Faults()
    done: list[tuple[object, object]] = []
    try:
        mounts = target._list_mounts(faults)
    except SourceError as error:
        return Outcome({}, (error,), error)
    finally:
        target.close()
    target._call_statvfs(mounts, done, [], impossible)  # type: ignore[arg-type]  # rows
    totals = FaultTotals()
    totals.add("mountinfo", faults)
    rows = {row.labels: row for _, row in done}  # type: ignore[attr-defined]  # of Filesystem
    reading = Reading(tuple(rows.values()))  # type: ignore[arg-type]  # as above
    return Outcome(series(METRICS, reading), totals.problems())
