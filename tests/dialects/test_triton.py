"""The dialect of Triton's metrics port: reasons of failures, and the machine's CPU and memory."""

from __future__ import annotations

from exporter.dialects.triton import FAMILIES as TRITON_FAMILIES
from exporter.dialects.triton import CpuUtilization
from exporter.exposition.renderer import Renderer
from exporter.model import Rendered
from exporter.sources.host import metrics as host_metrics
from exporter.sources.host.reading import HostCpu, HostMemory
from exporter.sources.triton import metrics as triton_metrics
from exporter.sources.triton.reading import (
    CumulativeDuration,
    ModelCounts,
    ModelRow,
    WindowStatistics,
)

FAILURE = "nv_inference_request_failure"


def failures(*reasons: tuple[str, float], total: int | None = 7) -> Rendered:
    none = CumulativeDuration(0, 0)
    counts = ModelCounts(
        inference_count=0,
        execution_count=0,
        fail=CumulativeDuration(total, 0),
        success=none,
        queue=none,
        compute_input=none,
        compute_infer=none,
        compute_output=none,
        cache_hit=None,
        cache_miss=None,
        batches=(),
        last_inference=0,
    )
    row = ModelRow(("s", "wine", "1"), counts, WindowStatistics(), None, reasons)
    renderer = Renderer(
        triton_metrics.METRICS, TRITON_FAMILIES, dialect_metrics=triton_metrics.DIALECT_METRICS
    )
    return renderer.render([row])


def test_failures_have_the_reasons_of_the_servers_own_page() -> None:
    rendered = failures(("BACKEND", 5.0), ("REJECTED", 0.0))
    assert rendered.lines[FAILURE].decode() == (
        f'{FAILURE}{{model="wine",reason="BACKEND",version="1",upstream="s"}} 5.0\n'
        f'{FAILURE}{{model="wine",reason="REJECTED",version="1",upstream="s"}} 0.0\n'
    )
    assert rendered.problems == ()
    assert not any("known_reason" in name for name in rendered.lines)


def test_failures_without_the_page_are_one_series() -> None:
    line = failures().lines[FAILURE].decode()
    assert line == f'{FAILURE}{{model="wine",version="1",upstream="s"}} 7.0\n'
    assert FAILURE not in failures(total=None).lines, "unknown"


def host_lines(*rows: HostCpu | HostMemory) -> dict[str, bytes]:
    return dict(Renderer(host_metrics.METRICS, TRITON_FAMILIES).render(rows).lines)


def test_memory_of_the_machine() -> None:
    lines = host_lines(HostMemory(total=1000, available=300))
    assert lines["nv_cpu_memory_total_bytes"] == b"nv_cpu_memory_total_bytes 1000.0\n"
    assert lines["nv_cpu_memory_used_bytes"] == b"nv_cpu_memory_used_bytes 700.0\n"
    assert "nv_cpu_memory_used_bytes" not in host_lines(HostMemory(total=1000))


def test_utilization_is_that_since_the_last_reading() -> None:
    renderer = Renderer(host_metrics.METRICS, TRITON_FAMILIES)

    def read(**seconds: float) -> bytes | None:
        return renderer.render([HostCpu(tuple(seconds.items()), 4)]).lines.get("nv_cpu_utilization")

    assert read(user=100, system=50, idle=800, iowait=10) is None
    assert read(user=103, system=51, idle=805, iowait=11) == b"nv_cpu_utilization 0.4\n"
    assert read(user=103, system=51, idle=805, iowait=11) is None, "no time has passed"


def test_utilization_stays_within_0_and_1_after_a_reset() -> None:
    cpu = CpuUtilization()
    for seconds in ({"user": 5.0, "idle": 9.0}, {"user": 0.0, "idle": 1.0, "steal": 3.0}):
        values = [value for _, value in cpu.gather([({"mode": m}, s) for m, s in seconds.items()])]
    assert values == []
