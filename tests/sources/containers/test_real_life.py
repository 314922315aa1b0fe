"""State and resource usage of containers on real engines, beyond CPU and memory."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container as Started

from exporter.settings import Paths
from exporter.sources.containers.cgroup import open_files
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import Container, ContainerUsage, DiskUsage, EngineRow
from tests.parts import missing
from tests.sources.containers.engine import Engine, archive, wait_until
from tests.sources.containers.kernel_values import cgroup, received
from tests.sources.containers.polling import ContainerRows, polled
from tests.sources.containers.shared_containers import Three
from tests.sources.containers.test_real_engine import started_at

pytestmark = pytest.mark.real

SLEEP = ("sleep", "1000000")
V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()


@contextmanager
def extra(engine: Engine, name: str, command: tuple[str, ...], **options: Any) -> Iterator[Started]:
    """Runs an additional container, removed afterwards."""
    container = engine.run(name, command, **options)
    try:
        yield container
    finally:
        engine.call(container, "remove", force=True)


def test_a_stopped_container_keeps_its_state_and_loses_its_usage(engine: Engine) -> None:
    async def scenario() -> None:
        # The first run ends, the second one does not.
        command = "[ -e /ended ] && exec sleep 1000000; true > /ended; sleep 0.3; exit 7"
        with extra(engine, "ending", ("sh", "-c", command)) as container:
            wait_until(
                lambda: engine.inspect(container)["State"]["Status"] in engine.ended_states,
                20,
                "end",
            )
            async with polled(engine.url) as source:
                ended = (await source.poll())["ending"]
                state = engine.inspect(container)["State"]
                assert ended.state in engine.ended_states
                assert (ended.exit_code, ended.oom_killed) == (7, False)
                assert (ended.started, ended.last_seen) == (None, None)
                assert ended.finished > started_at(engine, container)
                assert state["FinishedAt"].startswith(
                    time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ended.finished))
                )
                assert ended.usage == ContainerUsage(ended.labels)
                # Started again: its event is received, and it is running.
                before = time.time()
                engine.call(container, "start")
                await source.until_listed(lambda rows: rows["ending"].finished != ended.finished)
                assert (await source.read_resources())["ending"].last_seen >= before

    asyncio.run(scenario())


def test_running_paused_and_restarted_by_policy(engine: Engine) -> None:
    async def scenario() -> None:
        policy = {"Name": "on-failure", "MaximumRetryCount": 2}
        failing = ("sh", "-c", "exit 3")
        with (
            extra(engine, "paused", SLEEP) as paused,
            extra(engine, "failing", failing, restart_policy=policy) as container,
        ):
            wait_until(
                lambda: engine.inspect(container)["RestartCount"] == 2, 20, "it was restarted twice"
            )
            async with polled(engine.url) as source:
                before = time.time()
                rows = await source.until_listed(
                    lambda rows: "failing" in rows and rows["failing"].state in engine.ended_states
                )
                assert (rows["failing"].restarts, rows["failing"].exit_code) == (2, 3)
                assert (rows["paused"].state, rows["paused"].restarts) == ("running", 0)
                assert rows["paused"].healthy is None
                assert before <= rows["paused"].last_seen <= time.time()
                engine.call(paused, "pause")
                rows = await source.until_listed(lambda rows: rows["paused"].state == "paused")
                assert rows["paused"].cpu_usage is not None

    asyncio.run(scenario())


def test_health(engine: Engine) -> None:
    check = {"test": ["CMD", "cat", "/healthy"], "interval": 200_000_000, "retries": 1}

    async def scenario() -> None:
        with extra(engine, "checked", SLEEP, healthcheck=check) as container:

            def healthy(rows: dict[str, ContainerRows]) -> bool:
                engine.check_health(container)
                return rows["checked"].healthy is True

            async with polled(engine.url) as source:
                # `starting` and `unhealthy` are not healthy.
                assert (await source.poll())["checked"].healthy is False
                engine.call(container, "put_archive", "/", archive("healthy"))
                await source.until_listed(healthy)

    asyncio.run(scenario())


def _has_ended(rows: dict[str, ContainerRows], engine: Engine) -> bool:
    """Between a container's end and the next list it is left out."""
    return "hungry" in rows and rows["hungry"].state in engine.ended_states


