"""A scrape of a whole inference host: real containers, a real Triton, eight stand-in GPUs.

Every value is compared with an independent reading, and a real Prometheus scrapes for a minute.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pytest
from docker.models.containers import Container

from tests.daemon import Daemon, Samples, find
from tests.e2e.host import MODEL, InferenceHost, monitoring
from tests.fakes.nvml import cards
from tests.fakes.nvml.profiles import Card
from tests.prometheus import Prometheus, promtool_check, scraping
from tests.sources.containers.engine import Engine
from tests.sources.containers.kernel_values import cgroup, cpu_seconds, inactive_file
from tests.sources.containers.shared_containers import Three
from tests.sources.triton.load import Sent, send
from tests.sources.triton.server import Server
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, slots=True)
class MonitoredHost:
    """The inference host, its daemon, and a Prometheus.

    scraped_since: monotonic seconds. busy_then: CPU seconds of the container `busy` at that time.
    """

    daemon: Daemon
    prometheus: Prometheus
    engine: Engine
    containers: Three
    triton: Server
    scraped_since: float
    busy_then: float


@pytest.fixture(scope="module")
def host(
    inference_host: InferenceHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MonitoredHost]:
    folder = tmp_path_factory.mktemp("host")
    with (
        monitoring(inference_host, folder) as daemon,
        scraping(folder / "prometheus", daemon.port) as prometheus,
    ):
        yield MonitoredHost(
            daemon,
            prometheus,
            inference_host.engine,
            inference_host.containers,
            inference_host.triton,
            time.monotonic(),
            cpu_seconds(inference_host.containers.busy),
        )


def cgroup_value(controller: str, container: Container, name: str) -> int:
    """Returns the number in a container's cgroup v1 file."""
    return int((cgroup(container, controller) / name).read_text())


def test_gpu_values_equal_the_drivers(host: MonitoredHost) -> None:
    samples = host.daemon.samples()
    for index in range(8):
        card = cards.h100(index)
        labels = {"gpu": str(index), "uuid": cards.uuid(index)}

        def driver_value(function: str, name: str = "value", card: Card = card) -> float:
            return float(card[function, name])

        expected = {
            "gpu_up": 1,
            "gpu_utilization_ratio": driver_value("nvmlDeviceGetUtilizationRates", "gpu") / 100,
            "gpu_memory_total_bytes": driver_value("nvmlDeviceGetMemoryInfo_v2", "total"),
            "gpu_memory_used_bytes": driver_value("nvmlDeviceGetMemoryInfo_v2", "used"),
            "gpu_memory_free_bytes": driver_value("nvmlDeviceGetMemoryInfo_v2", "free"),
            "gpu_temperature_celsius": 59 + index,
            "gpu_power_watts": driver_value("nvmlDeviceGetPowerUsage") / 1000,
            "gpu_energy_joules_total": driver_value("nvmlDeviceGetTotalEnergyConsumption") / 1000,
        }
        for name, value in expected.items():
            assert find(samples, name, **labels) == value, (name, labels)
        sm = find(samples, "gpu_clock_hertz", clock="sm", **labels)
        assert sm == driver_value("nvmlDeviceGetClockInfo", "1") * 1e6
        assert find(samples, "gpu_info", **labels) == 1


def test_memory_of_an_idle_container_is_exact(host: MonitoredHost) -> None:
    idle = host.containers.idle

    def same() -> bool:
        before = cgroup_value("memory", idle, "memory.usage_in_bytes")
        samples = host.daemon.samples()
        usage = find(samples, "container_memory_usage_bytes", name="idle")
        working_set = find(samples, "container_memory_working_set_bytes", name="idle")
        return usage == before and working_set == before - inactive_file(idle)

    until(same, "memory of the idle container", seconds=10)


