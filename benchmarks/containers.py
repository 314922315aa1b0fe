"""CPU time of a poll of the containers, compared with the bare reads of the same files.

    python benchmarks/containers.py                  fake trees of 10, 100 and 1,000 containers
    python benchmarks/containers.py --real 50        and 50 real containers (root, dockerd)
    python benchmarks/containers.py --check          exit 1 if a goal is missed

Both are measured in turns in one run, as CPU time of the thread, the minimum of many rounds: other
load slows both down. Between two rounds the files that change in a busy container (CPU, memory,
network, pressure) get new contents, so that the poll parses them as in reality. Goals: a poll takes
at most 4 times the bare `pread`s; ten times the containers take at most 11 times the CPU time (or
the growth of the bare reads: a thousand containers exceed the processor's caches); no descriptor
leaks.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from exporter.settings import Paths  # noqa: E402 - the tree above is found first
from exporter.sources.containers.cgroup.reader import CgroupReader  # noqa: E402 - as above
from exporter.sources.containers.engine.description import ContainerDescription  # noqa: E402 - as above
from tests.fakes.cgroup_trees import (  # noqa: E402 - as above
    NET_DEV,
    PSI,
    V1_STAT,
    V2_CPU,
    V2_STAT,
    Tree,
    description,
)

MAX_RATIO, MAX_GROWTH = 4.0, 11.0
ROUNDS = 15


def container(number: int) -> ContainerDescription:
    return description(f"{number:064x}", 5_000_000 + number, f"c{number}")


def build(tree: Tree, version: int, count: int) -> list[ContainerDescription]:
    """Creates a tree of `count` containers with all files of a recent kernel."""
    (tree.folder / "proc").mkdir(exist_ok=True)
    containers = []
    for number in range(count):
        new = container(number)
        path = f"docker/{new.id}"
        if version == 1:
            tree.v1_full(path)
            names = ("memory", "cpuacct", "cpu", "blkio", "pids")
            proc_cgroup = "".join(f"1:{name}:/{path}\n" for name in names)
        else:
            tree.v2_full(path)
            proc_cgroup = f"0::/{path}\n"
        tree.process(proc_cgroup, new.pid)
        containers.append(new)
    return containers


def change(tree: Tree, version: int, containers: list[ContainerDescription], turn: int) -> None:
    """Writes new contents to the files that change in a busy container."""
    for changed in containers:
        path = f"docker/{changed.id}"
        if version == 1:
            tree.write(f"cpuacct/{path}", {"cpuacct.usage": f"{10**9 + turn}\n"})
            tree.write(f"cpuacct/{path}", {"cpuacct.stat": f"user {100 + turn}\nsystem 23\n"})
            stat = V1_STAT.replace("total_rss 4096", f"total_rss {4096 + turn}")
            files = {"memory.stat": stat, "memory.usage_in_bytes": f"{10_000 + turn}\n"}
            tree.write(f"memory/{path}", files)
        else:
            pressure = PSI.format(1_500_000 + turn, 500_000)
            tree.write(
                path,
                {
                    "cpu.stat": V2_CPU.replace("1234567", str(1_234_567 + turn)),
                    "memory.stat": V2_STAT.replace("anon 4096", f"anon {4096 + turn}"),
                    "memory.current": f"{10_000 + turn}\n",
                    "cpu.pressure": pressure,
                    "io.pressure": pressure,
                },
            )
        tree.process_net(changed.pid, NET_DEV.replace(" 1000 ", f" {1000 + turn} "))


def cpu(call: Callable[[], object]) -> float:
    """Returns the CPU time of the call in seconds."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def open_files(reader: CgroupReader) -> list[tuple[int, int]]:
    """Returns descriptor and size of every read of one poll."""
    return [
        (opened.descriptor, opened.file.size)
        for files in reader._files.values()  # noqa: SLF001 - the measured files
        for opened in files._files or ()  # noqa: SLF001 - as above
    ]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def measure(
    paths: Paths, containers: list[ContainerDescription], between: Callable[[int], None]
) -> tuple[float, float, int]:
    """Returns the CPU seconds of a poll and of the bare reads, and their number of files."""
    before = descriptors()
    reader = CgroupReader(paths, max_open=1_000_000)
    sample = reader.read(containers, engine_responds=True)
    if sample.problems or len(sample.usages) != len(containers):
        raise SystemExit(f"not all can be read: {sample.problems[:1]} {len(sample.usages)}")
    files = open_files(reader)

    def bare() -> None:
        pread = os.pread
        for descriptor, size in files:
            pread(descriptor, size, 0)

    polls, reads = [], []
    gc.collect()
    gc.freeze()
    for turn in range(ROUNDS):
        between(turn)
        reads.append(cpu(bare))
        polls.append(cpu(lambda: reader.read(containers, engine_responds=True)))
    gc.unfreeze()
    reader.close()
    if descriptors() != before:
        raise SystemExit(f"{descriptors() - before} descriptors were left open")
    return min(polls), min(reads), len(files)


