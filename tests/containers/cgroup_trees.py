"""Trees of cgroup files as hosts have them, made under a temporary folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporter.settings import Paths
from exporter.sources.containers.replies import Identity

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
PID = 4321

V2_CPU = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 0\n"
V2_STAT = "anon 4096\nfile 8192\ninactive_anon 4096\nactive_file 1000\ninactive_file 3000\n"
V1_STAT = "cache 8192\ninactive_file 1\ntotal_cache 8192\ntotal_inactive_file 3000\n"
# The greatest 64-bit number, rounded down to pages of 4 and of 64 KiB.
V1_UNLIMITED = ("9223372036854771712\n", "9223372036854710272\n")


def identity(key: str = ID, pid: int = PID, name: str = "one") -> Identity:
    return Identity(key, name, "image:1", "sha256:1", "", "", pid, 1.0, limited=False)


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
        """Write files into a folder below the cgroup root."""
        place = self.root / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name).write_text(text)

    def process(self, memberships: str, pid: int = PID) -> None:
        """Write /proc/PID/cgroup."""
        place = self.folder / "proc" / str(pid)
        place.mkdir(parents=True, exist_ok=True)
        (place / "cgroup").write_text(memberships)

    def v2(self, path: str, *, limit: str = "max\n", memory: bool = True) -> None:
        """A unified hierarchy with one container's cgroup."""
        self.write("", {"cgroup.controllers": "cpuset cpu io memory pids\n"})
        files = {"cpu.stat": V2_CPU}
        if memory:
            files |= {"memory.current": "10000\n", "memory.stat": V2_STAT, "memory.max": limit}
        self.write(path, files)

    def v1(
        self, path: str, *, cpu: str = "cpuacct", limit: str = V1_UNLIMITED[0], memory: bool = True
    ) -> None:
        """Hierarchies by controller, and the unified one beside them that systemd keeps."""
        self.write(f"{cpu}/{path}", {"cpuacct.usage": "1234567000\n"})
        self.write("unified", {"cgroup.controllers": "\n"})
        if memory:
            files = {"memory.usage_in_bytes": "10000\n", "memory.stat": V1_STAT}
            self.write(f"memory/{path}", files | {"memory.limit_in_bytes": limit})
