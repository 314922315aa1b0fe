"""Finding and reading cgroups in file trees: v1 and v2, by cgroup driver and special case."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import LeftOut
from exporter.faults import Faults
from exporter.sources.containers.cgroup import parsers
from exporter.sources.containers.cgroup.open_files import LIMITS_INTERVAL
from exporter.sources.containers.cgroup.paths import cgroup_version
from exporter.sources.containers.cgroup.reader import (
    CgroupReader,
    CgroupSample,
    missing_cgroup_problems,
)
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.network_namespaces import NetworkNamespaces
from exporter.sources.containers.reading import (
    ContainerPressure,
    ContainerUsage,
    DeviceIo,
    Interface,
    Network,
    ResourceLimits,
)
from tests.fakes.cgroup_trees import (
    ID,
    OTHER,
    PID,
    V1_UNLIMITED,
    V2_CPU,
    V2_STAT,
    Tree,
    description,
)

SCOPE = f"system.slice/docker-{ID}.scope"
LABELS = ("one", "image:1")
BOTH = ContainerUsage(
    LABELS,
    cpu_usage=1.234567,
    memory=10_000,
    working_set=7_000,
    rss=4096,
    cache=8192,
    mapped_file=2048,
    inactive_file=3000,
    active_file=1000,
    dirty_file=500,
    writeback_file=400,
    page_faults=77,
    major_page_faults=7,
    spec=ResourceLimits(),
)
V2_EXPECTED = replace(BOTH, cpu_user=1.0, cpu_system=0.234567)
V1_EXPECTED = replace(BOTH, swap=512)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "proc").mkdir()
    return Tree(tmp_path)


def sample(tree: Tree, max_open: int = 100) -> CgroupSample:
    reader = CgroupReader(tree.paths, max_open)
    try:
        return reader.read([description()], engine_responds=True)
    finally:
        reader.close()


def v2(path: str, proc_path: str | None = None) -> Callable[[Tree], None]:
    def make(tree: Tree) -> None:
        tree.v2(path)
        tree.process(f"0::/{path if proc_path is None else proc_path}\n")

    return make


def v1(path: str, cpu: str = "cpuacct", listed: str = "cpuacct") -> Callable[[Tree], None]:
    def make(tree: Tree) -> None:
        tree.v1(path, cpu=cpu)
        controllers = ("name=systemd", "memory", listed, "blkio", "pids", "")
        more = () if "," in listed else ("cpu",)
        tree.process("".join(f"1:{name}:/{path}\n" for name in (*controllers, *more)))

    return make


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(v2(f"docker/{ID}"), id="v2 cgroupfs"),
        pytest.param(v2(SCOPE), id="v2 systemd"),
        pytest.param(v2(f"a.slice/a-b.slice/docker-{ID}.scope"), id="v2 systemd nested slice"),
        pytest.param(v2(SCOPE, f"{SCOPE}/init"), id="v2 process deeper than the container"),
        pytest.param(
            v2(f"machine.slice/libpod-{ID}.scope", f"machine.slice/libpod-{ID}.scope/container"),
            id="v2 podman",
        ),
        pytest.param(
            v2(f"system.slice/docker-{OTHER}.scope/docker/{ID}"), id="v2 docker in docker"
        ),
        pytest.param(v1(f"docker/{ID}"), id="v1 cgroupfs"),
        pytest.param(v1(SCOPE), id="v1 systemd"),
        pytest.param(v1(SCOPE, "cpu,cpuacct", "cpu,cpuacct"), id="v1 joined controllers"),
        pytest.param(v1(SCOPE, "cpuacct", "cpu,cpuacct"), id="v1 joined, mounted by one name"),
        pytest.param(v2(SCOPE, "../../docker/elsewhere"), id="v2 private namespace"),
        pytest.param(v2(SCOPE, ""), id="v2 own root"),
        pytest.param(v2(SCOPE, f"docker/{OTHER}"), id="v2 reused PID"),
    ],
)
def test_cgroups_are_found_and_read(tree: Tree, make: Callable[[Tree], None]) -> None:
    make(tree)
    result = sample(tree)
    assert result.problems == ()
    assert result.missing == frozenset()
    assert result.usages[ID] == replace(
        V1_EXPECTED if result.usages[ID].cpu_user is None else V2_EXPECTED,
        interfaces=result.usages[ID].interfaces,
    )


def test_without_proc_the_tree_is_searched_once(tree: Tree) -> None:
    tree.v2(SCOPE)
    tree.write(f"machine.slice/libpod-conmon-{OTHER}.scope", {"cpu.stat": V2_CPU})
    reader = CgroupReader(tree.paths, 100)
    both = [description(), description(OTHER, PID + 1, "other")]
    result = reader.read(both, engine_responds=True)
    assert result.usages == {ID: V2_EXPECTED}
    assert result.missing == {OTHER}  # Podman's monitor is not the container
    tree.write(f"docker/{OTHER}", {"cpu.stat": V2_CPU})
    assert reader.read(both, engine_responds=True).missing == {OTHER}  # no second walk for it
    restarted = [description(), description(OTHER, PID + 2, "other")]
    assert set(reader.read(restarted, engine_responds=True).usages) == {ID, OTHER}
    assert [problem.kind for problem in missing_cgroup_problems(both, result.missing)] == [
        "not_found"
    ]
    reader.close()


def test_the_version_is_detected_by_the_file_system(tree: Tree) -> None:
    assert cgroup_version(tree.root) is None
    tree.v1("docker")
    assert cgroup_version(tree.root) == 1  # despite `unified`, and `0::` lines
    tree.write("", {"cgroup.controllers": "\n"})
    assert cgroup_version(tree.root) == 2


@pytest.mark.parametrize(
    ("limit", "expected"),
    [*((text, None) for text in V1_UNLIMITED), ("9223372036854775807\n", None), ("4096\n", 4096)],
)
def test_limit_of_v1(tree: Tree, limit: str, expected: int | None) -> None:
    tree.v1(f"docker/{ID}", limit=limit)
    assert sample(tree).usages[ID].spec == ResourceLimits(memory=expected)


@pytest.mark.parametrize(("limit", "expected"), [("max\n", None), ("67108864\n", 67_108_864)])
def test_limit_of_v2(tree: Tree, limit: str, expected: int | None) -> None:
    tree.v2(SCOPE, limit=limit)
    assert sample(tree).usages[ID].spec == ResourceLimits(memory=expected)


@pytest.mark.parametrize("version", [1, 2])
def test_without_a_memory_controller_there_is_no_memory(tree: Tree, version: int) -> None:
    if version == 1:
        tree.v1(SCOPE, memory=False)
    else:
        tree.v2(SCOPE, memory=False)
    result = sample(tree)
    used = result.usages[ID]
    assert (used.cpu_usage, used.memory, used.working_set) == (1.234567, None, None)
    assert result.problems == ()


def test_the_working_set_is_never_below_zero(tree: Tree) -> None:
    tree.v2(SCOPE)
    tree.write(SCOPE, {"memory.current": "2999\n"})
    assert sample(tree).usages[ID].working_set == 0


@pytest.mark.parametrize(
    ("name", "text", "lost"),
    [
        ("cpu.stat", "usage_usec -5\nuser_usec 1000000\nsystem_usec 234567\n", ["cpu_usage"]),
        ("cpu.stat", V2_CPU.replace("234567\n", f"{2**64 - 5}\n", 1), ["cpu_usage"]),
        ("memory.current", "", ["memory", "working_set"]),
        ("memory.current", "1.5e9\n", ["memory", "working_set"]),
        ("memory.stat", V2_STAT.replace("3000", "x"), ["inactive_file", "working_set"]),
        ("memory.stat", V2_STAT.replace("8192", str(2**64 - 4096)), ["cache"]),
        ("memory.max", "many\n", []),
    ],
)
def test_one_strange_value_costs_that_value(
    tree: Tree, name: str, text: str, lost: list[str]
) -> None:
    tree.v2(SCOPE)
    tree.write(SCOPE, {name: text})
    result = sample(tree)
    assert [type(problem) for problem in result.problems] == [LeftOut]
    assert f"{name} of container one" in result.problems[0].message
    nothing: dict[str, Any] = dict.fromkeys(lost)
    assert result.usages == {ID: replace(V2_EXPECTED, **nothing)}


ODD_FILES: dict[str, tuple[Callable[[bytes, Faults], Any], bytes, Any]] = {
    # green-metrics-tool#1837: read while the cgroup was created.
    "io.stat without figures": (parsers.io_stat, b"252:0 ", ()),
    "io.stat with io.cost and io.latency": (
        parsers.io_stat,
        (
            b"8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0 cost.vrate=100.00"
            b" cost.usage=12 use_delta=3 delay_nsec=9 depth=max avg_lat=2 win=100\n"
        ),
        (DeviceIo("8:0", 4096, 0, 1, 0),),
    ),
    # runc#1844.
    "cpuacct.stat with another line": (
        parsers.cpuacct_stat(100),
        b"user 8634978\nsystem 11319890\nnr_migrations 258883801\n",
        (86349.78, 113198.9),
    ),
    # pcp#85.
    "no limit on an old kernel": (parsers.limit, b"18446744073709551615\n", None),
    # cgroups-rs#109.
    "blkio with discards": (
        parsers.blkio_throttle,
        (
            b"253:1 Read 0\n253:1 Write 348160\n253:1 Sync 0\n253:1 Async 348160\n253:1 Discard 7\n"
            b"253:1 Total 348160\nTotal 348160\n"
        ),
        {"253:1": parsers.BlkioCounts(0, 348160)},
    ),
}


@pytest.mark.parametrize("case", ODD_FILES)
def test_odd_files_are_read(case: str) -> None:
    """As other people's kernels wrote them."""
    parse, data, right = ODD_FILES[case]
    faults = Faults()
    assert parse(data, faults) == right
    assert faults.count == 0


