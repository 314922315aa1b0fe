"""The NVLink fabric: the newest structure of the driver, the health mask, cliques."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pynvml
import pytest

from exporter.errors import Unreachable
from exporter.model import Reading
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.fakes.nvml.uncaptured import FABRIC
from tests.sources.gpu.polling import Samples, opened, poll, samples

pytestmark = pytest.mark.skipif(
    not hasattr(pynvml, "c_nvmlGpuFabricInfo_v4_t"), reason="an old release of pynvml"
)
V4, V2_OR_3 = "nvmlDeviceGetGpuFabricInfo_v4", "nvmlDeviceGetGpuFabricInfoV"
CLUSTER = "01020304-0506-0708-090a-0b0c0d0e0f00"
CONDITIONS = (
    "degraded_bandwidth",
    "route_recovery",
    "route_unhealthy",
    "access_timeout_recovery",
    "partition_unassigned",
    "manager_disconnected",
)
HEALTHY: Samples = {
    ("gpu_fabric_state", ()): 3,
    ("gpu_fabric_ok", ()): 1,
    ("gpu_fabric_health", ()): 1,
    ("gpu_fabric_incorrect_configuration", ()): 0,
    ("gpu_fabric_clique_member", (CLUSTER, "unicast_pointer", "7")): 1,
    ("gpu_fabric_clique_member", (CLUSTER, "multicast_pointer", "8")): 1,
    **{("gpu_fabric_condition_active", (condition,)): 0 for condition in CONDITIONS},
}


def fabric(driver: Driver) -> Samples:
    """Returns the fabric's samples of GPU 0."""

    async def main() -> Samples:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
        assert isinstance(outcome, Reading)
        assert not outcome.problems
        return {
            key: value for key, value in samples(outcome).items() if key[0].startswith("gpu_fabric")
        }

    return asyncio.run(main())


def test_version_4(driver: Driver) -> None:
    driver.gpu(0).set(V4, **FABRIC)
    assert fabric(driver) == HEALTHY
    assert driver.gpu(0).count(V2_OR_3).calls == 0


# The bits of nvml.h: degraded 0-1, route recovery 2-3, unhealthy 4-5, access timeout 6-7,
# configuration 8-11, partition assigned 12-13, fabric manager 14-15.
@pytest.mark.parametrize(
    ("mask", "active"),
    [
        (0b01, {"degraded_bandwidth": 1}),
        (0b10, {"degraded_bandwidth": 0}),
        (0b01_10, {"degraded_bandwidth": 0, "route_recovery": 1}),
        (0b01 << 4, {"route_unhealthy": 1}),
        (0b01 << 6, {"access_timeout_recovery": 1}),
        (0b01 << 12, {"partition_unassigned": 0}),
        (0b10 << 12, {"partition_unassigned": 1}),
        (0b01 << 14, {"manager_disconnected": 0}),
        (0b10 << 14, {"manager_disconnected": 1}),
        (0b11, {}),
        (0, {}),
    ],
)
def test_conditions(driver: Driver, mask: int, active: dict[str, int]) -> None:
    driver.gpu(0).set(V4, **FABRIC | {"healthMask": mask})
    shown = fabric(driver)
    assert {
        labels[0]: value
        for (name, labels), value in shown.items()
        if name == "gpu_fabric_condition_active"
    } == active
    assert ("gpu_fabric_incorrect_configuration", ()) not in shown


@pytest.mark.parametrize(("number", "problem"), [(1, 0), (2, 2), (5, 5), (8, 8)])
def test_configuration(driver: Driver, number: int, problem: int) -> None:
    driver.gpu(0).set(V4, **FABRIC | {"healthMask": number << 8})
    assert fabric(driver)["gpu_fabric_incorrect_configuration", ()] == problem


def test_version_3(driver: Driver) -> None:
    driver.gpu(0).set(V2_OR_3, healthSummary=3, healthMask=0b01, cliqueId=42, clusterUuid="A")
    assert fabric(driver) == {
        ("gpu_fabric_state", ()): 3,
        ("gpu_fabric_ok", ()): 1,
        ("gpu_fabric_health", ()): 3,
        ("gpu_fabric_condition_active", ("degraded_bandwidth",)): 1,
        ("gpu_fabric_clique_member", ("41000000-0000-0000-0000-000000000000", "", "42")): 1,
    }


def test_version_2(driver: Driver) -> None:
    driver.gpu(0).set(V2_OR_3, healthMask=0b01_00)
    assert fabric(driver) == {
        ("gpu_fabric_state", ()): 3,
        ("gpu_fabric_ok", ()): 1,
        ("gpu_fabric_condition_active", ("route_recovery",)): 1,
    }


def test_before_the_registration(driver: Driver) -> None:
    driver.gpu(0).set(V4, **FABRIC | {"state": 2, "healthMask": 5 << 8, "healthSummary": 0})
    assert fabric(driver) == {
        ("gpu_fabric_state", ()): 2,
        ("gpu_fabric_incorrect_configuration", ()): 5,
    }


def test_versions_are_asked_again_after_an_hour_only(
    driver: Driver, advance: Callable[[float], None]
) -> None:
    gpu = driver.gpu(0)

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            assert [gpu.count(name).calls for name in (V4, V2_OR_3)] == [1, 2]
            advance(60)
            await poll(source)
            assert [gpu.count(name).calls for name in (V4, V2_OR_3)] == [1, 3]

    asyncio.run(main())


def test_a_failure_of_the_newest_version_is_not_answered_by_an_older_one(driver: Driver) -> None:
    driver.gpu(0).set(V4, **FABRIC)
    driver.gpu(0).fail(V4, standin.UNKNOWN)

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
        assert isinstance(outcome, Reading)
        assert [type(problem) for problem in outcome.problems] == [Unreachable]
        assert ("gpu_fabric_state", ()) not in samples(outcome)

    asyncio.run(main())


@pytest.mark.parametrize("gpus", [8])
def test_the_unrepairable_memory_flag(driver: Driver) -> None:
    driver.gpu(0).set("nvmlDeviceGetUnrepairableMemoryFlag_v1", unrepairableMemory=1)
    driver.gpu(1).set("nvmlDeviceGetUnrepairableMemoryFlag_v1", unrepairableMemory=0)

    async def main() -> None:
        async with opened(driver) as source:
            outcomes = await poll(source)
        assert samples(outcomes[uuid(0)])["gpu_unrepairable_memory", ()] == 1
        assert samples(outcomes[uuid(1)])["gpu_unrepairable_memory", ()] == 0
        assert ("gpu_unrepairable_memory", ()) not in samples(outcomes[uuid(2)])

    asyncio.run(main())