def test_limits_and_start_times(host: MonitoredHost) -> None:
    samples = host.daemon.samples()
    limit = "container_spec_memory_limit_bytes"
    assert find(samples, limit, name="busy") == 64 << 20
    assert find(samples, limit, name="idle") is None, "no limit, no series"
    for container in host.containers.all():
        started = host.engine.inspect(container)["State"]["StartedAt"]
        exported = find(samples, "container_start_time_seconds", name=str(container.name))
        assert exported == pytest.approx(unix_time(started), abs=0.002)


def unix_time(text: str) -> float:
    """Returns Unix seconds of Docker's RFC 3339 timestamp, truncated to microseconds."""
    return datetime.fromisoformat(f"{text[:26].rstrip('Z')}Z").timestamp()


def test_cpu_within_two_percentage_points_of_the_kernel(host: MonitoredHost) -> None:
    busy = host.containers.busy

    def changed(old: float | None) -> float | None:
        value = host.daemon.value("container_cpu_usage_seconds_total", name="busy")
        return None if value == old else value

    def read() -> tuple[float, float, float]:
        """Returns the monotonic time of a change of the exported counter, it, and the kernel's."""
        old = host.daemon.value("container_cpu_usage_seconds_total", name="busy")
        exported = until(lambda: changed(old), "a new reading")
        kernel = cgroup_value("cpuacct", busy, "cpuacct.usage") / 1e9
        assert exported is not None
        return time.monotonic(), exported, kernel

    def usage() -> tuple[float, float]:
        """Returns the CPU usage by the exported counter and by the kernel's."""
        first = read()
        until(lambda: time.monotonic() - first[0] > 5, "five seconds", seconds=30, every=0.2)
        second = read()
        elapsed = second[0] - first[0]
        return (second[1] - first[1]) / elapsed, (second[2] - first[2]) / elapsed

    def same() -> bool:
        exported, kernel = usage()
        # Its quota is 0.2; a busy machine may give it less.
        return abs(exported - kernel) < 0.02 < kernel < 0.25

    # Again, if this process was not scheduled between its readings of both counters.
    until(same, "the kernel's CPU usage", seconds=60)


def counts(samples: Samples, model: str = MODEL) -> tuple[float | None, ...]:
    names = ("requests_total", "request_failures_total", "inferences_total", "executions_total")
    return tuple(find(samples, f"triton_{name}", model=model) for name in names)


def test_triton_counts_equal_the_requests_sent(host: MonitoredHost) -> None:
    assert counts(host.daemon.samples(), "idle") == (0, 0, 0, 0)
    before = host.triton.statistics(MODEL)
    before_counts = counts(host.daemon.samples())
    assert None not in before_counts
    sent = Sent()
    for batch, milliseconds in ((1, 2.0), (4, 5.0), (8, 1.0)):
        sent += send(
            host.triton.url,
            MODEL,
            good=15,
            failing=3,
            corrupt=2,
            batch=batch,
            milliseconds=milliseconds,
        )
    expected = tuple(
        float(start or 0) + more
        for start, more in zip(
            before_counts,
            (sent.requests, sent.failures, sent.inferences, sent.executions),
            strict=True,
        )
    )
    until(lambda: counts(host.daemon.samples()) == expected, f"the counts {expected}")

    native = host.triton.counters(MODEL)
    samples = host.daemon.samples()
    assert native["nv_inference_request_success"] == sent.successes
    assert native["nv_inference_request_failure"] == find(
        samples, "triton_request_failures_total", model=MODEL
    )
    assert native["nv_inference_count"] == find(samples, "triton_inferences_total", model=MODEL)
    assert native["nv_inference_exec_count"] == find(
        samples, "triton_executions_total", model=MODEL
    )

    after = host.triton.statistics(MODEL)

    def mean_seconds(stage: str, denominator: str = "success") -> float:
        ns, count = (
            (after["inference_stats"][key][field] - before["inference_stats"][key].get(field, 0))
            for key, field in ((stage, "ns"), (denominator, "count"))
        )
        return float(ns / count / 1e9)

    total = 0.0
    for stage in STAGES:
        latency = find(samples, "triton_latency_seconds", model=MODEL, stage=stage)
        assert latency == pytest.approx(mean_seconds(stage), rel=0.02), stage
        total += latency or 0
    for stage in ("cache", "overhead"):
        total += find(samples, "triton_latency_seconds", model=MODEL, stage=stage) or 0
    assert total == pytest.approx(mean_seconds("success"), rel=0.02), "the stages add up"
    assert total <= sent.seconds / sent.successes, "at most the client's latency"
    assert total >= sent.worked / sent.successes, "at least the model's compute time"
    ratio = find(samples, "triton_success_ratio", model=MODEL)
    assert ratio == pytest.approx(sent.successes / sent.requests)
    mean = find(samples, "triton_mean_batch_size", model=MODEL)
    assert mean == pytest.approx(mean_batch_size(before, after), rel=0.02)


