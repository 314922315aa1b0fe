"""What a container uses, and how to read it out of cgroup files: pure functions over bytes."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.errors import BadData

# cgroup v1 has no word for `no limit`: it shows the greatest signed 64-bit number, rounded down
# to a page (4 to 64 KiB).
_UNLIMITED_V1 = (1 << 63) - (1 << 16)
_GREATEST = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since the start; bytes of memory. None where the kernel does not tell.

    same_start: False where the container was started again since the engine described it.
    """

    cpu: float | None
    memory: int | None
    working_set: int | None
    memory_limit: int | None
    same_start: bool = True


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one version of cgroups, and what is where in them."""

    cpu: str
    cpu_key: bytes | None
    cpu_per_second: int
    memory: str
    memory_limit: str
    memory_stat: str
    inactive_key: bytes


V1 = Files(
    cpu="cpuacct.usage",
    cpu_key=None,
    cpu_per_second=1_000_000_000,
    memory="memory.usage_in_bytes",
    memory_limit="memory.limit_in_bytes",
    memory_stat="memory.stat",
    inactive_key=b"total_inactive_file",
)
V2 = Files(
    cpu="cpu.stat",
    cpu_key=b"usage_usec",
    cpu_per_second=1_000_000,
    memory="memory.current",
    memory_limit="memory.max",
    memory_stat="memory.stat",
    inactive_key=b"inactive_file",
)


def whole(data: bytes) -> int:
    """A file that is one number. Raises BadData."""
    text = data.strip()
    if not text.isdigit() or len(text) > 20 or (number := int(text)) > _GREATEST:
        raise BadData(f"{data[:40]!r} is not a count")
    return number


def keyed(data: bytes, key: bytes) -> int | None:
    """The number behind a key in a file of `key number` lines; None without it. Raises BadData."""
    data = b"\n" + data
    start = data.find(b"\n" + key + b" ")
    if start < 0:
        return None
    start += len(key) + 2
    end = data.find(b"\n", start)
    return whole(data[start : end if end >= 0 else None])


def limit(data: bytes) -> int | None:
    """A limit; None where there is none (`max`, or v1's greatest number). Raises BadData."""
    if data.strip() == b"max" or (number := whole(data)) >= _UNLIMITED_V1:
        return None
    return number


def usage(
    files: Files,
    cpu: bytes | None,
    memory: bytes | None,
    memory_stat: bytes | None,
    memory_limit: bytes | None,
) -> Usage:
    """Put together the contents of the files; None for one that is not there. Raises BadData."""
    ticks: int | None = None
    if cpu is not None:
        ticks = whole(cpu) if files.cpu_key is None else keyed(cpu, files.cpu_key)
    used = whole(memory) if memory is not None else None
    inactive = keyed(memory_stat, files.inactive_key) if memory_stat is not None else None
    return Usage(
        cpu=ticks / files.cpu_per_second if ticks is not None else None,
        memory=used,
        working_set=working_set(used, inactive),
        memory_limit=limit(memory_limit) if memory_limit is not None else None,
    )


def working_set(used: int | None, inactive: int | None) -> int | None:
    """Memory less inactive page cache. Never below 0: the two are read one after the other."""
    return max(0, used - inactive) if used is not None and inactive is not None else None