def test_a_missing_key_is_none() -> None:
    parse = parsers.flat_keyed("inactive_file")
    assert parse(b"inactive_file_x 5\nactive_inactive_file 6\n", Faults()) == (None,)
    assert parse(b"inactive_file 7", Faults()) == (7,)


ORDERS = list(itertools.permutations((b"a 1\n", b"b 2\n", b"aa 3\n", b"ba 4\n")))


@pytest.mark.parametrize("order", ORDERS)
def test_keys_are_found_in_any_order(order: tuple[bytes, ...]) -> None:
    data = b"".join(order)
    faults = Faults()
    assert parsers.flat_keyed("a", "b", "aa", "none", "ba")(data, faults) == (1, 2, 3, None, 4)
    backwards = parsers.flat_keyed("ba", "none", "aa", "b", "a")
    assert backwards(data.rstrip(), faults) == (4, None, 3, 2, 1)
    assert not faults.count


def test_a_parser_keeps_no_state() -> None:
    keyed = parsers.flat_keyed("a", "b")

    def parse(data: bytes, faulty: int = 0) -> tuple[int | None, ...]:
        faults = Faults()
        numbers = keyed(data, faults)
        assert faults.count == faulty
        return numbers

    assert parse(b"") == (None, None)
    assert parse(b"a 1\nb 2\n") == (1, 2)
    assert parse(b"a 3\nb 4\n") == (3, 4)
    assert parse(b"b 5\na 6\n") == (6, 5)
    assert parse(b"a 7\n") == (7, None)
    assert parse(b"a 7\nb") == (7, None)
    assert parse(b"c\na 8\nd 1 2\nb 9\n") == (8, 9)
    assert parse(b"c\na 10\nd 1 2\nb 11\n") == (10, 11)
    assert parse(b"a 1\nb 9223372036854775807\n") == (1, 2**63 - 1)
    assert parse(b"a 1\r\nb 2\r\n") == (1, 2)
    assert parse(b"") == (None, None)
    for wrong in (b"x", b"-1", b"1_0", b"9223372036854775808", b"18446744073709551615", b"\xff"):
        assert parse(b"a 1\nb %b\n" % wrong, 1) == (1, None)
        assert parse(b"a %b\nb 1\n" % wrong, 1) == (None, 1)


