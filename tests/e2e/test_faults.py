"""Each source hangs, fails and recovers while the daemon serves the others, with real parts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cpu_waits import CpuWaits
from tests.daemon import QUICK, Daemon, running
from tests.fakes.nvml import cards
from tests.fakes.nvml.standin import Driver
from tests.prometheus import promtool_check
from tests.sources.containers.engine import Engine
from tests.sources.containers.engines import default_engine
from tests.sources.containers.shared_containers import Three, three_containers
from tests.sources.triton.load import send
from tests.sources.triton.server import Model, Server
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


@dataclass(frozen=True, slots=True)
class FaultHost:
    """A host whose sources the tests break. triton_one, triton_two: `server` one and two."""

    daemon: Daemon
    engine: Engine
    containers: Three
    triton_one: Server
    triton_two: Server
    driver: Driver


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultHost]:
    folder = tmp_path_factory.mktemp("faults")
    driver = Driver(folder, gpus=2)
    with (
        default_engine() as engine,
        three_containers(engine) as containers,
        Server(tmp_path_factory.mktemp("one"), (Model("wine"),)) as triton_one,
        Server(tmp_path_factory.mktemp("two"), (Model("wine"),)) as triton_two,
        running(
            folder,
            *QUICK,
            f"--triton.url=one={triton_one.url}",
            f"--triton.url=two={triton_two.url}",
            environment={**driver.environment(), "DOCKER_HOST": engine.url},
        ) as daemon,
    ):
        host = FaultHost(daemon, engine, containers, triton_one, triton_two, driver)
        until(lambda: all_up(host), "everything up", seconds=30)
        yield host


UP_METRICS: tuple[tuple[str, dict[str, str]], ...] = (
    ("gpu_up", {"gpu": "0"}),
    ("gpu_up", {"gpu": "1"}),
    ("container_engine_up", {}),
    ("container_resources_up", {}),
    ("triton_up", {"server": "one"}),
    ("triton_up", {"server": "two"}),
)


def all_up(host: FaultHost) -> bool:
    return all(host.daemon.value(name, **labels) == 1 for name, labels in UP_METRICS)


def only_down(host: FaultHost, *down: tuple[str, dict[str, str]]) -> bool:
    """Returns whether exactly these targets are down."""
    return all(
        host.daemon.value(name, **labels) == (0 if (name, labels) in down else 1)
        for name, labels in UP_METRICS
    )


def test_a_hanging_gpu_does_not_affect_other_sources(host: FaultHost) -> None:
    host.driver.gpu(1).delay("nvmlDeviceGetPowerUsage", 60)
    try:
        until(lambda: only_down(host, ("gpu_up", {"gpu": "1"})), "only gpu 1 down")
        until(lambda: host.daemon.value("gpu_power_watts", gpu="1") is None, "its series removed")
        assert_fast_and_fresh(host)
        host.driver.gpu(0).set("nvmlDeviceGetPowerUsage", 123_000)
        until(lambda: host.daemon.value("gpu_power_watts", gpu="0") == 123, "gpu 0 is still read")
    finally:
        host.driver.gpu(1).heal()
    until(lambda: all_up(host), "gpu 1 up again")
    power = float(cards.h100(1)["nvmlDeviceGetPowerUsage", "value"]) / 1000
    until(lambda: host.daemon.value("gpu_power_watts", gpu="1") == power, "with its series")


def test_only_a_lost_gpu_is_down_until_it_recovers(host: FaultHost) -> None:
    host.driver.gpu(0).lose()
    until(lambda: only_down(host, ("gpu_up", {"gpu": "0"})), "only gpu 0 down")
    until(lambda: host.daemon.value("gpu_power_watts", gpu="0") is None, "its series removed")
    host.driver.gpu(0).heal()
    until(lambda: all_up(host), "gpu 0 up again")


def test_container_metrics_continue_while_the_engine_hangs(host: FaultHost) -> None:
    metric = "container_cpu_usage_seconds_total"
    host.engine.hang()
    try:
        until(lambda: only_down(host, ("container_engine_up", {})), "only the engine down")
        assert_fast_and_fresh(host)
        before = until(lambda: host.daemon.value(metric, name="busy"), metric)
        assert before is not None
        until(
            lambda: (host.daemon.value(metric, name="busy") or 0) > before + 0.1,
            "the CPU counter increases",
        )
        end = time.monotonic() + 2 * 1.5  # twice the max-age of QUICK
        until(lambda: time.monotonic() > end, "twice the max-age", every=0.2)
        # Not at once: the daemon may have read nothing for a while on a busy machine.
        for name in ("container_info", "container_memory_usage_bytes"):
            until(lambda name=name: host.daemon.value(name, name="idle") is not None, name)  # type: ignore[misc]  # a default binds the loop's value
    finally:
        host.engine.resume()
    until(lambda: all_up(host), "the engine up again", seconds=30)


def test_only_a_paused_triton_is_down_until_it_resumes(host: FaultHost) -> None:
    send(host.triton_one.url, "wine", good=3)
    until(lambda: host.daemon.value("triton_requests_total", server="one") == 3, "requests of one")
    host.triton_one.pause()
    try:
        down = ("triton_up", {"server": "one"})
        until(lambda: only_down(host, down), "only one down")
        metric = "triton_requests_total"
        until(lambda: host.daemon.value(metric, server="one") is None, "its series removed")
        until(lambda: host.daemon.value(metric, server="two") == 0, "those of two")
        assert_fast_and_fresh(host)
    finally:
        host.triton_one.resume()
    until(lambda: all_up(host), "one up again")
    until(lambda: host.daemon.value("triton_requests_total", server="one") == 3, "its requests")


def test_a_restarted_triton_is_polled_again(host: FaultHost) -> None:
    send(host.triton_two.url, "wine", good=5)
    until(lambda: host.daemon.value("triton_requests_total", server="two") == 5, "requests of two")
    host.triton_two.kill()
    until(lambda: only_down(host, ("triton_up", {"server": "two"})), "only two down")
    host.triton_two.start()
    until(lambda: all_up(host), "two up again", seconds=40)
    until(
        lambda: host.daemon.value("triton_requests_total", server="two") == 0, "its counter reset"
    )
    assert host.daemon.value("triton_success_ratio", server="two") is None


def test_failures_are_counted_and_logged_once(host: FaultHost) -> None:
    name = "inference_exporter_source_failures_total"
    assert (host.daemon.value(name, source="gpu", kind="timeout") or 0) >= 1
    assert host.daemon.value(name, source="host", kind="forbidden") == 0, (
        "exported before the first failure"
    )
    lines = [line for line in host.daemon.log_text().splitlines() if "level=warning" in line]
    messages = [line.split("msg=", 1)[1] for line in lines]
    assert len(messages) == len(set(messages)), "no message twice"
    assert len(messages) < 20, messages


def test_it_stops_while_everything_hangs(host: FaultHost, tmp_path: Path) -> None:
    flags = (*QUICK, f"--triton.url={host.triton_one.url}")
    environment = {**host.driver.environment(), "DOCKER_HOST": host.engine.url}
    with running(tmp_path, *flags, environment=environment) as daemon:
        until(lambda: daemon.value("gpu_up", gpu="0") == 1, "gpu 0")
        until(lambda: daemon.value("container_engine_up") == 1, "the engine")
        until(lambda: daemon.value("triton_up") == 1, "triton")
        host.driver.every_gpu.delay("*", 60)
        host.engine.hang()
        host.triton_one.pause()
        try:
            until(lambda: daemon.value("gpu_up", gpu="0") == 0, "gpu 0 hangs")
            until(lambda: daemon.value("container_engine_up") == 0, "the engine hangs")
            until(lambda: daemon.value("triton_up") == 0, "triton hangs")
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(timeout=9) == 0, "TimeoutStopSec of the unit is 10 s"
        finally:
            host.driver.every_gpu.heal()
            host.engine.resume()
            host.triton_one.resume()


def assert_fast_and_fresh(host: FaultHost) -> None:
    """Asserts scrapes that no hanging call delays (three of four: the machine is shared; without
    waits for a CPU), a page that promtool accepts, and new readings of the other sources.
    """

    def counters() -> dict[str, float | None]:
        return {
            "host": host.daemon.value("host_cpu_seconds_total", mode="user"),
            "itself": host.daemon.value("inference_exporter_scrapes_total"),
        }

    before = counters()
    latencies = []
    for _ in range(40):
        waits, started = CpuWaits(host.daemon.process.pid, os.getpid()), time.perf_counter()
        status, _, _ = host.daemon.get("/metrics")
        latencies.append(time.perf_counter() - started - waits.longest())
        assert status == 200
    assert sorted(latencies)[29] < 0.25, "half of the shortest timeout"
    assert promtool_check(host.daemon.get("/metrics")[2].decode()) == ""
    until(lambda: all(counters()[name] != value for name, value in before.items()), "new readings")
