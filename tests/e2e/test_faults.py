"""Each source hangs, breaks and heals while the daemon serves the others: on the real parts."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

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
class Host:
    daemon: Daemon
    engine: Engine
    three: Three
    one: Server
    two: Server
    driver: Driver


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("faults")
    driver = Driver(folder, gpus=2)
    with (
        default_engine() as engine,
        three_containers(engine) as three,
        Server(tmp_path_factory.mktemp("one"), (Model("wine"),)) as one,
        Server(tmp_path_factory.mktemp("two"), (Model("wine"),)) as two,
        running(
            folder,
            *QUICK,
            f"--triton.url=one={one.url}",
            f"--triton.url=two={two.url}",
            environment={**driver.environment(), "DOCKER_HOST": engine.url},
        ) as daemon,
    ):
        host = Host(daemon, engine, three, one, two, driver)
        until(lambda: all_up(host), "everything up", seconds=30)
        yield host


UPS: tuple[tuple[str, dict[str, str]], ...] = (
    ("gpu_up", {"gpu": "0"}),
    ("gpu_up", {"gpu": "1"}),
    ("container_engine_up", {}),
    ("container_resources_up", {}),
    ("triton_up", {"server": "one"}),
    ("triton_up", {"server": "two"}),
)


def all_up(host: Host) -> bool:
    return all(host.daemon.value(name, **labels) == 1 for name, labels in UPS)


def only_down(host: Host, *down: tuple[str, dict[str, str]]) -> bool:
    """Whether these, and none but these, are down."""
    return all(
        host.daemon.value(name, **labels) == (0 if (name, labels) in down else 1)
        for name, labels in UPS
    )


def test_a_hanging_gpu_costs_nobody_else_anything(host: Host) -> None:
    host.driver.gpu(1).delay("nvmlDeviceGetPowerUsage", 60)
    try:
        until(lambda: only_down(host, ("gpu_up", {"gpu": "1"})), "gpu 1 down, alone")
        until(lambda: host.daemon.value("gpu_power_watts", gpu="1") is None, "its series gone")
        stays_fresh_and_quick(host)
        host.driver.gpu(0).set("nvmlDeviceGetPowerUsage", 123_000)
        until(lambda: host.daemon.value("gpu_power_watts", gpu="0") == 123, "gpu 0 is still read")
    finally:
        host.driver.gpu(1).heal()
    until(lambda: all_up(host), "gpu 1 back by itself")
    power = float(cards.h100(1)["nvmlDeviceGetPowerUsage", "value"]) / 1000
    until(lambda: host.daemon.value("gpu_power_watts", gpu="1") == power, "with its series")


def test_a_lost_gpu_goes_alone_and_returns(host: Host) -> None:
    host.driver.gpu(0).lose()
    until(lambda: only_down(host, ("gpu_up", {"gpu": "0"})), "gpu 0 down, alone")
    until(lambda: host.daemon.value("gpu_power_watts", gpu="0") is None, "its series gone")
    host.driver.gpu(0).heal()
    until(lambda: all_up(host), "gpu 0 back by itself")


def test_numbers_of_containers_go_on_while_the_engine_hangs(host: Host) -> None:
    metric = "container_cpu_usage_seconds_total"
    host.engine.hang()
    try:
        until(lambda: only_down(host, ("container_engine_up", {})), "the engine down, alone")
        stays_fresh_and_quick(host)
        before = host.daemon.value(metric, name="busy")
        assert before is not None
        until(lambda: (host.daemon.value(metric, name="busy") or 0) > before + 0.1, "CPU goes on")
        time_of_series_without_engine = 2 * 1.5  # twice the age at which readings vanish
        end = time.monotonic() + time_of_series_without_engine
        until(lambda: time.monotonic() > end, "the age at which readings vanish", every=0.2)
        assert host.daemon.value("container_info", name="idle") == 1
        assert host.daemon.value("container_memory_usage_bytes", name="idle") is not None
    finally:
        host.engine.resume()
    until(lambda: all_up(host), "the engine back by itself", seconds=30)


def test_a_paused_triton_goes_alone_and_returns(host: Host) -> None:
    send(host.one.url, "wine", good=3)
    until(lambda: host.daemon.value("triton_requests_total", server="one") == 3, "requests of one")
    host.one.pause()
    try:
        down = ("triton_up", {"server": "one"})
        until(lambda: only_down(host, down), "one down, alone")
        metric = "triton_requests_total"
        until(lambda: host.daemon.value(metric, server="one") is None, "its series gone")
        assert host.daemon.value(metric, server="two") == 0
        stays_fresh_and_quick(host)
    finally:
        host.one.resume()
    until(lambda: all_up(host), "one back by itself")
    assert host.daemon.value("triton_requests_total", server="one") == 3


def test_a_killed_triton_is_followed_when_it_starts_again(host: Host) -> None:
    send(host.two.url, "wine", good=5)
    until(lambda: host.daemon.value("triton_requests_total", server="two") == 5, "requests of two")
    host.two.kill()
    until(lambda: only_down(host, ("triton_up", {"server": "two"})), "two down, alone")
    host.two.start()
    until(lambda: all_up(host), "two back by itself", seconds=40)
    until(lambda: host.daemon.value("triton_requests_total", server="two") == 0, "from zero")
    assert host.daemon.value("triton_success_ratio", server="two") is None


def test_failures_are_counted_and_told_once(host: Host) -> None:
    name = "inference_exporter_source_failures_total"
    assert (host.daemon.value(name, source="gpu", kind="timeout") or 0) >= 1
    assert host.daemon.value(name, source="host", kind="forbidden") == 0, "known beforehand"
    lines = [line for line in host.daemon.log_text().splitlines() if "level=warning" in line]
    told = [line.split("msg=", 1)[1] for line in lines]
    assert len(told) == len(set(told)), "no line twice"
    assert len(told) < 20, told


def test_it_stops_within_two_seconds_while_everything_hangs(host: Host, tmp_path: Path) -> None:
    flags = (*QUICK, f"--triton.url={host.one.url}")
    environment = {**host.driver.environment(), "DOCKER_HOST": host.engine.url}
    with running(tmp_path, *flags, environment=environment) as daemon:
        until(lambda: daemon.value("gpu_up", gpu="0") == 1, "gpu 0")
        until(lambda: daemon.value("container_engine_up") == 1, "the engine")
        until(lambda: daemon.value("triton_up") == 1, "triton")
        host.driver.every_gpu.delay("*", 60)
        host.engine.hang()
        host.one.pause()
        try:
            until(lambda: daemon.value("gpu_up", gpu="0") == 0, "gpu 0 hangs")
            until(lambda: daemon.value("container_engine_up") == 0, "the engine hangs")
            until(lambda: daemon.value("triton_up") == 0, "triton hangs")
            started = time.monotonic()
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(timeout=20) == 0
            assert time.monotonic() - started < 2
        finally:
            host.driver.every_gpu.heal()
            host.engine.resume()
            host.one.resume()


def stays_fresh_and_quick(host: Host) -> None:
    """Scrapes answer in under 50 ms (three of four: the machine does other things as well), the
    page stays one that promtool accepts, and every other source goes on.
    """

    def polls() -> dict[str, float | None]:
        return {
            "host": host.daemon.value("host_cpu_seconds_total", mode="idle"),
            "itself": host.daemon.value("inference_exporter_scrapes_total"),
        }

    before = polls()
    durations = []
    for _ in range(40):
        started = time.perf_counter()
        status, _, _ = host.daemon.get("/metrics")
        durations.append(time.perf_counter() - started)
        assert status == 200
    assert sorted(durations)[29] < 0.05
    assert promtool_check(host.daemon.get("/metrics")[2].decode()) == ""
    until(lambda: all(polls()[name] != value for name, value in before.items()), "fresh readings")
