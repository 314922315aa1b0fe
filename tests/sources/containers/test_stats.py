"""Resource usage from the engine's stats calls, valid and invalid."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from exporter.errors import DeadlineExceeded
from exporter.model import Reading
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import ContainerUsage
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
    stats_path,
    stats_reply,
)
from tests.sources.containers.polling import PolledSource, by_name
from tests.sources.containers.test_engine_replies import HTML, scenario
from tests.waiting import until_result


def test_values_of_the_stats_call() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        limited = inspect_reply(2, HostConfig={"Memory": 8_000_000_000})
        fake.replies[inspect_path(2)] = http_reply(limited)
        rows = await source.poll()
        c1, c2 = rows["c1"], rows["c2"]
        assert (c1.cpu_usage, c1.memory, c1.working_set) == (2.5, 1000, 600)
        assert (c1.memory_limit, c2.memory_limit) == (None, 8_000_000_000)
        assert c1.started == pytest.approx(1_767_323_045.678901)

    scenario(body)


@pytest.mark.parametrize(
    "reply",
    [
        http_reply(HTML),
        http_reply([]),
        http_reply({}),
        http_reply(stats_reply(cpu_stats=None, memory_stats=7)),
        http_reply({"message": "stuck"}, 500),
    ],
)
def test_invalid_stats_of_a_container_do_not_affect_others(reply: bytes) -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[stats_path(1)] = reply
        await source.engine.read()
        await source.resources.read()  # the first one reports the fallback as well
        reading = await source.resources.read()
        rows = by_name(reading)
        assert rows["c1"].usage == ContainerUsage(rows["c1"].labels)
        assert rows["c1"].id == container_id(1)
        assert rows["c2"].cpu_usage == 2.5
        assert len(reading.problems) == 1

    scenario(body)


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"cpu_stats": {"cpu_usage": {"total_usage": -1}}}, "cpu_usage"),
        ({"cpu_stats": {"cpu_usage": {"total_usage": 10**30}}}, "cpu_usage"),
        ({"cpu_stats": {"cpu_usage": {"total_usage": 2**64 - 5}}}, "cpu_usage"),
        ({"cpu_stats": None}, "cpu_usage"),
        ({"memory_stats": {"usage": "much", "stats": {"inactive_file": 400}}}, "memory"),
        ({"memory_stats": {"usage": 1000, "stats": {"inactive_file": -400}}}, "inactive_file"),
        ({"memory_stats": {"usage": 1000, "stats": 3}}, "inactive_file"),
    ],
)
def test_one_strange_member_of_the_stats_costs_that_member(
    changes: dict[str, Any], lost: str
) -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[stats_path(1)] = http_reply(stats_reply(**changes))
        await source.engine.read()
        await source.resources.read()  # the first one reports the fallback as well
        reading = await source.resources.read()
        used = by_name(reading)["c1"].usage
        expected = {"cpu_usage": 2.5, "memory": 1000, "inactive_file": 400} | {lost: None}
        assert {name: getattr(used, name) for name in expected} == expected
        assert [problem.subject for problem in reading.problems] == ["stats"]

    scenario(body)


# docker/for-win#1716.
WINDOWS = {
    "read": "2018-02-16T17:33:08.6050714Z",
    "preread": "0001-01-01T00:00:00Z",
    "pids_stats": {},
    "blkio_stats": {"io_service_bytes_recursive": None, "io_serviced_recursive": None},
    "num_procs": 8,
    "cpu_stats": {
        "cpu_usage": {
            "total_usage": 120_087_827_528,
            "usage_in_kernelmode": 0,
            "usage_in_usermode": 0,
        },
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    },
    "memory_stats": {"commitbytes": 1_088_184_320, "privateworkingset": 673_415_168},
    "networks": {"a59cc8d1-ae78-451d-ba71-dc813f100071": {"rx_bytes": 5, "tx_bytes": 7}},
}


def test_cpu_time_that_is_not_divided_has_no_parts() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[stats_path(1)] = http_reply(WINDOWS)
        c1 = (await source.poll())["c1"]
        assert (c1.cpu_usage, c1.cpu_user, c1.cpu_system) == (120.087827528, None, None)
        assert (c1.memory, c1.threads, c1.io) == (None, None, ())
        assert [interface.receive_bytes for interface in c1.interfaces] == [5]
        idle = {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}
        fake.replies[stats_path(1)] = http_reply(stats_reply(cpu_stats={"cpu_usage": idle}))
        c1 = (await source.poll())["c1"]
        assert (c1.cpu_usage, c1.cpu_user, c1.cpu_system) == (0, 0, 0)

    scenario(body)


def test_missing_memory_stats_are_omitted() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[stats_path(1)] = http_reply(stats_reply(memory_stats={}))
        c1 = (await source.poll())["c1"]
        assert (c1.memory, c1.working_set, c1.memory_limit) == (None, None, None)
        assert c1.cpu_usage == 2.5

    scenario(body)


def test_stats_that_hang_for_a_container_do_not_affect_others() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        await source.poll()
        fake.replies[stats_path(1)] = fake.hang

        async def read() -> Reading:
            """Returns an empty reading if the read takes longer than the timeout."""
            with contextlib.suppress(TimeoutError, DeadlineExceeded):
                async with asyncio.timeout(0.6):
                    return await source.resources.read()
            return Reading(())

        def is_of_the_other(reading: Reading) -> bool:
            rows = by_name(reading)
            return "c2" in rows and rows["c2"].cpu_usage == 2.5

        with source.timeout(0.6):
            for _ in range(3):
                # A busy machine may delay both, now and then.
                reading = await until_result(read, is_of_the_other, 20)
                assert by_name(reading)["c1"].cpu_usage is None
                assert [problem.kind for problem in reading.problems] == ["timeout"]

    scenario(body)


# As reported by Podman 4: the sum of all interfaces, with bytes only.
SUM = {
    "rx_bytes": 7,
    "tx_bytes": 9,
    **dict.fromkeys(
        [
            *("rx_packets", "rx_errors", "rx_dropped"),
            *("tx_packets", "tx_errors", "tx_dropped"),
        ],
        0,
    ),
}


@pytest.mark.parametrize(
    ("version", "network", "expected"),
    [
        ("4.3.1", SUM, (9, 7, None)),
        ("4.4.0-dev", SUM, (7, 9, None)),
        ("4.9.4", SUM, (7, 9, None)),
        ("3.0.1+dfsg1-3+deb11u5", SUM, (9, 7, None)),
        ("", SUM, None),
        ("nightly", SUM, None),
        ("4.3.1", {**SUM, "rx_packets": 1}, (7, 9, 1)),  # an interface of this name
    ],
)
def test_the_sum_of_all_interfaces(
    version: str, network: dict[str, int], expected: tuple[int, int, int | None] | None
) -> None:
    """Podman: before 4.4 the directions are swapped; packets are not counted."""

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies["/version"] = http_reply({"ApiVersion": "1.41", "Version": version})
        fake.replies[stats_path(1)] = http_reply(stats_reply(networks={"network": network}))
        silent = inspect_reply(2, HostConfig={"NetworkMode": "none"})
        fake.replies[inspect_path(2)] = http_reply(silent)
        fake.replies[stats_path(2)] = http_reply(stats_reply(networks={"network": SUM}))
        rows = await source.poll()
        assert rows["c2"].interfaces == ()
        interfaces = [
            (interface.receive_bytes, interface.transmit_bytes, interface.receive_packets)
            for interface in rows["c1"].interfaces
        ]
        assert interfaces == ([expected] if expected else [])
        exported = {
            metric.name
            for metric in METRICS
            if metric.name.startswith("container_network_") and list(metric.get(rows["c1"].usage))
        }
        if expected is None:
            assert exported == set()
        elif expected[2] is None:
            assert exported == {
                "container_network_receive_bytes_total",
                "container_network_transmit_bytes_total",
            }
        else:
            assert len(exported) == 8

    scenario(body)


@pytest.mark.parametrize("version", ["1.24", "1.40", "1.44", "1.52", "1.56", "2.0"])
def test_calls_are_made_in_the_engines_own_version(version: str) -> None:
    """Docker 29 refuses versions below 1.40 (1.44 by default), 20.10 those above 1.41."""

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        assert set(await source.poll()) == {"c1", "c2"}
        prefix = f"/v{version}/"
        assert {path for path in fake.paths if not path.startswith(prefix)} == {"/version"}
        targets = [target for target in fake.targets if "/stats" in target]
        one_shot = version not in ("1.24", "1.40")
        assert all(("one-shot" in target) is one_shot for target in targets)

    scenario(body, FakeEngine(version=version))


def test_stats_calls_run_in_parallel() -> None:
    gate = threading.Barrier(20)

    def together() -> bytes:
        gate.wait(20)  # breaks unless all twenty calls are in flight at the same time
        return http_reply(stats_reply())

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        for number in range(1, 21):
            fake.replies[stats_path(number)] = together
        assert len(await source.poll()) == 20

    scenario(body, FakeEngine(containers=20))


def test_an_older_api_gets_no_one_shot() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        assert set(await source.poll()) == {"c1", "c2"}
        assert f"/v1.30/containers/{container_id(1)}/stats" in fake.paths

    scenario(body, FakeEngine(version="1.30"))
