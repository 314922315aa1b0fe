"""The readers of a container's kernel files, of cgroup v1 and v2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exporter.model import Reading
from exporter.sources.containers.cgroup.reader import CgroupReader
from exporter.sources.containers.metrics import METRICS
from tests.fakes.cgroup_trees import ID, PID, Tree, description
from tests.garbage.law import Fixture, Outcome, counters, series

PATH = f"docker/{ID}"
CONTROLLERS = ("memory", "cpuacct", "cpu", "blkio", "pids")
_RECURSIVE = ("io_service_bytes", "io_serviced")
# Lines that are not numbers of a series, and what depends on them.
_DEPENDS = {
    "cgroup.procs": (("", "container_processes"),),
    "tasks": (("", "container_threads"),),
    "cpu.max": (("", "container_spec_cpu_.*|container_cpu_cfs_.*"),),
    "cpu.cfs_quota_us": (("", "container_spec_cpu_.*|container_cpu_cfs_.*"),),
    "memory.max": (("", "container_spec_memory_.*"),),
    "cgroup": (("", "container_.*"),),
}
V1_LIMITS = {
    "memory.limit_in_bytes": "1000000\n",
    "memory.memsw.limit_in_bytes": "2000000\n",
    "memory.soft_limit_in_bytes": "500000\n",
}
_LIMITS = "container_spec_.*|container_threads_max|container_cpu_cfs_.*"


@dataclass(frozen=True, slots=True)
class Host:
    """A host with one container that has a value of everything, and cgroups below its own."""

    tree: Tree
    version: int

    def write(self) -> None:
        (self.tree.folder / "proc").mkdir(parents=True, exist_ok=True)
        for number, name in (("8:0", "sda"), ("253:7", "dm-7")):
            self.tree.device(number, name)
        if self.version == 1:
            self._write_v1()
        else:
            self._write_v2()

    def _write_v1(self) -> None:
        tree = self.tree
        tree.v1_full(PATH)
        tree.v1_quota(PATH, 50_000)
        tree.write(f"memory/{PATH}", V1_LIMITS)
        tree.write(f"pids/{PATH}/inside", {"cgroup.procs": "21\n22\n"})
        for name in _RECURSIVE:
            own = tree.root / "blkio" / PATH / f"blkio.throttle.{name}"
            own.rename(own.with_name(f"{own.name}_recursive"))
        tree.process("".join(f"{n}:{name}:/{PATH}\n" for n, name in enumerate(CONTROLLERS, 1)))

    def _write_v2(self) -> None:
        tree = self.tree
        tree.v2_full(PATH)
        throttled = (tree.root / PATH / "cpu.stat").read_text().replace("s 0\n", "s 40\n")
        limits = {
            "cpu.max": "50000 100000\n",
            "memory.max": "1000000\n",
            "memory.swap.max": "500000\n",
            "memory.low": "4096\n",
            "cpu.stat": throttled.replace("d 0\n", "d 10\n"),
        }
        tree.write(PATH, limits)
        tree.write(f"{PATH}/inside", {"cgroup.procs": "21\n22\n"})
        tree.process(f"0::/{PATH}\n")

    def files(self) -> Iterator[Path]:
        """Yields the files of the container."""
        folders = [self.tree.root, self.tree.folder / "proc" / str(PID)]
        for folder in folders:
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.name != "cgroup.controllers":
                    yield file

    def read(self, file: Path, intact: bytes, content: bytes) -> Outcome:
        file.write_bytes(content)
        reader = CgroupReader(self.tree.paths, 100)
        try:
            sample = reader.read([description()], engine_responds=True)
        finally:
            reader.close()
            file.write_bytes(intact)
        reading = Reading(tuple(sample.usages.values()))
        return Outcome(series(METRICS, reading), sample.problems)


def fixtures(folder: Path) -> Iterator[Fixture]:
    """Yields a fixture for each file; of two hosts with the same file, for that of the first."""
    known: set[tuple[int, Path, bytes]] = set()
    for host in hosts(folder):
        host.write()
        for file in host.files():
            intact = file.read_bytes()
            identity = (host.version, file.relative_to(host.tree.folder), intact)
            if identity in known:
                continue
            known.add(identity)
            yield Fixture(
                f"cgroup v{host.version}: {file.name}",
                intact,
                partial(host.read, file, intact),
                counters(METRICS),
                counted="container_(processes|threads)",
                depends=_DEPENDS.get(file.name, ()),
                silent=_LIMITS if file.name != "cgroup" else ".*",
            )


def hosts(folder: Path) -> Iterator[Host]:
    """Yields a host on v1, one on v2, and one on v1 without pids, with the files of old kernels."""
    for version in (1, 2):
        yield Host(Tree(folder / f"v{version}"), version)
    yield OldHost(Tree(folder / "old"), 1)


@dataclass(frozen=True, slots=True)
class OldHost(Host):
    """A host whose kernel is older than 4.17 and has no controller `pids`."""

    def _write_v1(self) -> None:
        tree = self.tree
        tree.v1_full(PATH)
        tree.write(f"memory/{PATH}", V1_LIMITS)
        tree.write(f"cpuacct/{PATH}", {"cgroup.procs": "11\n12\n", "tasks": "11\n12\n13\n"})
        tree.write(f"cpuacct/{PATH}/inside", {"cgroup.procs": "21\n", "tasks": "21\n22\n"})
        own = (tree.root / "blkio" / PATH / "blkio.throttle.io_serviced").read_text()
        tree.write(f"blkio/{PATH}/inside", {"blkio.throttle.io_serviced": own})
        for file in (tree.root / "pids" / PATH).iterdir():
            file.unlink()
        (tree.root / "pids" / PATH).rmdir()
        names = [name for name in CONTROLLERS if name != "pids"]
        tree.process("".join(f"{n}:{name}:/{PATH}\n" for n, name in enumerate(names, 1)))
