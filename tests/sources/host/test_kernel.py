"""The host source on a fake /proc with known values."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import msgspec
import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.context import Context
from exporter.errors import NotFound, SourceError
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.host.kernel import Kernel
from exporter.sources.host.metrics import METRICS
from exporter.sources.host.settings import Settings
from exporter.sources.host.source import build
from tests.fakes.procfs import DISKSTATS, MEMINFO, NET_DEV, NET_HEAD, STAT, make_tree
from tests.sources.samples import Samples, samples

KIB = 1024
NAMES = {metric.name for metric in METRICS if not metric.name.startswith("host_filesystem_")}


def read(root: Path, settings: Settings | None = None) -> tuple[dict[str, Samples], Reading]:
    reading = Kernel(str(root), settings or Settings()).read()
    return samples(METRICS, reading), reading


def kinds(reading: Reading) -> list[str]:
    return [problem.kind for problem in reading.problems]


def test_every_value(tmp_path: Path) -> None:
    values, reading = read(make_tree(tmp_path))
    tick = os.sysconf("SC_CLK_TCK")
    assert values == {
        "host_cpu_seconds_total": {
            ("user",): 1000 / tick,
            ("nice",): 200 / tick,
            ("system",): 300 / tick,
            ("idle",): 40000 / tick,
            ("iowait",): 500 / tick,
            ("irq",): 60 / tick,
            ("softirq",): 70 / tick,
            ("steal",): 80 / tick,
        },
        "host_cpus": {(): 3},
        "host_memory_total_bytes": {(): 24682416 * KIB},
        "host_memory_available_bytes": {(): 24278188 * KIB},
        "host_swap_total_bytes": {(): 8388604 * KIB},
        "host_swap_used_bytes": {(): 388604 * KIB},
        "host_load1": {(): 0.1},
        "host_load5": {(): 12.13},
        "host_load15": {(): 345.09},
        # PID 1's devices, not those of the reader; no veth.
        "host_network_receive_bytes_total": {("lo",): 3193, ("eth0",): 489651493},
        "host_network_transmit_bytes_total": {("lo",): 3194, ("eth0",): 755321},
        "host_memory_free_bytes": {(): 23740164 * KIB},
        "host_memory_buffers_bytes": {(): 1000 * KIB},
        "host_memory_cached_bytes": {(): 2000 * KIB},
        "host_memory_anonymous_bytes": {(): 40000 * KIB},
        "host_memory_active_file_bytes": {(): 700 * KIB},
        "host_memory_inactive_file_bytes": {(): 1100 * KIB},
        "host_memory_mapped_bytes": {(): 500 * KIB},
        "host_network_receive_packets_total": {("lo",): 29, ("eth0",): 13548},
        "host_network_transmit_packets_total": {("lo",): 29, ("eth0",): 8686},
        "host_network_receive_errors_total": {("lo",): 1, ("eth0",): 0},
        "host_network_transmit_errors_total": {("lo",): 3, ("eth0",): 0},
        "host_network_receive_packets_dropped_total": {("lo",): 2, ("eth0",): 0},
        "host_network_transmit_packets_dropped_total": {("lo",): 4, ("eth0",): 0},
        "host_disk_reads_total": {("sda",): 29228, ("nvme0n1",): 1},
        "host_disk_writes_total": {("sda",): 14397, ("nvme0n1",): 3},
        "host_disk_read_time_seconds_total": {("sda",): 4.833, ("nvme0n1",): 0.0},
        "host_disk_write_time_seconds_total": {("sda",): 6.454, ("nvme0n1",): 0.0},
        "host_disk_busy_seconds_total": {("sda",): 3.8, ("nvme0n1",): 0.0},
        "host_pressure_waiting_seconds_total": {("cpu",): 1.5, ("memory",): 2.5, ("io",): 3.5},
        "host_pressure_stalled_seconds_total": {("cpu",): 0.125, ("memory",): 0.25, ("io",): 0.5},
        "host_file_descriptors": {(): 1234},
        "host_file_descriptors_max": {(): 9223372036854775807},
        "host_disk_read_bytes_total": {("sda",): 2354698 * 512, ("nvme0n1",): 2 * 512},
        "host_disk_written_bytes_total": {("sda",): 4094632 * 512, ("nvme0n1",): 4 * 512},
        "host_boot_time_seconds": {(): 1795222319},
    }
    assert reading.problems == ()
    assert values.keys() == NAMES


@pytest.mark.parametrize(
    ("file", "path", "lost"),
    [
        ("stat", "stat", ("host_cpu", "host_boot")),
        ("meminfo", "meminfo", ("host_memory", "host_swap")),
        ("loadavg", "loadavg", ("host_load",)),
        ("dev", "1/net/dev", ("host_network",)),
        # without it psutil reads this machine's /sys/block
        ("diskstats", "diskstats", ("host_disk",)),
    ],
)
def test_a_missing_file_costs_only_its_own_values(
    tmp_path: Path, file: str, path: str, lost: tuple[str, ...]
) -> None:
    values, reading = read(make_tree(tmp_path, **{file: None}))
    assert values.keys() == {name for name in NAMES if not name.startswith(lost)}
    assert set(kinds(reading)) == {"not_found"}
    assert all(str(tmp_path / path) in problem.message for problem in reading.problems)
    assert not any(problem.remedy for problem in reading.problems), "the others are there"


@pytest.mark.parametrize(
    ("file", "content", "lost"),
    [
        ("stat", "", ("host_cpu", "host_boot")),
        ("stat", STAT.replace("cpu  1000", "cpu  12x4"), ("host_cpu_seconds_total user",)),
        ("stat", STAT.replace("cpu  1000", "cpu  nan"), ("host_cpu_seconds_total user",)),
        ("stat", STAT.replace("cpu  1000", "cpu  -5"), ("host_cpu_seconds_total user",)),
        ("stat", STAT.replace("cpu  1000", "cpu  1" + "0" * 400), ("host_cpu_seconds_total user",)),
        # An underflow of nanoseconds, in ticks.
        (
            "stat",
            STAT.replace("60 70 80", "60 70 1844674407370"),
            ("host_cpu_seconds_total steal",),
        ),
        # gVisor's: it counts no CPU time.
        (
            "stat",
            STAT.replace("1000 200 300 40000 500 60 70 80", "0 0 0 0 0 0 0 0"),
            ("host_cpu_seconds_total",),
        ),
        ("stat", STAT.replace("\ncpu", "\ngpu"), ("host_cpus",)),
        ("stat", STAT.replace("cpu  ", "gpu  "), ("host_cpu_seconds_total",)),
        ("stat", STAT.replace("btime", "ctime"), ("host_boot",)),
        ("stat", STAT.replace("btime 1795222319", "btime inf"), ("host_boot",)),
        ("stat", STAT.replace("btime 1795222319", "btime -5"), ("host_boot",)),
        ("meminfo", "", ("host_memory", "host_swap")),
        ("meminfo", MEMINFO.replace("24682416", "-1"), ("host_memory_total",)),
        ("meminfo", MEMINFO.replace("24682416", "2_4"), ("host_memory_total",)),
        ("meminfo", MEMINFO.replace("24682416", "9" * 5000), ("host_memory_total",)),
        ("meminfo", MEMINFO.replace("24682416 kB", "24682416 MB"), ("host_memory_total",)),
        # An underflow of bytes, in kB.
        ("meminfo", MEMINFO.replace("24278188", str(2**54 - 4)), ("host_memory_available",)),
        ("meminfo", MEMINFO.replace("24278188", "24682417"), ("host_memory_available",)),
        ("meminfo", MEMINFO.replace("8000000 kB", "9000000 kB"), ("host_swap_used",)),
        ("loadavg", "", ("host_load",)),
        ("loadavg", "0.10 12.13", ("host_load15",)),
        ("loadavg", "nan inf 345.09 1/84 5879\n", ("host_load1 ", "host_load5 ")),
        ("dev", NET_HEAD + "  eth0: 12", ("host_network",)),
        ("dev", NET_HEAD + "  eth0: " + "x " * 16, ("host_network",)),
        (
            "dev",
            NET_DEV.replace("eth0:489651493", "eth0:" + "9" * 400),
            ("host_network_receive_bytes_total eth0",),
        ),
        ("dev", NET_DEV.replace("755321", "-1"), ("host_network_transmit_bytes_total eth0",)),
        ("diskstats", "8 0 sda 1 2", ("host_disk",)),
        ("diskstats", DISKSTATS.replace("2354698", "23x"), ("host_disk_read_bytes_total sda",)),
        ("diskstats", DISKSTATS.replace("2354698", "-1"), ("host_disk_read_bytes_total sda",)),
        ("diskstats", DISKSTATS.replace("2354698", "9" * 400), ("host_disk_read_bytes_total sda",)),
        ("diskstats", b"\xff\x00" * 500, ("host_disk",)),
        # Linux 2.4's: the name after the number of blocks.
        ("diskstats", "3 0 8 hda 8 8 8 8 8 8 8 8 8 8 8\n", ("host_disk",)),
        # Pages of zero bytes after the last line, as some containers show.
        ("diskstats", DISKSTATS.encode() + b"\0" * 5000, ()),
        ("file-nr", "x 0 9223372036854775807\n", ("host_file_descriptors ",)),
        ("file-nr", "1234 0 -1\n", ("host_file_descriptors_max",)),
        ("file-nr", "1234\n", ("host_file_descriptors",)),
    ],
)
def test_one_strange_piece_costs_that_piece(
    tmp_path: Path, file: str, content: str | bytes, lost: tuple[str, ...]
) -> None:
    before, _ = read(make_tree(tmp_path))
    values, reading = read(make_tree(tmp_path, **{file: content}))
    expected = {
        name: {labels: value for labels, value in series.items() if not is_lost(name, labels, lost)}
        for name, series in before.items()
    }
    assert values == {name: series for name, series in expected.items() if series}
    assert set(kinds(reading)) == {"bad_data"}
    assert all(len(problem.message) < 500 for problem in reading.problems)


def is_lost(name: str, labels: tuple[str, ...], lost: tuple[str, ...]) -> bool:
    """Whether the series, as text, starts with one of these."""
    return f"{name} {' '.join(labels)} ".startswith(lost)


def test_a_line_of_fewer_cpu_times_is_that_of_an_old_kernel(tmp_path: Path) -> None:
    values, reading = read(
        make_tree(tmp_path, stat="cpu  1000 200 300\ncpu0 1 2 3\nbtime 1795222319\n")
    )
    assert set(values["host_cpu_seconds_total"]) == {("user",), ("nice",), ("system",)}
    assert reading.problems == ()


def test_missing_lines_are_absent_and_not_estimated(tmp_path: Path) -> None:
    """As on a kernel before 3.14 without swap; psutil estimates and warns."""
    values, reading = read(make_tree(tmp_path, meminfo="MemTotal: 100 kB\nMemFree: 50 kB\n"))
    assert values["host_memory_total_bytes"] == {(): 100 * KIB}
    assert not {name for name in values if "available" in name or "swap" in name}
    assert reading.problems == ()


def test_an_invalid_device_costs_only_its_own_series(tmp_path: Path) -> None:
    dev = NET_HEAD + "eth0: 1 2\neth1: 5 0 0 0 0 0 0 0 6 0 0 0 0 0 0 0\n"
    values, reading = read(make_tree(tmp_path, dev=dev))
    assert values["host_network_receive_bytes_total"] == {("eth1",): 5}
    assert kinds(reading) == ["bad_data"]


# As other people's kernels wrote them, with the name and the received bytes.
NET_LINES = {
    # node_exporter#902, an alias.
    "ibr10:30:       5       0    0    0    0     0          0         0": ("ibr10:30", 5),
    # psutil#263 and gopsutil#357: no blank after the colon.
    "  eth0:4046496815 27661328    0    0    0     0          0         0": ("eth0", 4046496815),
    "eth1:0:7 1 0 0 0 0 0 0": ("eth1:0", 7),
    # A device that failed while its name was made.
    "wlan%d: 9 0 0 0 0 0 0 0": ("wlan%d", 9),
}


def test_odd_names_of_network_devices(tmp_path: Path) -> None:
    truncated = "tun10001:2:       0       0    0    0    0     0          0         0        0"
    lines = [truncated, *(f"{line} 6 1 0 0 0 0 0 0" for line in NET_LINES)]
    values, reading = read(make_tree(tmp_path, dev=NET_HEAD + "\n".join(lines) + "\n"))
    assert values["host_network_receive_bytes_total"] == {
        (name,): count for name, count in NET_LINES.values()
    }
    assert set(values["host_network_transmit_bytes_total"].values()) == {6}
    assert kinds(reading) == ["bad_data"]  # gopsutil#317's line is truncated


def test_whole_disks_only(tmp_path: Path) -> None:
    disks = "sda vdb nvme0n1 nvme0n2 mmcblk0 mmcblk0boot0 md0 md127 dm-0 xvda1 cciss/c0d0 sdaa nbd0"
    others = (
        "sda1 sda15 nvme0n1p1 nvme0n1p10 mmcblk0p2 md0p1 cciss/c0d0p1 sdaa1 nbd0p1 "
        "loop0 loop0p1 ram0 zram0 sr0 fd0"
    )
    names = f"{others} {disks}".split()
    lines = "".join(f"8 {i} {name} 0 0 {i} 0 0 0 {i} 0 0 0 0\n" for i, name in enumerate(names))
    values, _ = read(make_tree(tmp_path, diskstats=lines))
    shown = {device for (device,) in values["host_disk_read_bytes_total"]}
    assert shown == set(disks.split())


def devices(names: list[bytes]) -> bytes:
    return NET_HEAD.encode() + b"".join(
        name + b": 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n" for name in names
    )


def test_excluded_devices(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, dev=devices([b"lo", b"eth0", b"veth0", b"cali12", b"lxc0123abcd"]))
    values, _ = read(tree)
    assert set(values["host_network_receive_bytes_total"]) == {("lo",), ("eth0",)}
    values, _ = read(tree, Settings(network_exclude="lo|eth", disk_exclude="nvme.*"))
    assert set(values["host_network_receive_bytes_total"]) == {
        ("eth0",),  # "eth" is not the whole name
        ("veth0",),
        ("cali12",),
        ("lxc0123abcd",),
    }
    assert set(values["host_disk_read_bytes_total"]) == {("loop0",), ("sda",)}


def test_devices_are_limited(tmp_path: Path) -> None:
    many = [b"lo", b"eth0", *(b"tap%d" % i for i in range(700))]
    disks = "".join(f"8 {i} nbd{i} 0 0 1 0 0 0 1 0 0 0 0\n" for i in range(300))
    values, reading = read(make_tree(tmp_path, dev=devices(many), diskstats=disks))
    received = values["host_network_receive_bytes_total"]
    assert len(received) == len(values["host_disk_read_bytes_total"]) == 256
    assert {("lo",), ("eth0",)} <= received.keys()
    assert kinds(reading) == ["unsupported", "unsupported"]
    assert "--host.network-exclude" in reading.problems[0].remedy
    values, reading = read(tmp_path, Settings(max_devices=1000))
    assert len(values["host_network_receive_bytes_total"]) == 702
    assert reading.problems == ()


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    names = [b'a"b\\c', b"eth\xff", b"eth\xfe", "ü0".encode(), b"br-1:0"]
    disks = b"8 0 sd\xff 0 0 1 0 0 0 1 0 0 0 0\n8 1 sd\xfe 0 0 1 0 0 0 1 0 0 0 0\n"
    values, reading = read(make_tree(tmp_path, dev=devices(names), diskstats=disks))
    assert set(values["host_network_receive_bytes_total"]) == {
        ('a"b\\c',),
        ("eth\N{REPLACEMENT CHARACTER}",),
        ("ü0",),
        ("br-1:0",),
    }
    assert set(values["host_disk_read_bytes_total"]) == {("sd\N{REPLACEMENT CHARACTER}",)}
    assert kinds(reading) == ["bad_data", "bad_data"]


def test_idle_time_that_falls_slightly_is_kept(tmp_path: Path) -> None:
    """proc(5): iowait may decrease."""
    root = make_tree(tmp_path)
    kernel = Kernel(str(root), Settings())
    tick = os.sysconf("SC_CLK_TCK")

    def iowait(value: int) -> float:
        make_tree(
            tmp_path,
            stat=STAT.replace("cpu  1000 200 300 40000 500", f"cpu  1000 200 300 40000 {value}"),
        )
        seconds: float = samples(METRICS, kernel.read())["host_cpu_seconds_total"]["iowait",]
        return seconds * tick

    assert iowait(500) == pytest.approx(500)
    assert iowait(499) == pytest.approx(500)
    assert iowait(510) == pytest.approx(510)
    assert iowait(10) == pytest.approx(10), "another boot"


def test_a_counter_reset_is_exported_unchanged(tmp_path: Path) -> None:
    """Unlike with psutil's nowrap=True, which adds the difference."""
    kernel = Kernel(str(make_tree(tmp_path)), Settings())
    kernel.read()
    make_tree(tmp_path, diskstats=DISKSTATS.replace("2354698", "5"))
    values = samples(METRICS, kernel.read())
    assert values["host_disk_read_bytes_total"]["sda",] == 5 * 512