def mean_batch_size(before: dict[str, object], after: dict[str, object]) -> float:
    def totals(statistics: dict[str, object]) -> tuple[int, int]:
        stats = statistics.get("batch_stats", [])
        assert isinstance(stats, list)
        batches = [(int(b["batch_size"]), int(b["compute_infer"]["count"])) for b in stats]
        return sum(size * n for size, n in batches), sum(n for _, n in batches)

    (items0, batches0), (items1, batches1) = totals(before), totals(after)
    return (items1 - items0) / (batches1 - batches0)


def test_a_restarted_container_has_its_new_start_time(host: MonitoredHost) -> None:
    restarted = host.containers.restarted
    before = host.daemon.value("container_start_time_seconds", name="restarted")
    host.engine.call(restarted, "restart", timeout=0)
    started = unix_time(host.engine.inspect(restarted)["State"]["StartedAt"])
    assert before is not None
    assert started > before

    def updated() -> bool:
        samples = host.daemon.samples()
        exported = find(samples, "container_start_time_seconds", name="restarted")
        memory = find(samples, "container_memory_usage_bytes", name="restarted")
        return exported is not None and abs(exported - started) < 0.002 and memory is not None

    until(updated, "the new start time", seconds=15)


def test_promtool_accepts_the_page(host: MonitoredHost) -> None:
    assert promtool_check(host.daemon.get("/metrics")[2].decode()) == ""


def test_a_real_prometheus_scrapes_for_a_minute(host: MonitoredHost) -> None:
    until(
        lambda: time.monotonic() - host.scraped_since > 61,
        "a minute of scrapes",
        seconds=70,
        every=0.5,
    )
    prometheus = host.prometheus
    assert prometheus.refused_scrapes() == []
    assert (prometheus.scalar("count_over_time(up[1m])") or 0) >= 50
    # Within their timeout of 1 s, which a busy machine exceeds now and then.
    assert (prometheus.scalar("sum_over_time(up[1m])") or 0) >= 30
    assert prometheus.scalar("max_over_time(scrape_samples_scraped[1m])") > 200  # type: ignore[operator]  # None would fail, as it should
    prometheus.answer("count(gpu_power_watts) == 8")
    elapsed = time.monotonic() - host.scraped_since
    kernel = (cpu_seconds(host.containers.busy) - host.busy_then) / elapsed
    rate = f'rate(container_cpu_usage_seconds_total{{name="busy"}}[{elapsed:.0f}s])'
    assert prometheus.scalar(rate) == pytest.approx(kernel, abs=0.02)
    assert 0.02 < kernel < 0.25, "its quota is 0.2; a busy machine may give it less"
    increase = prometheus.scalar(f'max_over_time(triton_requests_total{{model="{MODEL}"}}[1m])')
    assert increase == find(host.daemon.samples(), "triton_requests_total", model=MODEL)
    assert (prometheus.scalar("sum(rate(host_cpu_seconds_total[30s]))") or 0) > 0.5
    prometheus.answer('inference_exporter_source_up{source="triton"} == 1')
    prometheus.answer("count(gpu_power_watts * on (gpu, uuid) group_left (name) gpu_info) == 8")
