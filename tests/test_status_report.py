"""The report of `check` and of the landing page."""

from __future__ import annotations

from exporter.errors import Forbidden, Unreachable
from exporter.model import Health, HealthProblem, SourceStatus, TargetStatus
from exporter.registry import SOURCES
from exporter.sources.itself.source import source_row
from exporter.status_report import check_table, status_report

DOWN = Health(Unreachable("the GPU is lost"), last_success=None, duration=0.1)
UP = Health(last_success=1_000.0, duration=0.2)
EVENTS = TargetStatus("events", UP, 12, "events", "XIDs from NVML", auxiliary=True)


def gpu_status(*targets: TargetStatus) -> SourceStatus:
    return SourceStatus("gpu", "auto", True, UP, targets)


def table(status: SourceStatus) -> str:
    settings = {source.name: source.settings() for source in SOURCES}
    return check_table(status_report([status], settings))


def test_a_source_is_down_if_only_an_auxiliary_target_is_up() -> None:
    status = gpu_status(TargetStatus("GPU-1", DOWN, 1, "0"), EVENTS)
    assert status.up is False
    assert [target.name for target in status.instances] == ["GPU-1"]
    row = source_row(status, ())
    assert (row.up, row.last_success, row.duration) == (False, None, 0.1)
    text = table(status)
    assert "NVIDIA GPUs (NVML) failed 0 (13 series)" in " ".join(text.split())
    assert "XIDs from NVML" in text


def test_a_problem_of_an_auxiliary_target_is_listed() -> None:
    failing = TargetStatus(
        "events", Health(Forbidden("no permission", "allow it")), 0, "events", auxiliary=True
    )
    status = gpu_status(TargetStatus("GPU-1", UP, 1, "0"), failing)
    assert status.up is True
    text = table(status)
    assert "events: no permission" in text
    assert "-> allow it" in text


def test_findings_are_listed_beside_the_source_that_they_are_about() -> None:
    finding = HealthProblem("gpu", "3 (GPU-a)", "drain: a fatal XID", "reset it")
    joins = SourceStatus(
        "joins",
        "auto",
        True,
        UP,
        (TargetStatus("gpu_health", UP, 5, health_problems=(finding,)),),
    )
    settings = {source.name: source.settings() for source in SOURCES}
    lines = list(status_report([joins, gpu_status(TargetStatus("GPU-a", UP, 1, "3"))], settings))
    assert [line.target for line in lines[:2]] == ["", "3 (GPU-a)"]
    assert (lines[1].source, lines[1].state, lines[1].unhealthy) == ("gpu", "unhealthy", True)
    assert not any(line.failed for line in lines), "the exit code of check is 0"
    text = check_table(lines)
    assert "ok         3 (1 series)\n" in text
    assert "3 (GPU-a): drain: a fatal XID\n" in text
    assert "-> reset it\n" in text
