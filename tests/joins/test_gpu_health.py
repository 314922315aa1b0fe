"""The verdict on each GPU: every rule, absent facts, unreachable and missing GPUs, MIG devices."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Expired,
    SourceError,
    TooMany,
    Unreachable,
    Unsupported,
)
from exporter.joins.gpu_health import gpu_facts, gpu_health, health_problems
from exporter.joins.gpu_health_rules import RULES, GpuFacts, Verdict
from exporter.joins.reading import VERDICTS
from exporter.model import Health, SourceStatus, TargetStatus
from exporter.sources.gpu.metrics import METRICS
from exporter.sources.gpu.nvml.errors import GpuLost
from exporter.sources.gpu.nvml.library import Released
from exporter.sources.gpu.reading import (
    GpuEventsRow,
    GpuIdentity,
    GpuRow,
    MigRow,
    MissingGpuRow,
)
from tests.paths import ROOT
from tests.yaml_files import rule_groups

LABELS = ("3", "GPU-a")
# An H100 under load without any fault: what the rules read.
HEALTHY = GpuFacts(
    LABELS,
    {
        "utilization": 1.0,
        "recovery_action": 0,
        "row_remap_failure": 0,
        "remapped_rows_pending": 0,
        "sram_threshold_exceeded": 0,
        "unrepairable_memory": 0,
        "retired_pages_pending": 0,
        "pcie_generation": 5,
        "pcie_max_generation": 5,
        "pcie_width": 16,
        "pcie_max_width": 16,
        "fabric_state": 3,
        "fabric_ok": 1,
        "fabric_health": 1,
        "fabric_incorrect_configuration": 0,
    },
    {
        "clock_event": {
            ("sw_power_cap",): 1,
            ("hw_thermal_slowdown",): 0,
            ("hw_power_brake_slowdown",): 0,
        },
        "fabric_condition": {("degraded_bandwidth",): 0, ("route_unhealthy",): 0},
    },
    (13, 31, 43, 94),  # errors of applications
)


def changed(**values: float) -> GpuFacts:
    return replace(HEALTHY, values={**HEALTHY.values, **values})


def labelled(key: str, label: str) -> GpuFacts:
    values = {**HEALTHY.labelled[key], (label,): 1}
    return replace(HEALTHY, labelled={**HEALTHY.labelled, key: values})


def mig_device(instance: str, errors: float) -> MigRow:
    return MigRow((*LABELS, instance, "0", "1g.10gb"), "MIG-x", {"uncorrected_errors": errors})


def unread(error: SourceError) -> GpuFacts:
    return GpuFacts(LABELS, error=error)


# The facts, the reason and the verdict.
CASES: list[tuple[GpuFacts, str, str]] = [
    (unread(GpuLost("the GPU is lost")), "lost", "unreachable"),
    (unread(DeadlineExceeded("no response")), "hangs", "unreachable"),
    (unread(BadData("unknown return code")), "unreadable", "unreachable"),
    (GpuFacts(("0000:38:00.0", ""), missing=True), "missing", "unreachable"),
    (changed(row_remap_failure=1), "row_remap_failure", "replace"),
    (changed(sram_threshold_exceeded=1), "sram_threshold_exceeded", "replace"),
    (changed(unrepairable_memory=1), "unrepairable_memory", "replace"),
    (changed(remapped_rows_pending=1), "row_remap_pending", "degraded"),
    (changed(retired_pages_pending=1), "retired_pages_pending", "degraded"),
    (
        replace(HEALTHY, mig_devices=(mig_device("7", 0), mig_device("8", 2))),
        "mig_memory_errors",
        "degraded",
    ),
    *((changed(recovery_action=n), "recovery_action", "drain") for n in range(1, 8)),
    (replace(HEALTHY, recent_xids=(13, 79)), "fatal_xid", "drain"),
    (changed(fabric_health=2), "fabric_unhealthy", "drain"),
    (changed(fabric_ok=0), "fabric_registration_failed", "drain"),
    (changed(fabric_health=3), "fabric_limited_capacity", "degraded"),
    (labelled("fabric_condition", "route_unhealthy"), "fabric_condition", "degraded"),
    (changed(fabric_incorrect_configuration=2), "fabric_configuration", "degraded"),
    (changed(pcie_generation=1), "pcie_link", "degraded"),
    (changed(pcie_width=8), "pcie_link", "degraded"),
    (labelled("clock_event", "hw_thermal_slowdown"), "hw_thermal_slowdown", "degraded"),
    (labelled("clock_event", "hw_power_brake_slowdown"), "hw_power_brake_slowdown", "degraded"),
]


def test_a_healthy_gpu_is_ok() -> None:
    row = gpu_health(HEALTHY)
    assert (row.labels, row.verdict, row.reasons) == (LABELS, "ok", ())
    assert health_problems(HEALTHY) == []


@pytest.mark.parametrize(("facts", "reason", "verdict"), CASES)
def test_each_fact_is_a_reason(facts: GpuFacts, reason: str, verdict: str) -> None:
    row = gpu_health(facts)
    assert (row.verdict, row.reasons) == (verdict, (reason,))
    assert all(problem.remedy and problem.message for problem in health_problems(facts))


def test_every_rule_has_a_case() -> None:
    assert {rule.reason for rule in RULES} == {reason for _, reason, _ in CASES}
    assert len({rule.reason for rule in RULES}) == len(RULES)
    assert tuple(verdict.label for verdict in Verdict) == VERDICTS


@pytest.mark.parametrize("key", [*HEALTHY.values, *HEALTHY.labelled])
def test_an_absent_fact_is_no_reason(key: str) -> None:
    facts = replace(
        HEALTHY,
        values={name: number for name, number in HEALTHY.values.items() if name != key},
        labelled={name: numbers for name, numbers in HEALTHY.labelled.items() if name != key},
    )
    assert gpu_health(facts).verdict == "ok"


@pytest.mark.parametrize(
    "facts",
    [
        changed(pcie_generation=1, pcie_width=8, utilization=0.1),  # an idle card
        changed(recovery_action=99),  # a newer driver's
        changed(fabric_state=2, fabric_health=0),
        replace(HEALTHY, recent_xids=(63, 92, 154)),
    ],
)
def test_no_reason(facts: GpuFacts) -> None:
    assert gpu_health(facts).verdict == "ok"


def test_the_worst_verdict_counts_and_all_reasons_are_listed() -> None:
    facts = replace(changed(remapped_rows_pending=1, row_remap_failure=1), recent_xids=(64,))
    row = gpu_health(facts)
    assert row.verdict == "replace"
    assert row.reasons == ("row_remap_failure", "fatal_xid", "row_remap_pending")


def test_findings_name_the_gpu_the_xid_and_its_action() -> None:
    (found,) = health_problems(replace(HEALTHY, recent_xids=(119, 79)))
    assert (found.source, found.subject) == ("gpu", "3 (GPU-a)")
    assert found.message == "drain: a fatal XID in the last hour: 79 (reboot), 119 (reset)"
    assert found.remedy == "drain the host and reboot it; a virtual machine: restart it"
    (found,) = health_problems(changed(pcie_generation=3, pcie_width=8))
    assert found.message.endswith(": 3 x8 of 5 x16")


def test_the_error_of_an_unreachable_gpu_is_not_reported_twice() -> None:
    facts = replace(unread(GpuLost("lost", "reset it")), recent_xids=(79,))
    assert gpu_health(facts).reasons == ("lost", "fatal_xid")
    assert [problem.message for problem in health_problems(facts)] == [
        "drain: a fatal XID in the last hour: 79 (reboot)"
    ]


def test_the_documentation_has_every_rule() -> None:
    page = (ROOT / "docs/gpu-health.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == [
        (rule.reason, rule.verdict.label, rule.text, rule.remedy, rule.source) for rule in RULES
    ]


def test_the_keys_are_those_of_metrics() -> None:
    keys = {getattr(metric.get, "key", None) for metric in METRICS}
    assert {*HEALTHY.values, *HEALTHY.labelled} <= keys


# Reasons with an alert of their own.
OTHER_ALERTS = {
    "lost": "GpuDown",
    "hangs": "GpuDown",
    "unreadable": "GpuDown",
    "row_remap_failure": "GpuRowRemapFailure",
    "row_remap_pending": "GpuRowRemapPending",
    "recovery_action": "GpuRecoveryNeeded",
    "hw_thermal_slowdown": "GpuHardwareThrottled",
    "hw_power_brake_slowdown": "GpuHardwareThrottled",
}


def test_every_reason_has_one_alert_named_by_its_verdict() -> None:
    groups = rule_groups(ROOT / "prometheus/rules/alerts.yml")
    alerts = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    by_verdict = {
        verdict: set(re.findall(r"\w+", expression.split('"')[1]))
        for name, expression in alerts.items()
        if (verdict := name.removeprefix("GpuHealth").lower()) in VERDICTS
    }
    expected: dict[str, set[str]] = {}
    for rule in RULES:
        if rule.reason not in OTHER_ALERTS:
            expected.setdefault(rule.verdict.label, set()).add(rule.reason)
    assert by_verdict == expected
    assert alerts.keys() >= set(OTHER_ALERTS.values())


# -- from the readings --


def row(labels: tuple[str, ...] = LABELS, **values: float) -> GpuRow:
    return GpuRow(labels, GpuIdentity(), values, {})


def target(
    name: str,
    title: str,
    error: SourceError | None = None,
    incomplete: SourceError | None = None,
) -> TargetStatus:
    success = None if error is not None else 1.0
    return TargetStatus(name, Health(error, success, 0.1, incomplete=incomplete), 1, title)


def status(*targets: TargetStatus) -> SourceStatus:
    events = TargetStatus("events", Health(), 0, "events", auxiliary=True)
    return SourceStatus("gpu", "auto", True, Health(), (*targets, events))


def test_facts_are_those_of_the_readings() -> None:
    events = GpuEventsRow(LABELS, {}, {}, (79,), {})
    device = MigRow((*LABELS, "7", "0", "1g.10gb"), "MIG-x", {})
    (facts,) = gpu_facts([row(power=70.0), events, device], [status(target("GPU-a", "3"))])
    assert facts == GpuFacts(LABELS, {"power": 70.0}, {}, (79,), (device,))


def test_a_series_limit_does_not_change_the_verdict() -> None:
    limited = target("GPU-a", "3", incomplete=TooMany("series exceed the limit"))
    (facts,) = gpu_facts([row(power=70.0)], [status(limited)])
    assert gpu_health(facts).verdict == "ok"


def test_a_lost_gpu_is_unreachable_also_while_its_last_reading_is_kept() -> None:
    lost = GpuLost("the GPU is lost")
    for rows in ([], [row(power=70.0)]):
        (facts,) = gpu_facts(rows, [status(target("GPU-a", "3", lost))])
        assert gpu_health(facts) == replace(gpu_health(facts), labels=LABELS, verdict="unreachable")


def test_an_unidentified_gpu_has_no_uuid() -> None:
    (facts,) = gpu_facts([], [status(target("index 5", "5", Unreachable("not read")))])
    assert facts.labels == ("5", "")


def test_a_missing_gpu_has_its_pci_address() -> None:
    (facts,) = gpu_facts([MissingGpuRow(("0000:38:00.0", ""))], [status()])
    assert gpu_health(facts).labels == ("0000:38:00.0", "")
    (found,) = health_problems(facts)
    assert found.subject == "0000:38:00.0"


@pytest.mark.parametrize(
    "make",
    [
        lambda: ([], target("GPU-a", "3", Released("released by command"))),
        lambda: ([], target("GPU-a", "3", Expired("the exporter is late"))),
        lambda: ([row(suspended=1)], target("GPU-a", "3")),
        lambda: ([row()], target("GPU-a", "3", incomplete=Unsupported("no measurement"))),
        lambda: ([], replace(target("GPU-a", "3"), health=Health())),
    ],
    ids=["released", "late", "suspended", "a Jetson", "not read yet"],
)
def test_no_verdict_without_knowledge(
    make: Callable[[], tuple[list[GpuRow], TargetStatus]],
) -> None:
    rows, gpu = make()
    assert gpu_facts(rows, [status(gpu)]) == []
