"""The verdict on each GPU: the worst of the rules that apply to its facts. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.errors import Expired, Unsupported
from exporter.joins.gpu_health_rules import RULES, GpuFacts, Rule, Verdict
from exporter.joins.gpu_inventory import uuid_label
from exporter.joins.reading import GpuHealth
from exporter.model import HealthProblem, Row, SourceStatus
from exporter.sources.gpu.nvml.library import Released
from exporter.sources.gpu.reading import GpuEventsRow, GpuRow, MigRow, MissingGpuRow


def gpu_facts(rows: Iterable[Row], statuses: Iterable[SourceStatus]) -> list[GpuFacts]:
    """Returns the facts of each GPU that was read or whose read failed, and of missing GPUs.

    rows: the GPU source's current rows. statuses: of all sources. Without GPUs that report no
    measurement, and while the driver is released.
    """
    by_labels: dict[tuple[str, ...], GpuRow] = {}
    events: dict[tuple[str, ...], GpuEventsRow] = {}
    mig_devices: dict[tuple[str, ...], list[MigRow]] = {}
    facts = []
    for row in rows:
        if isinstance(row, GpuRow):
            by_labels[row.labels] = row
        elif isinstance(row, GpuEventsRow):
            events[row.labels] = row
        elif isinstance(row, MigRow):
            mig_devices.setdefault(row.labels[:2], []).append(row)
        elif isinstance(row, MissingGpuRow):
            facts.append(GpuFacts(row.labels, missing=True))
    targets = [target for status in statuses if status.name == "gpu" for target in status.instances]
    for target in targets:
        labels = (target.title, uuid_label(target.name))
        gpu, error = by_labels.get(labels), target.health.error
        # Expired: the exporter is late, which says nothing of the GPU.
        if isinstance(error, (Released, Expired)) or isinstance(
            target.health.incomplete, Unsupported
        ):
            continue
        if error is None and (gpu is None or ("suspended" in gpu.values and len(gpu.values) == 1)):
            continue  # not read yet, or suspended
        recent = events[labels].recent_xids if labels in events else ()
        if gpu is None or error is not None:
            facts.append(GpuFacts(labels, recent_xids=recent, error=error))
            continue
        devices = tuple(mig_devices.get(labels, ()))
        facts.append(GpuFacts(labels, gpu.values, gpu.labelled, recent, devices))
    return facts


def applying_rules(facts: GpuFacts) -> list[Rule]:
    """Returns the rules that apply, the worst verdict first."""
    return sorted((rule for rule in RULES if rule.applies(facts)), key=lambda rule: -rule.verdict)


def gpu_health(facts: GpuFacts) -> GpuHealth:
    """Returns the verdict on a GPU and its reasons."""
    rules = applying_rules(facts)
    verdict = rules[0].verdict if rules else Verdict.OK
    return GpuHealth(facts.labels, verdict.label, tuple(rule.reason for rule in rules))


def health_problems(facts: GpuFacts) -> list[HealthProblem]:
    """Returns what `check` reports beside a GPU, but for the error of its read."""
    index, uuid = facts.labels
    subject = f"{index} ({uuid})" if uuid else index
    found = []
    for rule in applying_rules(facts):
        if facts.error is not None and rule.verdict is Verdict.UNREACHABLE:
            continue
        detail = rule.detail(facts)
        message = f"{rule.verdict.label}: {rule.text}" + (f": {detail}" if detail else "")
        found.append(HealthProblem("gpu", subject, message, rule.remedy_for(facts) or rule.remedy))
    return found