def test_no_proc_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"stat does not exist") as caught:
        Kernel(str(tmp_path / "absent"), Settings()).read()
    assert "--path.procfs" in caught.value.remedy


def test_a_directory_and_a_too_large_file(tmp_path: Path) -> None:
    make_tree(tmp_path, meminfo=None, loadavg=b"0" * (8 * 2**20 + 1))
    (tmp_path / "meminfo").mkdir()
    values, reading = read(tmp_path)
    assert kinds(reading) == ["unreachable", "bad_data"]
    assert "host_cpus" in values


@pytest.fixture
def whole_tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    file=st.sampled_from(["stat", "meminfo", "loadavg", "dev", "diskstats"]),
    start=st.integers(0, 400),
    length=st.integers(0, 60),
    noise=st.binary(max_size=60),
)
def test_only_source_errors_are_raised(
    whole_tree: Path, file: str, start: int, length: int, noise: bytes
) -> None:
    path = whole_tree / ("1/net/dev" if file == "dev" else file)
    content = path.read_bytes()
    path.write_bytes(content[:start] + noise + content[start + length :])
    try:
        _, reading = read(whole_tree)
    finally:
        path.write_bytes(content)
    assert all(isinstance(problem, SourceError) for problem in reading.problems)


@pytest.mark.parametrize("field", ["network_exclude", "disk_exclude"])
def test_an_invalid_regular_expression_is_refused(field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({field: "("}, Settings)


def test_the_source_as_in_the_poller(tmp_path: Path) -> None:
    context = Context(Paths(procfs=str(make_tree(tmp_path))), lambda: (), lambda: 0)

    async def use() -> Reading:
        source = build(Settings(), context)
        target, filesystems = await source.discover()
        assert [target, filesystems] == list(await source.discover())
        reading = await target.read()
        assert "host" in {thread.name for thread in threading.enumerate()}
        await source.close()
        return reading

    with blockbuster_ctx():
        reading = asyncio.run(use())
    assert samples(METRICS, reading) == read(tmp_path)[0]
    for thread in threading.enumerate():
        if thread.name == "host":
            thread.join(10)
            assert not thread.is_alive()
