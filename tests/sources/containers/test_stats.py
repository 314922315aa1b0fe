"""What the source makes of the engine's `stats` calls, good and bad."""

from __future__ import annotations

import asyncio
import threading

import pytest

from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import ContainerUsage
from tests.fakes.container_engine import FakeEngine, http, inspected, key, stats
from tests.sources.containers.polling import Polled, by_name
from tests.sources.containers.test_engine_replies import HTML, scenario


def test_values_of_the_stats_call() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        limited = inspected(2, HostConfig={"Memory": 8_000_000_000})
        fake.replies[f"/containers/{key(2)}/json"] = http(limited)
        rows = await source.both()
        one, two = rows["c1"], rows["c2"]
        assert (one.cpu, one.memory, one.working_set) == (2.5, 1000, 600)
        assert (one.memory_limit, two.memory_limit) == (None, 8_000_000_000)
        assert one.started == pytest.approx(1_767_323_045.678901)

    scenario(body)


@pytest.mark.parametrize(
    "reply",
    [
        http(HTML),
        http(stats(cpu_stats={"cpu_usage": {"total_usage": -1}})),
        http(stats(cpu_stats={"cpu_usage": {"total_usage": 10**30}})),
        http(stats(cpu_stats=None)),
        http(stats(memory_stats={"usage": "much"})),
        http({"message": "stuck"}, 500),
    ],
)
def test_bad_stats_of_one_container_cost_its_numbers_alone(reply: bytes) -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[f"/containers/{key(1)}/stats"] = reply
        await source.engine.read()
        await source.resources.read()  # the first tells of the fallback as well
        reading = await source.resources.read()
        rows = by_name(reading)
        assert rows["c1"].usage == ContainerUsage(rows["c1"].labels)
        assert rows["c1"].id == key(1)
        assert rows["c2"].cpu == 2.5
        assert len(reading.problems) == 1

    scenario(body)


def test_memory_that_is_not_told_is_absent() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[f"/containers/{key(1)}/stats"] = http(stats(memory_stats={}))
        one = (await source.both())["c1"]
        assert (one.memory, one.working_set, one.memory_limit) == (None, None, None)
        assert one.cpu == 2.5

    scenario(body)


def test_stats_that_hang_for_one_container_cost_its_numbers_alone() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        await source.both()
        fake.replies[f"/containers/{key(1)}/stats"] = fake.hang
        for _ in range(3):
            async with asyncio.timeout(0.6):
                reading = await source.resources.read()
            rows = by_name(reading)
            assert (rows["c1"].cpu, rows["c2"].cpu) == (None, 2.5)
            assert [problem.kind for problem in reading.problems] == ["timeout"]

    scenario(body, deadline=0.6)


# As Podman 4 has it: one for all interfaces, with bytes and nothing else.
SUM = {
    "rx_bytes": 7,
    "tx_bytes": 9,
    **dict.fromkeys(
        [f"{way}_{what}" for way in ("rx", "tx") for what in ("packets", "errors", "dropped")], 0
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
        ("4.3.1", {**SUM, "rx_packets": 1}, (7, 9, 1)),  # an interface that has this name
    ],
)
def test_the_sum_of_all_interfaces(
    version: str, network: dict[str, int], expected: tuple[int, int, int | None] | None
) -> None:
    """Podman: before 4.4 its directions are swapped; packets are not counted."""

    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies["/version"] = http({"ApiVersion": "1.41", "Version": version})
        fake.replies[f"/containers/{key(1)}/stats"] = http(stats(networks={"network": network}))
        silent = inspected(2, HostConfig={"NetworkMode": "none"})
        fake.replies[f"/containers/{key(2)}/json"] = http(silent)
        fake.replies[f"/containers/{key(2)}/stats"] = http(stats(networks={"network": SUM}))
        rows = await source.both()
        assert rows["c2"].interfaces == ()
        found = [
            (each.receive_bytes, each.transmit_bytes, each.receive_packets)
            for each in rows["c1"].interfaces
        ]
        assert found == ([expected] if expected else [])
        shown = {
            metric.name
            for metric in METRICS
            if metric.name.startswith("container_network_") and list(metric.get(rows["c1"].usage))
        }
        if expected is None:
            assert shown == set()
        elif expected[2] is None:
            assert shown == {
                "container_network_receive_bytes_total",
                "container_network_transmit_bytes_total",
            }
        else:
            assert len(shown) == 8

    scenario(body)


@pytest.mark.parametrize("version", ["1.24", "1.40", "1.44", "1.52", "1.56", "2.0"])
def test_calls_are_made_in_the_engines_own_version(version: str) -> None:
    """Docker 29 takes no call below 1.40 (1.44 by default), 20.10 none above 1.41."""

    async def body(fake: FakeEngine, source: Polled) -> None:
        assert set(await source.both()) == {"c1", "c2"}
        prefix = f"/v{version}/"
        assert {each for each in fake.asked if not each.startswith(prefix)} == {"/version"}
        asked = [each for each in fake.queries if "/stats" in each]
        assert all(("one-shot" in each) is (version not in ("1.24", "1.40")) for each in asked)

    scenario(body, FakeEngine(version=version))


def test_stats_are_asked_for_side_by_side() -> None:
    gate = threading.Barrier(20)

    def together() -> bytes:
        gate.wait(5)  # breaks, unless all twenty wait at one time
        return http(stats())

    async def body(fake: FakeEngine, source: Polled) -> None:
        for number in range(1, 21):
            fake.replies[f"/containers/{key(number)}/stats"] = together
        assert len(await source.both()) == 20

    scenario(body, FakeEngine(containers=20), deadline=10)


def test_an_older_api_is_asked_without_one_shot() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        assert set(await source.both()) == {"c1", "c2"}
        assert f"/v1.30/containers/{key(1)}/stats" in fake.asked

    scenario(body, FakeEngine(version="1.30"))
