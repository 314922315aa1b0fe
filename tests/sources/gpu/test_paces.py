"""The pace of each question, and its answer in between."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from exporter.errors import SourceError, Unreachable
from exporter.model import Metric, Reading
from exporter.sources.gpu.metrics import METRICS
from exporter.sources.gpu.nvml import calls, fields, pace
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.nvml.questions import Question, Questions
from exporter.sources.gpu.reading import GpuValues
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml import cards, standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import Samples, opened, poll, samples
from tests.waiting import until_result

Advance = Callable[[float], None]

# Calls of the H100 with every answer in a minute of polls every 5 s, after the first poll.
EVERY_POLL = 12
CALLS = {
    "nvmlDeviceGetTotalEnergyConsumption": EVERY_POLL,
    "nvmlDeviceGetUtilizationRates": EVERY_POLL,
    "nvmlDeviceGetMemoryInfo_v2": EVERY_POLL,
    "nvmlDeviceGetPowerUsage": EVERY_POLL,
    "nvmlDeviceGetTemperatureV": EVERY_POLL,
    "nvmlDeviceGetClockInfo": 4 * EVERY_POLL,
    "nvmlDeviceGetPerformanceState": EVERY_POLL,
    "nvmlDeviceGetEncoderUtilization": EVERY_POLL,
    "nvmlDeviceGetDecoderUtilization": EVERY_POLL,
    "nvmlDeviceGetJpgUtilization": EVERY_POLL,
    "nvmlDeviceGetOfaUtilization": EVERY_POLL,
    "nvmlDeviceGetEncoderStats": EVERY_POLL,
    "nvmlDeviceGetCurrPcieLinkGeneration": EVERY_POLL,
    "nvmlDeviceGetCurrentClocksEventReasons": EVERY_POLL,
    "nvmlDeviceGetComputeRunningProcesses_v3": EVERY_POLL,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": EVERY_POLL,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": EVERY_POLL,
    "nvmlDeviceGetProcessesUtilizationInfo": EVERY_POLL,
    "nvmlGpmSampleGet": EVERY_POLL,
    "nvmlGpmMetricsGet": EVERY_POLL,
    # Those of every poll, those of every minute, and the throttle times.
    "nvmlDeviceGetFieldValues": EVERY_POLL + 2,
    "nvmlDeviceGetMarginTemperature": 4,
    "nvmlDeviceGetSamples": 4,  # of power
    "nvmlDeviceGetNumFans": 4,
    "nvmlDeviceGetMigMode": 1,
    "nvmlDeviceGetPcieReplayCounter": 1,
    "nvmlDeviceGetBAR1MemoryInfo": 1,
    "nvmlDeviceGetCurrPcieLinkWidth": 1,
    "nvmlDeviceGetEnforcedPowerLimit": 1,
    "nvmlDeviceGetMemoryErrorCounter": 8,
    "nvmlDeviceGetSramEccErrorStatus": 1,
}
# What an operator sets, and limits and defects of the card: every 5 minutes.
SLOW_CALLS = {
    "nvmlDeviceGetTemperatureThreshold": 4,
    "nvmlDeviceGetPowerManagementLimit": 1,
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetComputeMode": 1,
    "nvmlDeviceGetEccMode": 1,
    "nvmlDeviceGetRowRemapperHistogram": 1,
    "nvmlDeviceGetGridLicensableFeatures_v4": 1,
    "nvmlDeviceGetUnrepairableMemoryFlag_v1": 1,
    "nvmlDeviceGetRepairStatus": 1,
}
RECENT = {"nvmlDeviceGetUnrepairableMemoryFlag_v1", "nvmlDeviceGetRepairStatus"}
SLOW_CALLS = {
    name: calls for name, calls in SLOW_CALLS.items() if name not in RECENT or hasattr(pynvml, name)
}
# Constants: once an hour.
CONSTANTS = {
    "nvmlDeviceGetMaxClockInfo": 4,
    "nvmlDeviceGetMaxPcieLinkGeneration": 1,
    "nvmlDeviceGetMaxPcieLinkWidth": 1,
    "nvmlDeviceGetPowerManagementDefaultLimit": 1,
    "nvmlDeviceGetPowerManagementLimitConstraints": 1,
}


def calls_made(driver: Driver) -> Counter[str]:
    """Returns the calls of GPU 0 so far, by function."""
    return Counter(
        {function: count.calls for (function, gpu), count in driver.counts().items() if gpu == 0}
    )


async def shown(source: GpuSource) -> Samples:
    return samples((await poll(source))[uuid(0)])


@pytest.fixture
def h100(tmp_path: Path) -> Driver:
    """One H100 that gives every answer of a real one, with a process."""
    driver = Driver(tmp_path, gpus=1, card=cards.factory("h100vm_load"))
    driver.gpu(0).busy((841, time.time_ns() // 1000, 99))
    driver.load()
    return driver


@pytest.mark.skipif(
    not hasattr(pynvml, "nvmlDeviceGetMarginTemperature"), reason="an old release of pynvml"
)
def test_each_call_has_its_pace(h100: Driver, advance: Advance) -> None:
    async def main() -> None:
        async with opened(h100) as source:
            await poll(source)
            first = calls_made(h100)
            # The first poll asks everything, and nothing twice.
            assert {name: first[name] for name in CONSTANTS} == CONSTANTS
            assert {name: first[name] for name in SLOW_CALLS} == SLOW_CALLS
            for name in ("EccMode", "MigMode", "NumFans", "PowerManagementLimitConstraints"):
                assert first[f"nvmlDeviceGet{name}"] == 1
            for _ in range(12):
                advance(5)
                await poll(source)
            made = calls_made(h100) - first
            del made["*"]
            assert made == CALLS
            before = calls_made(h100)
            for _ in range(4):
                advance(60)
                await poll(source)
            made = calls_made(h100) - before
            assert {name: made[name] for name in SLOW_CALLS} == SLOW_CALLS
            advance(3600)
            before = calls_made(h100)
            await poll(source)
            made = calls_made(h100) - before
            assert {name: made[name] for name in CONSTANTS} == CONSTANTS

    asyncio.run(main())


@pytest.mark.parametrize(("interval", "polls", "margins"), [(1, 60, 4), (15, 8, 8), (30, 4, 4)])
def test_a_question_is_asked_at_its_pace_at_every_interval(
    h100: Driver, advance: Advance, interval: int, polls: int, margins: int
) -> None:
    """An interval equal to the pace does not skip every second poll."""

    async def main() -> None:
        async with opened(h100) as source:
            await poll(source)
            for _ in range(polls):
                advance(interval)
                await poll(source)
            made = h100.gpu(0).count("nvmlDeviceGetMarginTemperature").calls
            assert made == 1 + margins

    if hasattr(pynvml, "nvmlDeviceGetMarginTemperature"):
        asyncio.run(main())


@pytest.mark.parametrize("gpus", [8])
def test_the_gpus_are_counted_every_15_s_while_all_respond(
    driver: Driver, advance: Advance
) -> None:
    driver.set_order(0, 1)

    def counts() -> int:
        return driver.system.count("nvmlDeviceGetCount_v2").calls

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            before = counts()
            for _ in range(12):
                advance(5)
                await poll(source)
            assert counts() - before == 4
            driver.set_order(0, 1, 2)
            for _ in range(3):
                advance(5)
                shown = await poll(source)
            assert set(shown) == {uuid(number) for number in range(3)}
            driver.gpu(1).lose()
            advance(5)
            await poll(source)
            before = counts()
            for _ in range(3):
                advance(5)
                await poll(source)
            assert counts() - before == 3, "each time while a GPU does not respond"

    asyncio.run(main())


def field_seconds(shown: Samples) -> tuple[object, ...]:
    return (
        shown.get(("gpu_clock_event_seconds_total", ("hw_thermal_slowdown",))),
        shown.get(("gpu_clock_event_seconds_total", ("hw_power_brake_slowdown",))),
        shown.get(("gpu_violation_seconds_total", ("thermal",))),
    )


@pytest.mark.parametrize("reason", [0x8, 0x20, 0x40, 0x80])
def test_throttle_times_are_read_at_every_poll_of_a_slowdown(
    h100: Driver, advance: Advance, reason: int
) -> None:
    """Once a minute otherwise; and once more after the slowdown, which ended between two polls."""
    gpu = h100.gpu(0)

    def set_seconds(seconds: int) -> None:
        with h100.batch():
            for number in (270, 271, 75):
                gpu.set_field(number, seconds * 1_000_000_000)

    async def main() -> None:
        async with opened(h100) as source:
            assert field_seconds(await shown(source)) == (0, 0, 0)
            set_seconds(1)
            advance(5)
            assert field_seconds(await shown(source)) == (0, 0, 0)
            gpu.set("nvmlDeviceGetCurrentClocksEventReasons", 0x4 | reason)
            assert field_seconds(await shown(source)) == (1, 1, 1)
            set_seconds(2)
            assert field_seconds(await shown(source)) == (2, 2, 2)
            gpu.set("nvmlDeviceGetCurrentClocksEventReasons", 0x4)
            set_seconds(3)
            assert field_seconds(await shown(source)) == (3, 3, 3)
            set_seconds(4)
            assert field_seconds(await shown(source)) == (3, 3, 3)
            advance(60)
            assert field_seconds(await shown(source)) == (4, 4, 4)

    asyncio.run(main())


def test_the_mig_mode_is_read_at_once_after_a_mig_event(h100: Driver) -> None:
    mode = ("gpu_mig_mode", ())

    async def main() -> None:
        async with opened(h100) as source:
            assert (await shown(source))[mode] == 0
            h100.gpu(0).set("nvmlDeviceGetMigMode", current=1)
            assert (await shown(source))[mode] == 0
            h100.emit_event(0, 0, standin.MIG_CONFIG_CHANGE)
            await until_result(lambda: shown(source), lambda found: found[mode] == 1)
            assert h100.gpu(0).count("nvmlDeviceGetMigMode").calls == 2

    asyncio.run(main())


def test_an_answer_stays_until_it_is_due_and_not_longer(h100: Driver, advance: Advance) -> None:
    """A question that fails has no value, and is asked at every poll until it succeeds."""
    replays = ("gpu_pcie_replays_total", ())
    function = "nvmlDeviceGetPcieReplayCounter"

    async def main() -> None:
        async with opened(h100) as source:
            assert (await shown(source))[replays] == 0
            h100.gpu(0).set(function, 7)
            h100.gpu(0).fail(function, standin.UNKNOWN)
            for _ in range(9):
                advance(5)
                outcome = (await poll(source))[uuid(0)]
                assert samples(outcome)[replays] == 0
                assert isinstance(outcome, Reading)
                assert not outcome.problems
            advance(15)
            for _ in range(2):
                outcome = (await poll(source))[uuid(0)]
                assert replays not in samples(outcome)
                assert isinstance(outcome, Reading)
                assert [type(problem) for problem in outcome.problems] == [Unreachable]
            h100.gpu(0).heal(function)
            assert (await shown(source))[replays] == 7
            assert h100.gpu(0).count(function).calls == 4

    asyncio.run(main())


@pytest.mark.usefixtures("advance")
def test_answers_of_a_lost_gpu_are_dropped(h100: Driver) -> None:
    width = ("gpu_pcie_link_width", ())

    async def main() -> None:
        async with opened(h100) as source:
            assert (await shown(source))[width] == 16
            h100.gpu(0).lose()
            assert isinstance((await poll(source))[uuid(0)], SourceError)
            h100.gpu(0).come_back()
            h100.gpu(0).set("nvmlDeviceGetCurrPcieLinkWidth", 8)
            assert (await shown(source))[width] == 8

    asyncio.run(main())


def test_labels_of_one_metric_may_have_different_paces(h100: Driver, advance: Advance) -> None:
    """The enforced power limit is read once a minute, the default one once an hour."""
    enforced, default = (
        ("gpu_power_limit_watts", ("enforced",)),
        ("gpu_power_limit_watts", ("default",)),
    )

    async def main() -> None:
        async with opened(h100) as source:
            before = await shown(source)
            with h100.batch():
                h100.gpu(0).set("nvmlDeviceGetEnforcedPowerLimit", 350_000)
                h100.gpu(0).set("nvmlDeviceGetPowerManagementDefaultLimit", 1_000)
            advance(60)
            after = await shown(source)
            assert (before[enforced], before[default]) == (700, 700)
            assert (after[enforced], after[default]) == (350, 700)

    asyncio.run(main())


def test_questions_add_up_to_one_row() -> None:
    """Labels of one key, asked by two questions; an answer that is kept is not changed."""
    asked: list[str] = []

    def ask(name: str) -> Callable[[object, GpuValues], None]:
        def answer(_: object, values: GpuValues) -> None:
            asked.append(name)
            values.labelled["key"] = {(name,): len(asked)}

        return answer

    first = Question(ask("first"), pace.MINUTE)
    questions = Questions(NvmlQuery(), (first, Question(ask("second"), pace.HOUR)))
    for _ in range(2):
        values = GpuValues(labelled={"key": {("poll",): 0}})
        questions.read(None, values, 0)
        assert values.labelled == {"key": {("poll",): 0, ("first",): 1, ("second",): 2}}
        assert first.answer.labelled == {"key": {("first",): 1}}
    assert asked == ["first", "second"]
    questions.reset()
    questions.read(None, GpuValues(), 0)
    assert asked == ["first", "second", "first", "second"]


def helps(key: str) -> str:
    """Returns the HELP text of a key's metric."""
    metrics: list[Metric[object]] = [
        metric for metric in METRICS if getattr(metric.get, "key", None) == key
    ]
    return metrics[0].help


def test_the_help_text_has_the_pace() -> None:
    texts = {
        pace.QUARTER_MINUTE: "read every 15 s",
        pace.MINUTE: "read once a minute",
        pace.FIVE_MINUTES: "read every 5 minutes",
        pace.HOUR: "read once an hour",
    }
    paces = [(spec.key, call.pace) for call in calls.CALLS for spec in call.values]
    links = (*fields.link_fields(0), *fields.c2c_link_fields(0))
    paces += [(field.key, field.pace) for field in (*fields.FIELDS, *fields.LINK_COUNTS, *links)]
    for key, seconds in paces:
        if key != "power_limit" or seconds == pace.MINUTE:  # its text has all paces
            assert seconds == pace.EVERY_POLL or texts[seconds] in helps(key), key