def _is_running(rows: dict[str, ContainerRows]) -> bool:
    return "hungry" in rows and rows["hungry"].state == "running"


def _kills(rows: dict[str, ContainerRows]) -> float | None:
    return rows["hungry"].oom_kills if "hungry" in rows else None


def test_an_oom_kill_is_counted_once(engine: Engine) -> None:
    """It ends the whole container; its cgroup is removed with the kernel's count."""
    hungry = (
        "n=first; [ -e /ended ] && n=again; until [ -e /$n ]; do sleep 0.1; done;"
        " true > /ended; x=a; while :; do x=$x$x; done"
    )

    async def scenario() -> None:
        with extra(
            engine, "hungry", ("sh", "-c", hungry), mem_limit=32 << 20, memswap_limit=32 << 20
        ) as container:
            async with polled(engine.url) as source:
                await source.poll()
                # The second reading starts the event stream.
                await source.until_listed(lambda _: source.has_events)
                first = (await source.read_resources())["hungry"]
                assert (first.oom_kills, first.oom_killed) == (0, False)
                engine.call(container, "put_archive", "/", archive("first"))
                rows = await source.until_listed(lambda rows: _has_ended(rows, engine), 20)
                oom_killed = engine.inspect(container)["State"]["OOMKilled"]
                # On cgroup v2 the engine itself may miss it: the cgroup is removed earlier.
                assert oom_killed or V2 or "oom_killed" in engine.limitations
                assert (rows["hungry"].oom_killed, rows["hungry"].exit_code) == (oom_killed, 137)
                # The kernel's count may have been read before the cgroup was removed; an event of
                # the engine may come later.
                counted = {1} if oom_killed else {0, 1}
                assert (last := rows["hungry"].oom_kills) in counted
                # The second run does not count it again; Docker 20.10 still reports OOMKilled.
                engine.call(container, "start")
                await source.until_listed(_is_running)
                for _ in range(3):
                    running = (await source.poll())["hungry"]
                    assert running.state == "running"
                    assert running.oom_kills in counted
                    assert running.oom_kills >= last
                    last = running.oom_kills
                # A second kill: the count adds up over the restart.
                engine.call(container, "put_archive", "/", archive("again"))
                rows = await source.until_listed(
                    lambda again: (
                        _has_ended(again, engine)
                        and again["hungry"].finished != rows["hungry"].finished
                    ),
                    20,
                )
                again = engine.inspect(container)["State"]["OOMKilled"]
                both = {kills + 1 for kills in counted} | (set() if again else counted)
                rows = await source.until_listed(lambda rows: _kills(rows) in both)
                assert rows["hungry"].oom_kills >= last

    asyncio.run(scenario())


def test_oom_kills_of_a_container_that_its_engine_restarts(engine: Engine) -> None:
    """No poll sees a run's end: the engine restarts the container after 0.1 s."""
    hungry = (
        "n=0; [ -e /n ] && read n < /n; n=$((n+1)); echo $n > /n;"
        " until [ -e /end$n ]; do sleep 0.1; done; x=a; while :; do x=$x$x; done"
    )
    policy = {"Name": "on-failure", "MaximumRetryCount": 2}
    limit = 32 << 20

    async def scenario() -> None:
        with extra(
            engine,
            "hungry",
            ("sh", "-c", hungry),
            mem_limit=limit,
            memswap_limit=limit,
            restart_policy=policy,
        ) as container:

            def is_in_run(number: int) -> bool:
                inspected = engine.inspect(container)
                running = inspected["State"]["Running"] and not inspected["State"]["Restarting"]
                return inspected["RestartCount"] == number - 1 and running

            async with polled(engine.url) as source:
                await source.until_listed(lambda _: source.has_events)
                for number in (1, 2, 3):
                    wait_until(lambda: is_in_run(number), 20, f"run {number}")  # noqa: B023 - called here
                    await source.until_listed(
                        lambda rows: _is_running(rows) and rows["hungry"].restarts == number - 1  # noqa: B023 - as above
                    )
                    for _ in range(3):
                        running = (await source.poll())["hungry"]
                        assert running.oom_kills in _reported(engine, number - 1)
                    engine.call(container, "put_archive", "/", archive(f"end{number}"))
                rows = await source.until_listed(
                    lambda rows: _has_ended(rows, engine) and rows["hungry"].restarts == 2, 20
                )
                assert rows["hungry"].exit_code == 137
                await source.until_listed(lambda rows: _kills(rows) in _reported(engine, 3))

    asyncio.run(scenario())


