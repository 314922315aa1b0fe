"""Fake /sys and /proc trees with cgroup files, in a temporary folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporter.settings import Paths
from exporter.sources.containers.engine.description import ContainerDescription

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
PID = 4321

V2_CPU = (
    "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnice_usec 0\n"
    "nr_periods 0\nnr_throttled 0\nthrottled_usec 0\nnr_bursts 0\nburst_usec 0\n"
)
V2_STAT = (
    "anon 4096\nfile 8192\nfile_mapped 2048\nfile_dirty 500\nfile_writeback 400\n"
    "inactive_anon 4096\ninactive_file 3000\nactive_file 1000\npgfault 77\npgmajfault 7\n"
)
V1_STAT = (
    "cache 8192\nrss 1\ninactive_file 1\npgfault 1\ntotal_cache 8192\ntotal_rss 4096\n"
    "total_mapped_file 2048\ntotal_swap 512\ntotal_pgfault 77\ntotal_pgmajfault 7\n"
    "total_inactive_file 3000\ntotal_active_file 1000\ntotal_dirty 500\ntotal_writeback 400\n"
)
# Memory files that only newer kernels have.
V2_MEMORY = {
    "memory.swap.current": "512\n",
    "memory.peak": "20000\n",
    "memory.events": "low 0\nhigh 5\nmax 6\noom 2\noom_kill 1\noom_group_kill 0\n",
    "memory.swap.max": "max\n",
    "memory.low": "0\n",
}
V1_MEMORY = {
    "memory.max_usage_in_bytes": "20000\n",
    "memory.failcnt": "6\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "memory.soft_limit_in_bytes": "9223372036854771712\n",
}
PSI = (
    "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
)
V2_OTHERS = {
    "pids.current": "5\n",
    "pids.max": "100\n",
    "cgroup.procs": "11\n12\n13\n",
    "cpu.max": "max 100000\n",
    "cpu.pressure": PSI.format(1_500_000, 500_000),
    "memory.pressure": PSI.format(2_500_000, 125_000),
    "io.pressure": PSI.format(3_500_000, 250_000),
    "io.stat": (
        "8:0 rbytes=1000 wbytes=2000 rios=3 wios=4 dbytes=0 dios=0\n259:1 \n"
        "253:7 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n"
    ),
}
V1_BLKIO = {
    "blkio.throttle.io_service_bytes": (
        "8:0 Read 1000\n8:0 Write 2000\n8:0 Sync 3000\n8:0 Async 0\n8:0 Total 3000\n"
        "253:7 Read 10\n253:7 Write 20\nTotal 3030\n"
    ),
    "blkio.throttle.io_serviced": (
        "8:0 Read 3\n8:0 Write 4\n8:0 Total 7\n253:7 Read 1\n253:7 Write 2\nTotal 10\n"
    ),
}
NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0 \
0     0       0
  eth0:    1000      10    1    2    0     0          0         0     2000      20    3    4    0 \
0     0       0
veth12ab:    9       9    9    9    9     9          9         9        9       9    9    9    9 \
0     0       0
"""
# The largest signed 64-bit number, rounded down to pages of 4 and of 64 KiB.
V1_UNLIMITED = ("9223372036854771712\n", "9223372036854710272\n")


def description(key: str = ID, pid: int = PID, name: str = "one") -> ContainerDescription:
    return ContainerDescription(
        key, name, "image:1", "sha256:1", "", "", pid, 1.0, has_memory_limit=False
    )


@dataclass(frozen=True, slots=True)
class Tree:
    """A host's /sys and /proc."""

    folder: Path

    @property
    def paths(self) -> Paths:
        return Paths(sysfs=str(self.folder / "sys"), procfs=str(self.folder / "proc"))

    @property
    def root(self) -> Path:
        return self.folder / "sys" / "fs" / "cgroup"

    def write(self, folder: str, files: dict[str, str]) -> None:
        """Writes files into a folder below the cgroup root."""
        place = self.root / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name).write_bytes(text.encode())

    def process(self, cgroup: str, pid: int = PID, net: str | None = NET_DEV) -> None:
        """Writes /proc/PID/cgroup and net/dev."""
        place = self.folder / "proc" / str(pid)
        place.mkdir(parents=True, exist_ok=True)
        (place / "cgroup").write_bytes(cgroup.encode())
        if net is not None:
            (place / "net").mkdir(exist_ok=True)
            (place / "net" / "dev").write_bytes(net.encode())

    def process_net(self, pid: int, net: str) -> None:
        """Writes new counters of a process's network namespace."""
        (self.folder / "proc" / str(pid) / "net" / "dev").write_text(net)

    def device(self, number: str, name: str) -> None:
        """Adds a block device: a link in /sys/dev/block."""
        link = self.folder / "sys" / "dev" / "block" / number
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../devices/pci0000:00/block/{name}")

    def v2_full(self, path: str) -> None:
        """Adds a container with all files of a recent kernel."""
        self.v2(path)
        self.write(path, V2_MEMORY | V2_OTHERS)

    def v1_full(self, path: str) -> None:
        """Adds a container with all files of a recent kernel."""
        self.v1(path)
        self.write(f"cpuacct/{path}", {"cpuacct.stat": "user 100\nsystem 23\n"})
        self.write(f"memory/{path}", V1_MEMORY)
        self.write(f"blkio/{path}", V1_BLKIO)
        self.write(
            f"pids/{path}",
            {"pids.current": "5\n", "pids.max": "100\n", "cgroup.procs": "11\n12\n13\n"},
        )
        self.v1_quota(path, -1)

    def v1_quota(self, path: str, quota: int) -> None:
        """Sets a CPU quota in microseconds; -1 for none."""
        throttled = "nr_periods 40\nnr_throttled 10\nthrottled_time 2500000000\n"
        files = {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": "100000\n"}
        bursts = "nr_bursts 2\nburst_time 3000000000\n"
        self.write(f"cpu/{path}", files | {"cpu.stat": throttled + bursts})

    def v2(self, path: str, *, limit: str = "max\n", memory: bool = True) -> None:
        """Adds a container to a unified (cgroup v2) hierarchy."""
        self.write("", {"cgroup.controllers": "cpuset cpu io memory pids\n"})
        files = {"cpu.stat": V2_CPU}
        if memory:
            files |= {"memory.current": "10000\n", "memory.stat": V2_STAT, "memory.max": limit}
        self.write(path, files)

    def v1(
        self, path: str, *, cpu: str = "cpuacct", limit: str = V1_UNLIMITED[0], memory: bool = True
    ) -> None:
        """Adds a container to v1 hierarchies, beside systemd's empty unified hierarchy."""
        self.write(f"{cpu}/{path}", {"cpuacct.usage": "1234567000\n"})
        self.write("unified", {"cgroup.controllers": "\n"})
        if memory:
            files = {"memory.usage_in_bytes": "10000\n", "memory.stat": V1_STAT}
            self.write(f"memory/{path}", files | {"memory.limit_in_bytes": limit})