@pytest.mark.parametrize("version", [1, 2])
def test_changed_block_io_is_read_again(tree: Tree, version: int) -> None:
    path = f"docker/{ID}"
    if version == 1:
        tree.v1_full(path)
        tree.process("".join(f"1:{name}:/{path}\n" for name in ("memory", "cpuacct", "blkio")))
    else:
        tree.v2_full(path)
        tree.process(f"0::/{path}\n")
    reader = CgroupReader(tree.paths, 100)

    def io() -> tuple[DeviceIo, ...]:
        (result,) = reader.read([description()], engine_responds=True).usages.values()
        return result.io

    first = io()
    assert (first[0].reads_bytes, first[0].reads) == (1000, 3)
    assert io() == first
    if version == 1:
        folder = f"blkio/{path}"
        tree.write(folder, {"blkio.throttle.io_serviced": "8:0 Read 5\n8:0 Write 6\n"})
        assert (io()[0].reads_bytes, io()[0].reads, io()[0].writes) == (1000, 5, 6)
        tree.write(folder, {"blkio.throttle.io_service_bytes": "8:0 Read 7\n8:0 Write 8\n"})
        assert (io()[0].reads_bytes, io()[0].writes_bytes, io()[0].reads) == (7, 8, 5)
    else:
        tree.write(path, {"io.stat": "8:0 rbytes=7 wbytes=8 rios=5 wios=6\n"})
        assert (io()[0].reads_bytes, io()[0].writes_bytes, io()[0].reads) == (7, 8, 5)
    assert len(io()) == 1
    reader.close()