def _reported(engine: Engine, kills: int) -> Collection[int]:
    """Returns the possible counts after kills that ended a container."""
    certain = not V2 and "oom_killed" not in engine.limitations
    return (kills,) if certain else range(kills + 1)


def test_an_oom_kill_of_a_child_process_is_counted_once(engine: Engine) -> None:
    """The container keeps running: kernel and engine both report the kill."""
    hungry = "sh -c 'x=a; while :; do x=$x$x; done'; exec sleep 1000000"

    async def scenario() -> None:
        with extra(
            engine, "parent", ("sh", "-c", hungry), mem_limit=32 << 20, memswap_limit=32 << 20
        ) as container:
            async with polled(engine.url) as source:
                await source.until_listed(lambda rows: rows["parent"].oom_kills == 1, 20)
                # The engine's event may precede the kernel's count.
                folder = cgroup(container, "memory")
                v1 = folder / "memory.oom_control"
                counts = v1 if v1.exists() else folder / "memory.events"
                wait_until(lambda: "oom_kill 1\n" in counts.read_text(), 20, "the kernel counts it")
                for _ in range(3):
                    rows = await source.poll()
                    assert rows["parent"].oom_kills == 1
                assert rows["parent"].state == "running"

    asyncio.run(scenario())


def test_own_and_shared_networks(engine: Engine) -> None:
    async def scenario() -> None:
        with (
            engine.bridge("shop"),
            extra(engine, "owner", SLEEP, network="shop") as owner,
            extra(engine, "joined", SLEEP, network_mode=f"container:{owner.id}"),
            extra(engine, "onhost", SLEEP, network_mode="host"),
            extra(engine, "alone", SLEEP, network_mode="none"),
        ):
            inspected = engine.inspect(owner)
            pid = inspected["State"]["Pid"]
            address = inspected["NetworkSettings"]["Networks"]["shop"]["IPAddress"]
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                for _ in range(50):
                    sender.sendto(bytes(1000), (address, 9))
            wait_until(lambda: received(pid) >= 50_000, 20, "it has received the packets")
            async with polled(engine.url) as source:
                await source.poll()
                low = received(pid)
                rows = await source.read_resources()
                high = received(pid)
                (eth0,) = rows["owner"].interfaces
                assert eth0.name == "eth0"
                assert low <= eth0.receive_bytes <= high
                assert eth0.receive_bytes >= 50_000
                assert eth0.receive_packets >= 50
                for name in ("joined", "onhost", "alone"):
                    assert rows[name].interfaces == (), name
                assert rows["owner"].addresses == (address,)
                assert rows["joined"].network.mode == f"container:{owner.id}"

    asyncio.run(scenario())


def test_a_change_of_networks_is_detected(engine: Engine) -> None:
    async def scenario() -> None:
        with (
            engine.bridge("shop"),
            engine.bridge("back"),
            engine.client() as client,
            extra(engine, "owner", SLEEP, network="shop") as owner,
        ):
            async with polled(engine.url) as source:
                await source.until_listed(lambda _: source.has_events)
                assert len((await source.poll())["owner"].addresses) == 1
                client.networks.get("back").connect(owner)
                networks = engine.inspect(owner)["NetworkSettings"]["Networks"]
                addresses = {endpoint["IPAddress"] for endpoint in networks.values()}
                assert len(addresses) == 2
                await source.until_listed(lambda rows: set(rows["owner"].addresses) == addresses)
                client.networks.get("back").disconnect(owner)
                await source.until_listed(lambda rows: len(rows["owner"].addresses) == 1)

    asyncio.run(scenario())


