"""The exporter's own metrics of given statuses."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Sequence

import pytest

from exporter import __version__
from exporter.config import load
from exporter.context import Context
from exporter.errors import KINDS, DeadlineExceeded, Forbidden, NotFound
from exporter.model import Health, Reading, SourceStatus, TargetStatus
from exporter.settings import Paths
from exporter.sources.itself.metrics import METRICS
from exporter.sources.itself.settings import Settings
from exporter.sources.itself.source import build, source_row
from tests.sources.samples import Samples, samples

PREFIX = "inference_exporter_source_"
NEVER_POLLED = Health()


def healthy(at: float, duration: float, **failures: int) -> Health:
    return Health(None, at, duration, failures)


def failing(at: float | None, duration: float, **failures: int) -> Health:
    return Health(DeadlineExceeded("no answer"), at, duration, failures)


def status(name: str, health: Health, **targets: Health) -> SourceStatus:
    shown = tuple(TargetStatus(target, health, 10) for target, health in targets.items())
    return SourceStatus(name, "auto", True, health, shown)


def readings(*polls: Sequence[SourceStatus]) -> list[dict[str, Samples]]:
    """Returns the samples of one exporter at each of several polls."""
    current: Sequence[SourceStatus] = ()
    scrapes = 0

    async def use() -> list[Reading]:
        nonlocal current, scrapes
        source = build(Settings(), Context(Paths(), lambda: current, lambda: scrapes))
        (target,) = await source.discover()
        results = []
        for current in polls:  # noqa: B007 - used by the context
            scrapes += 3
            results.append(await target.read())
        await source.close()
        return results

    results = asyncio.run(use())
    assert [reading.problems for reading in results] == [()] * len(polls)
    return [samples(METRICS, reading) for reading in results]


def test_several_targets_of_one_source() -> None:
    gpus = status(
        "gpu",
        healthy(900.0, 0.5, unreachable=1),
        a=healthy(1000.0, 0.1, timeout=2),
        b=failing(1003.0, 4.0, timeout=5, bad_data=1),
        c=failing(None, 0.2),
    )
    (values,) = readings([gpus])
    assert values["inference_exporter_source_up"] == {("gpu",): 1}
    assert values["inference_exporter_source_last_success_timestamp_seconds"] == {("gpu",): 1003.0}
    assert values["inference_exporter_source_duration_seconds"] == {("gpu",): 4.0}
    assert values["inference_exporter_source_series"] == {("gpu",): 30}
    counts = dict.fromkeys(KINDS, 0) | {"unreachable": 1, "timeout": 7, "bad_data": 1}
    assert values["inference_exporter_source_failures_total"] == {
        ("gpu", kind): n for kind, n in counts.items()
    }


def test_all_targets_are_down() -> None:
    (values,) = readings(
        [status("gpu", healthy(900.0, 0.5), a=failing(800.0, 0.1), b=failing(None, 4.0))]
    )
    assert values["inference_exporter_source_up"] == {("gpu",): 0}
    # The later successful discovery is not a successful poll.
    assert values["inference_exporter_source_last_success_timestamp_seconds"] == {("gpu",): 800.0}


def test_a_source_without_targets_has_the_values_of_its_discovery() -> None:
    not_found = Health(NotFound("no library"), 700.0, 0.25, {"not_found": 4})
    (values,) = readings([status("gpu", not_found)])
    assert values["inference_exporter_source_up"] == {("gpu",): 0}
    assert values["inference_exporter_source_last_success_timestamp_seconds"] == {("gpu",): 700.0}
    assert values["inference_exporter_source_duration_seconds"] == {("gpu",): 0.25}
    assert values["inference_exporter_source_failures_total"]["gpu", "not_found"] == 4


def test_values_are_absent_before_the_first_poll_ends() -> None:
    discovering = status("gpu", NEVER_POLLED)
    reading = status("triton", healthy(900.0, 0.5), a=NEVER_POLLED, b=NEVER_POLLED)
    half = status("host", healthy(900.0, 0.5), a=NEVER_POLLED, b=failing(None, 4.0))
    (values,) = readings([discovering, reading, half])
    assert values["inference_exporter_source_up"] == {("host",): 0}
    assert values["inference_exporter_source_series"] == {("host",): 20}
    assert "inference_exporter_source_last_success_timestamp_seconds" not in values
    assert values["inference_exporter_source_duration_seconds"] == {("host",): 4.0}
    # Counters of known kinds start at 0.
    assert values["inference_exporter_source_failures_total"]["gpu", "timeout"] == 0


def test_a_source_that_was_never_found_is_not_a_failure() -> None:
    absent = SourceStatus("gpu", "auto", wanted=False, health=Health(NotFound("no"), None, 0.1))
    forbidden = SourceStatus(
        "containers",
        "auto",
        wanted=False,
        health=Health(Forbidden("no"), None, 0.1, {"forbidden": 2}),
    )
    (values,) = readings([absent, forbidden])
    assert {name for name in values if name.startswith(PREFIX)} == {
        "inference_exporter_source_failures_total"
    }
    assert values["inference_exporter_source_failures_total"] == {("containers", "forbidden"): 2}


def test_itself_is_up_in_its_own_first_reading() -> None:
    first = status("itself", healthy(900.0, 0.0), exporter=NEVER_POLLED)
    second = status("itself", healthy(900.0, 0.0), exporter=healthy(905.0, 0.01))
    before, after = readings([first], [second])
    assert (
        before["inference_exporter_source_up"]
        == after["inference_exporter_source_up"]
        == {("itself",): 1}
    )
    assert "inference_exporter_source_last_success_timestamp_seconds" not in before
    assert "inference_exporter_source_series" not in before
    assert after["inference_exporter_source_series"] == {("itself",): 10}
    assert after["inference_exporter_source_last_success_timestamp_seconds"] == {("itself",): 905.0}


def test_failures_never_fall_when_targets_go() -> None:
    """A sum over the current targets would be 9, 4, 5: a reset, with 5 failures too many."""
    polls = [
        [
            status(
                "triton", healthy(1, 1), a=failing(None, 1, timeout=5), b=healthy(1, 1, timeout=4)
            )
        ],
        [status("triton", healthy(1, 1), b=healthy(1, 1, timeout=4))],
        [
            status(
                "triton", healthy(1, 1), b=healthy(1, 1, timeout=4), a=failing(None, 1, timeout=1)
            )
        ],
        [
            status(
                "triton", healthy(1, 1), b=healthy(1, 1, timeout=4), a=failing(None, 1, timeout=3)
            )
        ],
        # Another target of the same name was added between two polls; one discovery failed.
        [status("triton", healthy(1, 1, timeout=1), b=healthy(1, 1, timeout=2))],
    ]
    counts = [
        values["inference_exporter_source_failures_total"]["triton", "timeout"]
        for values in readings(*polls)
    ]
    assert counts == [9, 9, 10, 12, 15]


def test_a_removed_source_restarts_at_0() -> None:
    polls: list[list[SourceStatus]] = [
        [status("triton", healthy(1, 1, timeout=5))],
        [],
        [status("triton", healthy(1, 1, timeout=1))],
    ]
    first, second, third = readings(*polls)
    assert first["inference_exporter_source_failures_total"]["triton", "timeout"] == 5
    assert not {name for name in second if name.startswith(PREFIX)}
    assert third["inference_exporter_source_failures_total"]["triton", "timeout"] == 1


def test_build_and_scrapes() -> None:
    first, second = readings([], [])
    build_info = {(__version__, platform.python_version()): 1}
    assert first["inference_exporter_build_info"] == build_info
    assert first["inference_exporter_scrapes_total"] == {(): 3}
    assert second["inference_exporter_scrapes_total"] == {(): 6}


def test_series_and_dropped_series() -> None:
    targets = (
        TargetStatus("a", Health(last_success=1.0, duration=0.1), series=70, dropped_series=30),
        TargetStatus("b", Health(last_success=1.0, duration=0.1), series=25),
    )
    status = SourceStatus(
        "fake", "auto", wanted=True, health=Health(), targets=targets, max_series=100
    )
    assert source_row(status, ()).series == 95
    (values,) = readings([status])
    assert values["inference_exporter_series"] == {(): 95}
    assert values["inference_exporter_source_series"] == {("fake",): 95}
    assert values["inference_exporter_source_shed_series"] == {("fake",): 30}
    assert values["inference_exporter_source_series_limit"] == {("fake",): 100}


@pytest.mark.parametrize("in_pod", [False, True])
def test_the_pod_of_the_exporter(in_pod: bool) -> None:
    names = {"POD_NAME": "web-0", "POD_NAMESPACE": "serve", "NODE_NAME": "node-1"}
    settings = load(None, names if in_pod else {}, {}).sources["itself"]

    async def main() -> Reading:
        source = build(settings, Context(Paths(), tuple, lambda: 0))
        try:
            (target,) = await source.discover()
            return await target.read()
        finally:
            await source.close()

    values = samples(METRICS, asyncio.run(main()))
    expected = {"inference_exporter_pod_info": {("serve", "web-0", "node-1"): 1}}
    assert {n: v for n, v in values.items() if "pod" in n} == (expected if in_pod else {})