def test_open_files_are_bounded(tree: Tree) -> None:
    tree.v2(SCOPE)
    tree.v2(f"docker/{OTHER}")
    reader = CgroupReader(tree.paths, 5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    both = [description(), description(OTHER, 1, "other")]
    for _ in range(3):
        assert reader.read(both, engine_responds=True).usages.keys() == {ID, OTHER}
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 3
    assert set(reader.read(both[1:], engine_responds=True).usages) == {OTHER}
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 3  # the freed budget is reused
    reader.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_files_that_cannot_be_opened_are_a_problem(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.v2(SCOPE)

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    result = sample(tree)
    assert [problem.kind for problem in result.problems] == ["unreachable"]
    assert "ulimit" in result.problems[0].remedy
    assert result.usages == {}


FULL = replace(
    BOTH,
    swap=512,
    peak=20_000,
    limit_hits=6,
    oom_kills=1,
    processes=3,
    threads=5,
    io=(DeviceIo("/dev/sda", 1000, 2000, 3, 4), DeviceIo("253:7", 10, 20, 1, 2)),
    interfaces=(
        Interface(
            "eth0",
            receive_bytes=1000,
            receive_packets=10,
            receive_errors=1,
            receive_packets_dropped=2,
            transmit_bytes=2000,
            transmit_packets=20,
            transmit_errors=3,
            transmit_packets_dropped=4,
        ),
    ),
)
V2_FULL = replace(
    FULL,
    cpu_user=1.0,
    cpu_system=0.234567,
    high_events=5,
    pressure=(
        ContainerPressure("cpu", 1.5, 0.5),
        ContainerPressure("memory", 2.5, 0.125),
        ContainerPressure("io", 3.5, 0.25),
    ),
    spec=ResourceLimits(cpu_period=100_000, threads=100),
)
V1_FULL = replace(
    FULL, cpu_user=1.0, cpu_system=0.23, spec=ResourceLimits(cpu_period=100_000, threads=100)
)


@pytest.mark.parametrize("version", [1, 2])
def test_every_file_is_read(tree: Tree, version: int) -> None:
    tree.device("8:0", "sda")
    if version == 1:
        v1(SCOPE)(tree)
        tree.v1_full(SCOPE)
    else:
        v2(SCOPE)(tree)
        tree.v2_full(SCOPE)
    result = sample(tree)
    assert result.problems == ()
    assert result.usages == {ID: V1_FULL if version == 1 else V2_FULL}


def test_throttling_is_read_if_a_quota_is_set(tree: Tree) -> None:
    v1(SCOPE)(tree)
    tree.v1_full(SCOPE)
    tree.v1_quota(SCOPE, 50_000)
    used = sample(tree).usages[ID]
    assert used.cfs == (40, 10, 2.5, 2, 3.0)
    assert used.spec == ResourceLimits(cpu_quota=50_000, cpu_period=100_000, threads=100)
    tree.write("", {"cgroup.controllers": "cpu memory\n"})
    text = V2_CPU.replace("nr_periods 0", "nr_periods 40").replace(
        "nr_throttled 0", "nr_throttled 10"
    )
    tree.v2_full(f"docker/{ID}")
    tree.process(f"0::/docker/{ID}\n")
    tree.write(f"docker/{ID}", {"cpu.stat": text.replace("led_usec 0", "led_usec 2500000")})
    assert sample(tree).usages[ID].cfs is None  # counted, but no quota is set
    limits = {"cpu.max": "50000 100000\n", "memory.max": "4096\n", "memory.swap.max": "1024\n"}
    tree.write(f"docker/{ID}", limits | {"memory.low": "2048\n"})
    used = sample(tree).usages[ID]
    assert used.cfs == (40, 10, 2.5, 0, 0.0)
    assert used.spec == ResourceLimits(4096, 5120, 2048, 50_000, 100_000, 100)


def test_changed_limits_are_read_after_an_inspect_and_periodically(tree: Tree) -> None:
    v1(SCOPE)(tree)
    tree.v1_full(SCOPE)
    now = 1000.0
    reader = CgroupReader(tree.paths, 100, lambda: now)
    container = description()

    def read(container: ContainerDescription) -> ContainerUsage:
        return reader.read([container], engine_responds=True).usages[ID]

    assert read(container).cfs is None
    tree.v1_quota(SCOPE, 50_000)
    assert read(container).cfs is None
    assert read(description()).cfs is not None  # as after `docker update`
    tree.v1_quota(SCOPE, -1)
    now += 2 * LIMITS_INTERVAL
    assert read(description()).cfs is None  # as without an event
    reader.close()


def test_only_changed_files_are_parsed_and_every_change_is(tree: Tree) -> None:
    v2(SCOPE)(tree)
    tree.v2_full(SCOPE)
    reader = CgroupReader(tree.paths, 100)
    container = description()
    first = reader.read([container], engine_responds=True).usages[ID]
    assert reader.read([container], engine_responds=True).usages[ID] == first
    tree.write(SCOPE, {"cpu.stat": V2_CPU.replace("1234567", "2234567"), "pids.current": "6\n"})
    second = reader.read([container], engine_responds=True).usages[ID]
    assert second == replace(first, cpu_usage=2.234567, threads=6)
    reader.close()


def test_thousands_of_processes_are_counted(tree: Tree) -> None:
    v2(SCOPE)(tree)
    tree.write(SCOPE, {"cgroup.procs": "".join(f"{pid}\n" for pid in range(10_000, 40_000))})
    assert sample(tree).usages[ID].processes == 30_000
    tree.write(SCOPE, {"cgroup.procs": ""})
    assert sample(tree).usages[ID].processes == 0


def test_the_faults_of_several_containers_are_one_problem_for_each_file(tree: Tree) -> None:
    containers = [description(), description(OTHER, 1, "other")]
    for container in containers:
        tree.v2_full(f"docker/{container.id}")
        io = "(unknown) rbytes=0 wbytes=0 rios=0 wios=0\n8:0 rbytes=x wbytes=1 rios=2 wios=3\n"
        tree.write(f"docker/{container.id}", {"io.stat": io, "pids.current": "\n"})
    reader = CgroupReader(tree.paths, 100)
    for _ in range(2):  # unchanged content is no longer parsed, and still a fault
        result = reader.read(containers, engine_responds=True)
        assert {(type(each), each.subject) for each in result.problems} == {
            (LeftOut, "io.stat"),
            (LeftOut, "pids.current"),
        }
        for usage in result.usages.values():
            assert usage.io == (DeviceIo("8:0", None, 1, 2, 3),)
            assert (usage.threads, usage.processes) == (None, 3)
    tree.write(f"docker/{ID}", {"io.stat": "", "pids.current": "5\n"})
    tree.write(f"docker/{OTHER}", {"io.stat": "", "pids.current": "5\n"})
    assert reader.read(containers, engine_responds=True).problems == ()
    reader.close()


def refuse(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Makes reads of these files fail with EOPNOTSUPP, as kernels with PSI disabled do."""
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name in names:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)


def test_disabled_pressure_does_not_affect_other_metrics(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.device("8:0", "sda")
    v2(SCOPE)(tree)
    tree.v2_full(SCOPE)
    refuse(monkeypatch, "cpu.pressure", "memory.pressure", "io.pressure")
    result = sample(tree)
    assert result.problems == ()
    assert result.usages == {ID: replace(V2_FULL, pressure=())}


def test_pressure_disabled_later_is_no_longer_exported(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.device("8:0", "sda")
    v2(SCOPE)(tree)
    tree.v2_full(SCOPE)
    reader = CgroupReader(tree.paths, 100)
    assert reader.read([description()], engine_responds=True).usages == {ID: V2_FULL}
    refuse(monkeypatch, "io.pressure")
    kept = tuple(pressure for pressure in V2_FULL.pressure if pressure.resource != "io")
    assert len(kept) == 2
    for _ in range(2):
        result = reader.read([description()], engine_responds=True)
        assert result.usages == {ID: replace(V2_FULL, pressure=kept)}
    reader.close()


@pytest.mark.parametrize("mode", ["hosting_default", "nonesuch", "hosts"])
def test_a_network_named_like_a_mode_is_a_network(tree: Tree, mode: str) -> None:
    v2(SCOPE)(tree)
    container = replace(description(ID, PID, "web"), network=Network(mode, "/netns/1"))
    assert NetworkNamespaces(tree.folder / "proc").owners([container]) == {ID}


def test_networks_are_counted_once(tree: Tree) -> None:
    """By `inspect` alone: /proc without namespaces, as for a user without permission."""
    ids = {f"{n:064x}": n for n in range(1, 7)}
    for key, pid in ids.items():
        tree.v2(f"docker/{key}")
        tree.process(f"0::/docker/{key}\n", pid)
    modes = ["bridge", "host", f"container:{1:064x}", "none", "own", "own"]
    sandboxes = ["/netns/1", "/netns/default", "", "/netns/4", "/netns/5", "/netns/5"]
    containers = [
        replace(
            description(key, pid, f"c{pid}"), network=Network(modes[pid - 1], sandboxes[pid - 1])
        )
        for key, pid in ids.items()
    ]
    reader = CgroupReader(tree.paths, 1000)
    result = reader.read(containers, engine_responds=True).usages
    assert [ids[key] for key in result if result[key].interfaces] == [1, 5]
    # The owner of a shared namespace ends: another container becomes the owner.
    containers = [container for container in containers if container.pid != 5]
    result = reader.read(containers, engine_responds=True).usages
    assert [ids[key] for key in result if result[key].interfaces] == [1, 6]
    # With readable namespaces: 1 turns out to be the host's, 6 is not shared.
    for pid, target in ((1, "a"), (6, "b")):
        folder = tree.folder / "proc" / str(pid) / "ns"
        folder.mkdir()
        (tree.folder / target).touch()
        (folder / "net").symlink_to(tree.folder / target)
    copies = [
        replace(container, pid=1) if container.pid == 1 else container for container in containers
    ]
    second = CgroupReader(tree.paths, 1000)
    result = second.read(copies, engine_responds=True).usages
    assert [ids[key] for key in result if result[key].interfaces] == [6]
    reader.close()
    second.close()


def test_counters_of_a_reused_pid_are_not_read(tree: Tree) -> None:
    tree.v2(SCOPE)
    tree.process(f"0::/docker/{OTHER}\n")
    assert sample(tree).usages[ID].interfaces == ()


@pytest.mark.parametrize(
    "path",
    [
        f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/{runtime}-{ID}.scope"
        for runtime in ("cri-containerd", "crio", "docker")
    ]
    + [
        f"kubepods/besteffort/pod1-2/{ID}",
        f"user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope",
        f"user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
        f"libpod_parent/libpod-{ID}",
        f"system.slice/docker-{OTHER}.scope/docker/{ID}",
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_paths_of_other_engines(tree: Tree, path: str, version: int) -> None:
    (v1 if version == 1 else v2)(path)(tree)
    container_path = path.removesuffix("/container")
    if container_path != path:
        tree.v1(container_path) if version == 1 else tree.v2(container_path)
    result = sample(tree)
    assert result.usages[ID].cpu_usage == 1.234567
    assert result.usages[ID].memory == 10_000


def test_a_container_that_ends_while_the_engine_is_down_keeps_no_file_open(tree: Tree) -> None:
    """Its cgroup is not removed, and an open net/dev would keep its network namespace."""
    for key, pid in ((ID, PID), (OTHER, PID + 1)):
        tree.v2(f"docker/{key}")
        tree.process(f"0::/docker/{key}\n", pid)
    reader = CgroupReader(tree.paths, 100)
    both = [description(), description(OTHER, PID + 1, "other")]

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    assert reader.read(both, engine_responds=True).usages.keys() == {ID, OTHER}
    per_container = (descriptors() - before) // 2
    assert per_container > 3
    shutil.rmtree(tree.folder / "proc" / str(PID))
    for _ in range(2):
        result = reader.read(both, engine_responds=False)
        assert result.usages.keys() == {OTHER}
        assert result.stale == {ID}
        assert result.problems == ()
        assert descriptors() == before + per_container
    tree.process(f"0::/docker/{ID}\n")
    assert reader.read(both, engine_responds=False).usages.keys() == {ID, OTHER}
    reader.close()
    assert descriptors() == before