def test_limits_and_their_change(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change shows after the engine's event; Podman 4.3 sends none, so after the interval."""
    if "update" in engine.limitations:
        monkeypatch.setattr(open_files, "LIMITS_INTERVAL", 1.0)

    async def scenario() -> None:
        limits = {
            "cpu_period": 50_000,
            "cpu_quota": 25_000,
            "cpu_shares": 512,
            "mem_limit": 64 << 20,
            "memswap_limit": 128 << 20,
            "mem_reservation": 32 << 20,
            "pids_limit": 77,
        }
        with extra(engine, "limited", SLEEP, **limits) as container:
            async with polled(engine.url) as source:
                rows = await source.until_listed(lambda _: source.has_events)
                spec = rows["limited"].spec
                assert (spec.cpu_quota, spec.cpu_period) == (25_000, 50_000)
                assert (spec.memory, spec.memory_and_swap) == (64 << 20, 128 << 20)
                assert (spec.memory_reservation, spec.threads) == (32 << 20, 77)
                assert rows["limited"].cpu_shares == 512
                engine.update(container, 96 << 20, 192 << 20)
                rows = await source.until_listed(lambda rows: rows["limited"].spec != spec)
                assert rows["limited"].memory_limit == 96 << 20

    asyncio.run(scenario())


@pytest.mark.usefixtures("three")
def test_processes_threads_and_faults(engine: Engine) -> None:
    command = ("sh", "-c", "sleep 1000 & sleep 1000 & exec sleep 1000")

    async def scenario() -> None:
        with extra(engine, "family", command) as container:
            folder = cgroup(container, "pids")
            wait_until(lambda: len((folder / "cgroup.procs").read_text().split()) == 3, 20, "three")

            def page_faults() -> int:
                stat = (cgroup(container, "memory") / "memory.stat").read_text().split()
                key = "total_pgfault" if "total_pgfault" in stat else "pgfault"
                return int(stat[stat.index(key) + 1])

            async with polled(engine.url) as source:
                low = page_faults()
                family = (await source.poll())["family"]
                high = page_faults()
                assert (family.processes, family.threads) == (3, 3)
                assert low <= family.page_faults <= high  # of programs that may be starting

    asyncio.run(scenario())


def test_usage_equals_the_engines_stats(engine: Engine, three: Three) -> None:
    """Every number that both have, of an idle container."""

    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.poll()
            # The stats reply must be between two equal readings.
            for _ in range(20):
                before = (await source.read_resources())["idle"].usage
                with engine.client() as client:
                    stats = client.api.stats(str(three.idle.id), stream=False)
                if (await source.read_resources())["idle"].usage == before:
                    break
            memory_stats = stats["memory_stats"]
            assert before.cpu_usage == stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
            assert before.memory == memory_stats["usage"]
            assert before.threads == stats["pids_stats"]["current"]
            if "parts of memory" in engine.limitations:
                assert "stats" not in memory_stats
                return
            values = memory_stats["stats"]
            v1 = "total_rss" in values
            assert before.rss == values["total_rss" if v1 else "anon"]
            assert before.cache == values["total_cache" if v1 else "file"]
            assert before.mapped_file == values["total_mapped_file" if v1 else "file_mapped"]
            assert before.page_faults == values["total_pgfault" if v1 else "pgfault"]
            if v1:
                assert before.peak == memory_stats["max_usage"]
                assert before.limit_hits == memory_stats.get("failcnt", 0)

    asyncio.run(scenario())


def test_a_run_between_two_polls_is_counted_as_missed(engine: Engine) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:

            async def missed() -> int:
                (row,) = (await source.engine.read()).rows
                assert isinstance(row, EngineRow)
                return row.missed

            await source.until_listed(lambda _: source.has_events)
            assert await missed() == 0
            for number in range(3):
                engine.run_to_completion(f"short{number}", "true")
            end = time.monotonic() + 30
            while await missed() < 3:
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            assert await missed() == 3
            # A run that is read is not missed.
            with extra(engine, "longer", SLEEP) as container:
                await source.until_listed(lambda rows: "longer" in rows)
                engine.call(container, "kill")
                # Between its end and the next list it is left out.
                await source.until_listed(
                    lambda rows: "longer" in rows and rows["longer"].state in engine.ended_states
                )
            assert await missed() == 3

    asyncio.run(scenario())


@pytest.mark.usefixtures("three")
def test_labels_filters_and_the_limit(engine: Engine) -> None:
    labels = {"team": "vision", "secret": "hunter2", "a.b-c": "x" * 1000}

    async def exported(**settings: Any) -> tuple[set[str], dict[str, int], str]:
        async with polled(engine.url, **settings) as source:
            reading = await source.engine.read()
            assert reading.problems == ()
            (row,) = reading.rows
            assert isinstance(row, EngineRow)
            rows = await source.read_resources()
            texts = "".join(repr(container.row) for container in rows.values())
            return set(rows), dict(row.left_out), texts

    async def scenario() -> None:
        with extra(engine, "labelled", SLEEP, labels=labels):
            everything = {"busy", "idle", "restarted", "labelled"}
            names, left_out, text = await exported(labels=("team", "a.b-c", "not.there"))
            assert names == everything
            assert left_out == {"filter": 0, "ceiling": 0, "unreadable": 0}
            assert "('container_label_team', 'vision')" in text
            assert f"('container_label_a_b_c', '{'x' * 256}')" in text
            assert "hunter2" not in text
            assert (await exported(name_exclude="(idle|busy)"))[:2] == (
                {"restarted", "labelled"},
                {"filter": 2, "ceiling": 0, "unreadable": 0},
            )
            assert (await exported(name_include="b.*"))[0] == {"busy"}
            assert (await exported(image_exclude=engine.image))[:2] == (
                set(),
                {"filter": 4, "ceiling": 0, "unreadable": 0},
            )
            assert (await exported(label_include="team=.*"))[0] == {"labelled"}
            assert (await exported(label_exclude="team=vision"))[0] == everything - {"labelled"}
            names, left_out, _ = await exported(max_containers=2)
            assert len(names) == 2
            assert "labelled" in names  # the newest container
            assert left_out == {"filter": 0, "ceiling": 2, "unreadable": 0}

    asyncio.run(scenario())


def test_disk_usage_is_a_separate_target(engine: Engine) -> None:
    async def scenario() -> None:
        command = ("sh", "-c", "dd if=/dev/zero of=/file bs=1M count=3; exec sleep 1000000")
        with extra(engine, "writer", command) as container:
            wait_until(lambda: b"3+0" in engine.call(container, "logs"), 20, "it has written")
            async with polled(engine.url, disk_usage_interval=60) as source:
                await source.poll()
                disk = (await source.source.discover())[2]
                end = time.monotonic() + 60
                while not (rows := (await disk.read()).rows):
                    assert time.monotonic() < end
                    await asyncio.sleep(0.05)
                (row,) = rows
                assert isinstance(row, DiskUsage)
                assert dict(row.layers)["writer", engine.image] >= 3 << 20
                assert dict(row.counts)["images"] == 1
                if "size of layers" in engine.limitations:
                    assert "images" not in dict(row.totals)
                else:
                    assert dict(row.totals)["images"] > 500_000
                assert dict(row.totals)["containers"] >= 3 << 20

    asyncio.run(scenario())


def test_no_series_is_duplicated(engine: Engine, three: Three) -> None:
    """Of all usage metrics with labels."""

    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.poll()
            reading = await source.resources.read()
            for metric in METRICS:
                for row in reading.rows:
                    if (
                        isinstance(row, metric.row)
                        and metric.labels
                        and isinstance(row, ContainerUsage)
                    ):
                        keys = [labels for labels, _ in metric.get(row)]
                        assert len(keys) == len(set(keys))
            names = [row.labels[0] for row in reading.rows if isinstance(row, Container)]
            assert set(names) >= {str(container.name) for container in three.all()}

    asyncio.run(scenario())


@pytest.mark.skipif(not V2, reason="only on cgroup v2")
def test_block_io_of_version_two(engine: Engine) -> None:
    """Compared with the kernel's files, read independently."""
    write = "while :; do dd if=/dev/zero of=/file bs=64k count=16 conv=fsync; sleep 1; done"

    async def scenario() -> None:
        with extra(engine, "writing", ("sh", "-c", write)) as container:
            folder = cgroup(container, "")
            async with polled(engine.url) as source:
                await source.poll()
                wait_until(lambda: written(folder) >= 1 << 20, 60, "it has written")
                low = written(folder)
                (device, *_) = (await source.read_resources())["writing"].io
                high = written(folder)
                assert low <= device.writes_bytes <= high
                assert device.writes_bytes >= 1 << 20
                assert device.writes > 0
                assert device.device.startswith("/dev/")
                row = (await source.read_resources())["writing"]
                assert row.peak >= row.working_set
                assert row.cpu_user + row.cpu_system == pytest.approx(row.cpu_usage, abs=0.01)

    asyncio.run(scenario())


def written(folder: Path) -> int:
    """Returns the bytes written to the first device of a v2 cgroup; 0 without one."""
    _, *parts = (folder / "io.stat").read_text().split("wbytes=")
    return int(parts[0].split()[0]) if parts else 0


@pytest.fixture
def sysfs_of_version_two(tmp_path: Path) -> Path:
    """A sysfs whose cgroup hierarchy is this machine's v2.

    Also on a host with v1: if a v2 hierarchy without controllers is mounted, runc and crun create a
    container's cgroup there, too.
    """
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    roots = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    if not roots or not Path("/proc/pressure").is_dir():
        missing("no cgroup2 hierarchy, or a kernel without PSI")
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "cgroup").symlink_to(roots[0])
    return tmp_path


