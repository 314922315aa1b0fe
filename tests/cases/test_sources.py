"""The cases of kernel files, of the engine's replies and of model servers, through the sources."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exporter.errors import SourceError
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.containers.cgroup.reader import CgroupReader, CgroupSample
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import DeviceIo
from exporter.sources.host.kernel import Kernel
from exporter.sources.host.metrics import METRICS as HOST_METRICS
from exporter.sources.host.settings import Settings
from tests.fakes.cgroup_trees import ID, Tree, description
from tests.fakes.container_engine import FakeEngine, http_reply, stats_path, stats_reply
from tests.fakes.procfs import make_tree
from tests.fakes.triton import FakeTriton, json_response
from tests.sources.containers.polling import polled
from tests.sources.samples import Samples, samples
from tests.sources.triton.polling import samples as triton_samples
from tests.sources.triton.polling import source as triton_source

PATH = f"docker/{ID}"
KIB = 1024


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "proc").mkdir()
    return Tree(tmp_path)


def read(tree: Tree) -> CgroupSample:
    reader = CgroupReader(tree.paths, 100)
    try:
        return reader.read([description()], engine_responds=True)
    finally:
        reader.close()


def shown(sample: CgroupSample) -> dict[str, Samples]:
    return samples(METRICS, Reading(tuple(sample.usages.values())))


def test_io_unknown_device(tree: Tree) -> None:
    tree.v2_full(PATH)
    before = shown(read(tree))
    tree.write(
        PATH,
        {
            "io.stat": "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n"
            "(unknown) rbytes=0 wbytes=0 rios=0 wios=0 dbytes=0 dios=0\n"
        },
    )
    sample = read(tree)
    assert sample.usages[ID].io == (DeviceIo("8:0", 4096, 0, 1, 0),)
    after = shown(sample)
    others = {name for name in before if not name.startswith("container_fs_")}
    assert len(others) > 25
    assert {name: after[name] for name in others} == {name: before[name] for name in others}
    assert [problem.subject for problem in sample.problems] == ["io.stat"]


def test_memory_stat_negative(tree: Tree) -> None:
    tree.v1_full(PATH)
    tree.process("".join(f"1:{name}:/{PATH}\n" for name in ("memory", "cpuacct", "cpu")))
    tree.write(f"memory/{PATH}", {"memory.stat": "total_rss 1048576\ntotal_mapped_file -12288\n"})
    (used,) = read(tree).usages.values()
    assert (used.mapped_file, used.rss) == (None, 1_048_576)
    assert (used.cpu_usage, used.memory) == (1.234567, 10_000)


def test_io_several_devices_on_a_line(tree: Tree) -> None:
    tree.v2_full(PATH)
    line = "7:7 7:6 7:5 7:4 rbytes=28672 wbytes=0 rios=7 wios=0 dbytes=0 dios=0\n"
    tree.write(PATH, {"io.stat": line})
    sample = read(tree)
    assert sample.usages[ID].io == (DeviceIo("7:4", 28_672, 0, 7, 0),)
    assert sample.problems == ()


def test_processes_in_child_cgroups(tree: Tree) -> None:
    tree.v2_full(PATH)
    tree.write(PATH, {"cgroup.procs": "", "pids.current": "57\n"})
    for number in range(17):
        tree.write(f"{PATH}/system.slice/{number}.service", {"cgroup.procs": f"{number + 100}\n"})
    (used,) = read(tree).usages.values()
    assert (used.processes, used.threads) == (17, 57)


def host(root: Path) -> tuple[dict[str, Samples], tuple[SourceError, ...]]:
    reading = Kernel(str(root), Settings()).read()
    return samples(HOST_METRICS, reading), reading.problems


def test_swap_underflow(tmp_path: Path) -> None:
    meminfo = (
        "MemTotal: 8388608 kB\nMemFree: 4194304 kB\nSwapTotal: 0 kB\n"
        "SwapFree: 18446744073709346016 kB\n"
    )
    values, problems = host(make_tree(tmp_path, meminfo=meminfo))
    assert values["host_memory_total_bytes"] == {(): 8_388_608 * KIB}
    assert values["host_memory_free_bytes"] == {(): 4_194_304 * KIB}
    assert values["host_swap_total_bytes"] == {(): 0}
    assert "host_swap_used_bytes" not in values
    assert [problem.subject for problem in problems] == ["meminfo"]


def test_diskstats_17_fields(tmp_path: Path) -> None:
    diskstats = (
        "253 0 dm-0 18 0 1808 0 0 0 0 0 0 0 0 0 0 0\n"
        "8 0 sda 100 0 2000 30 200 0 4000 60 0 90 90 0 0 0 0 0 0\n"
    )
    values, problems = host(make_tree(tmp_path, diskstats=diskstats))
    assert {name: series for name, series in values.items() if "disk" in name} == {
        "host_disk_reads_total": {("dm-0",): 18, ("sda",): 100},
        "host_disk_read_bytes_total": {("dm-0",): 1808 * 512, ("sda",): 2000 * 512},
        "host_disk_read_time_seconds_total": {("dm-0",): 0, ("sda",): 0.03},
        "host_disk_writes_total": {("dm-0",): 0, ("sda",): 200},
        "host_disk_written_bytes_total": {("dm-0",): 0, ("sda",): 4000 * 512},
        "host_disk_write_time_seconds_total": {("dm-0",): 0, ("sda",): 0.06},
        "host_disk_busy_seconds_total": {("dm-0",): 0, ("sda",): 0.09},
    }
    assert problems == ()


def test_stats_without_packets() -> None:
    names = ("rx_bytes", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors")
    network = {name: number for number, name in enumerate((*names, "tx_dropped"), 1)}
    nowhere = Paths(sysfs="/nonexistent", procfs="/nonexistent")

    async def scenario() -> None:
        async with polled(fake.url, nowhere) as source:
            await source.engine.read()
            reading = await source.resources.read()
        values = samples(METRICS, reading)
        received = {
            name.removeprefix("container_network_").removesuffix("_total"): series
            for name, series in values.items()
            if name.startswith("container_network_")
        }
        assert "receive_packets" not in received
        assert received["receive_bytes"] == {("c1", "i:1", "eth0"): 1}
        assert received["transmit_packets"] == {("c1", "i:1", "eth0"): 5}
        assert len(received) == 7
        assert values["container_cpu_usage_seconds_total"] == {("c1", "i:1"): 2.5}

    fake = FakeEngine(containers=1)
    fake.replies[stats_path(1)] = http_reply(stats_reply(networks={"eth0": network}))
    with fake.serving():
        asyncio.run(scenario())


def test_v2_without_extensions() -> None:
    async def scenario() -> Reading:
        async with FakeTriton() as fake, triton_source(url=(f"here={fake.url}",)) as triton:
            fake.responses["/v2"] = json_response(
                {"name": "OpenVINO Model Server", "version": "2022.2.0"}
            )
            (target,) = await triton.discover()
            return await target.read()

    reading = asyncio.run(scenario())
    assert triton_samples(reading) == {
        "triton_server_info": {("here", "OpenVINO Model Server", "2022.2.0"): 1},
        "triton_server_ready": {("here",): 1},
    }
    (problem,) = reading.problems
    assert problem.message == "OpenVINO Model Server 2022.2.0 offers no statistics"
    assert reading.note == "no statistics, health only"
    assert reading.incomplete is None
