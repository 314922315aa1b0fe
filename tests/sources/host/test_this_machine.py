"""The host source on this machine, compared with kernel files read before and after."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from exporter.sources.host.kernel import Kernel
from exporter.sources.host.metrics import METRICS
from exporter.sources.host.settings import Settings
from tests.fakes.procfs import make_tree
from tests.parts import missing
from tests.paths import ROOT
from tests.sources.samples import Samples, samples

EVERYTHING = Settings(network_exclude="", disk_exclude="", max_devices=10_000)


def live() -> dict[str, Samples]:
    reading = Kernel("/proc", EVERYTHING).read()
    assert reading.problems == ()
    return samples(METRICS, reading)


def cpu_ticks() -> list[int]:
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def column(path: str, name: int, value: int) -> dict[str, int]:
    """Returns one column of a file, by the column `name`."""
    lines = [line.replace(":", " ").split() for line in Path(path).read_text().splitlines()]
    return {line[name]: int(line[value]) for line in lines if "".join(line[value:][:1]).isdigit()}


def check_between(
    values: Samples, before: dict[str, int], after: dict[str, int], scale: int = 1
) -> None:
    """Checks that each value is between the two; devices may be added or removed meanwhile.

    Some may come and go in between: those of the containers of other tests.
    """
    exported = {device for (device,) in values if not device.startswith("veth")}
    steady = {device for device in before.keys() & after.keys() if not device.startswith("veth")}
    assert steady <= exported <= before.keys() | after.keys()
    for device in exported & before.keys() & after.keys():
        assert before[device] * scale <= values[device,] <= after[device] * scale, device


def test_cpu() -> None:
    before = cpu_ticks()
    values = live()
    after = cpu_ticks()
    tick = os.sysconf("SC_CLK_TCK")
    seconds = values["host_cpu_seconds_total"]
    modes = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    assert set(seconds) == {(mode,) for mode in modes}
    for mode, low, high in zip(modes, before, after, strict=True):
        if mode in {"idle", "iowait"}:  # these may decrease (proc(5))
            low, high = min(low, high) - 5, max(low, high) + 5  # noqa: PLW2901 - widened
        assert low / tick <= seconds[mode,] <= high / tick, mode
    assert values["host_cpus"] == {(): os.cpu_count()}


def test_memory_load_and_boot() -> None:
    loads = [Path("/proc/loadavg").read_text()]
    before = column("/proc/meminfo", 0, 1)
    values = live()
    meminfo = column("/proc/meminfo", 0, 1)
    loads.append(Path("/proc/loadavg").read_text())
    total = meminfo["MemTotal"] * 1024
    assert values["host_memory_total_bytes"] == {(): total}
    available = values["host_memory_available_bytes"][()]
    low, high = sorted(1024 * each["MemAvailable"] for each in (before, meminfo))
    assert low - 0.05 * total < available < high + 0.05 * total
    assert values["host_swap_total_bytes"] == {(): meminfo["SwapTotal"] * 1024}
    for index, name in enumerate(("host_load1", "host_load5", "host_load15")):
        assert values[name][()] in {float(load.split()[index]) for load in loads}
    (btime,) = [x for x in Path("/proc/stat").read_text().splitlines() if x.startswith("btime")]
    # btime changes when the clock is set.
    assert abs(values["host_boot_time_seconds"][()] - int(btime.split()[1])) <= 1


def test_network() -> None:
    start = live()["host_network_receive_bytes_total"]["lo",]
    with socket.socket(type=socket.SOCK_DGRAM) as here, socket.socket(type=socket.SOCK_DGRAM) as to:
        to.bind(("127.0.0.1", 0))
        for _ in range(200):
            here.sendto(bytes(1000), to.getsockname())
    for position, name in ((1, "receive"), (9, "transmit")):
        before = column("/proc/1/net/dev", 0, position)
        values = live()[f"host_network_{name}_bytes_total"]
        after = column("/proc/1/net/dev", 0, position)
        check_between(values, before, after)
        assert values["lo",] >= start + 200 * 1000


def test_disks() -> None:
    disks = {path.name.replace("!", "/") for path in Path("/sys/block").iterdir()}
    for position, name in ((5, "read"), (9, "written")):
        before = column("/proc/diskstats", 2, position)
        values = live().get(f"host_disk_{name}_bytes_total", {})
        after = column("/proc/diskstats", 2, position)
        check_between(
            values,
            {disk: sectors for disk, sectors in before.items() if disk in disks},
            {disk: sectors for disk, sectors in after.items() if disk in disks},
            scale=512,
        )


def in_a_child(wrapper: list[str], script: str) -> dict[str, list[str]]:
    """Runs a script under the wrapper (unshare); returns the JSON that it prints."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        missing("new namespaces need root and unshare")
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, list[str]] = json.loads(done.stdout)
    return result


SCRIPT = """
import json, os, sys
from exporter.errors import SourceError
from exporter.sources.host.kernel import Kernel
from exporter.sources.host.settings import Settings
from exporter.sources.host.reading import NetworkDevice
def show(root):
    try:
        reading = Kernel(root, Settings(network_exclude="")).read()
    except SourceError as error:
        return [error.kind]
    return [row.labels[0] for row in reading.rows if isinstance(row, NetworkDevice)] + [
        problem.kind for problem in reading.problems]
"""


def test_the_hosts_devices_from_another_network_namespace() -> None:
    """As in a container: /proc/net/dev is the container's, PID 1's is the host's."""
    result = in_a_child(
        ["unshare", "--net"],
        SCRIPT + "print(json.dumps({'proc': show('/proc'), 'own': list("
        "line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line)}))",
    )
    host = set(column("/proc/1/net/dev", 0, 1))
    steady = {device for device in host if not device.startswith("veth")}
    assert steady <= set(result["proc"])
    if steady != {"lo"}:  # a machine without a network
        assert steady - set(result["own"]), "the namespace differs from the host's"


def test_without_privileges(tmp_path: Path) -> None:
    """Other users' processes are hidden (hidepid): own devices; permission denied: an error."""
    make_tree(tmp_path)
    tmp_path.chmod(0o700)
    hide = "mount -t proc -o hidepid=2 proc /proc"
    result = in_a_child(
        ["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh"],
        SCRIPT
        + "show('/proc'); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        + "hidden = [str(os.path.exists('/proc/1'))]\n"
        + f"print(json.dumps(dict(proc=show('/proc'), fake=show({str(tmp_path)!r}), "
        "hidden=hidden)))",
    )
    assert result["hidden"] == ["False"]
    assert "lo" in result["proc"]
    assert not {"not_found", "forbidden"} & set(result["proc"])
    assert result["fake"] == ["forbidden"]