def test_pressure_of_version_two(engine: Engine, sysfs_of_version_two: Path) -> None:
    """Compared with the kernel's files, read independently: two loops wait for the same CPU."""
    loops = "while :; do :; done & while :; do :; done"
    cpu = str(min(os.sched_getaffinity(0)))

    async def scenario() -> None:
        with extra(engine, "waiting", ("sh", "-c", loops), cpuset_cpus=cpu) as container:
            (folder,) = (
                (sysfs_of_version_two / "fs" / "cgroup").resolve().glob(f"**/*{container.id}*")
            )
            wait_until(lambda: stalled(folder)["cpu"][0] > 0.1, 60, "they have waited")
            async with polled(engine.url, Paths(sysfs=str(sysfs_of_version_two))) as source:
                await source.poll()
                low = stalled(folder)
                rows = await source.read_resources()
                high = stalled(folder)
                pressure = {name: (some, full) for name, some, full in rows["waiting"].pressure}
                assert pressure.keys() == {"cpu", "memory", "io"}
                for resource, values in pressure.items():
                    for before, value, after in zip(
                        low[resource], values, high[resource], strict=True
                    ):
                        assert before <= value <= after, resource
                assert source.usage_source == "cgroup"
                # It grows while they wait.
                await source.until(
                    lambda rows: rows["waiting"].pressure[0].some_seconds > high["cpu"][0]
                )

    asyncio.run(scenario())


def stalled(folder: Path) -> dict[str, tuple[float, float]]:
    """Returns the seconds `some` and `full` of a v2 cgroup's pressure files, by resource."""
    lines = {
        resource: (folder / f"{resource}.pressure").read_text().splitlines()
        for resource in ("cpu", "memory", "io")
    }
    some_and_full = {
        resource: [int(line.split("total=")[1]) / 1e6 for line in of_file]
        for resource, of_file in lines.items()
    }
    return {resource: (some, full) for resource, (some, full) in some_and_full.items()}