def fixtures(version: int, sizes: tuple[int, ...]) -> dict[int, tuple[float, float, int]]:
    """Measures fake trees of these sizes, in a tmpfs if available."""
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a temporary folder in it
    results = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=shared) as folder:
            tree = Tree(Path(folder))
            containers = build(tree, version, size)
            results[size] = measure(
                tree.paths,
                containers,
                lambda turn, tree=tree, containers=containers: change(  # type: ignore[misc]  # bound at once
                    tree, version, containers, turn
                ),  # type: ignore[misc]  # bound at once
            )
    return results


def real(count: int) -> tuple[float, float, int]:
    """Measures real containers with a little work each."""
    import msgspec  # noqa: PLC0415 - only here

    from exporter.sources.containers.engine.api_types import (  # noqa: PLC0415 - only here
        ContainerInspect,
        ContainerSummary,
    )
    from exporter.sources.containers.engine.description import describe_container  # noqa: PLC0415 - only here
    from tests.sources.containers.dockerd import Dockerd  # noqa: PLC0415 - only here

    command = ("sh", "-c", "while :; do cat /proc/self/stat >/dev/null; sleep 0.5; done")
    with Dockerd() as engine:
        for number in range(count):
            engine.run(f"bench{number}", command)
        with engine.client() as client:
            containers = [
                describe_container(
                    msgspec.convert(listed, ContainerSummary),
                    msgspec.convert(client.api.inspect_container(listed["Id"]), ContainerInspect),
                )
                for listed in client.api.containers()
            ]
        return measure(Paths(), containers, lambda _: time.sleep(1))


def main() -> None:
    """Measures and prints; with --check, exits with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="10,100,1000", help="sizes of the fake trees")
    parser.add_argument("--real", type=int, default=0, help="number of real containers")
    parser.add_argument("--check", action="store_true", help="exit 1 if a goal is missed")
    options = parser.parse_args()
    sizes = tuple(int(size) for size in options.sizes.split(","))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    missed = False
    heads = ("containers", "files", "poll ms", "bare ms", "ratio", "growth")
    print(f"{'':14}{''.join(f'{head:>11}' for head in heads)}")

    def show(
        name: str,
        size: int,
        result: tuple[float, float, int],
        growth: float | None,
        allowed: float,
    ) -> bool:
        poll, reads, files = result
        ratio = poll / reads
        text = f"{growth:11.1f}" if growth is not None else ""
        print(
            f"{name:14}{size:11}{files:11}{poll * 1e3:11.3f}{reads * 1e3:11.3f}{ratio:11.2f}{text}"
        )
        # With ten containers the fixed part of a poll dominates: checked from a hundred on.
        return (size >= 100 and ratio > MAX_RATIO) or (growth is not None and growth > allowed)

    for version in (1, 2):
        before: tuple[int, float, float] | None = None
        for size, result in fixtures(version, sizes).items():
            growth, allowed = None, MAX_GROWTH
            if before is not None:
                tenfold = size / before[0] / 10
                growth = result[0] / before[1] / tenfold
                allowed = max(MAX_GROWTH, result[1] / before[2] / tenfold)
            missed |= show(f"fake v{version}", size, result, growth, allowed)
            before = (size, result[0], result[1])
    if options.real:
        missed |= show("real", options.real, real(options.real), None, MAX_GROWTH)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"largest RSS of this process: {rss / 1024:.0f} MB")
    sys.exit(int(options.check and missed))


if __name__ == "__main__":
    main()
