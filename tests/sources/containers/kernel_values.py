"""A container's values in kernel files, read independently of the code under test."""

from __future__ import annotations

from pathlib import Path

from docker.models.containers import Container

ROOT = Path("/sys/fs/cgroup")


def cgroup(container: Container, controller: str) -> Path:
    """Returns the container's folder in the controller's v1 hierarchy, or in the v2 hierarchy."""
    for path in (f"docker/{container.id}", f"libpod_parent/libpod-{container.id}"):
        if (folder := ROOT / controller / path).is_dir():
            return folder
    return next(path for path in ROOT.glob(f"**/*{container.id}*") if "conmon" not in path.name)


def cpu_seconds(container: Container) -> float:
    """Returns the CPU time in seconds."""
    folder = cgroup(container, "cpuacct")
    if (folder / "cpuacct.usage").exists():
        return int((folder / "cpuacct.usage").read_text()) / 1e9
    return int((folder / "cpu.stat").read_text().split()[1]) / 1e6


def memory(container: Container) -> int:
    """Returns the memory usage in bytes."""
    folder = cgroup(container, "memory")
    v1 = folder / "memory.usage_in_bytes"
    return int((v1 if v1.exists() else folder / "memory.current").read_text())


def inactive_file(container: Container) -> int:
    """Returns the inactive page cache in bytes."""
    text = (cgroup(container, "memory") / "memory.stat").read_text()
    numbers = dict(line.split() for line in text.splitlines())
    return int(numbers.get("total_inactive_file", numbers["inactive_file"]))


def received(pid: int) -> int:
    """Returns the bytes received by eth0 of the process's network namespace."""
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        if line.strip().startswith("eth0:"):
            return int(line.split(":")[1].split()[0])
    raise AssertionError("no eth0")
