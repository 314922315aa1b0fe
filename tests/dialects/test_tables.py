"""The dialect tables: existing native metrics, unique names, and a reason for each missing name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from exporter.catalog import catalog
from exporter.dialects import NAMES, active_dialects, cadvisor, triton
from exporter.exposition.dialect_rules import FamilyRule
from exporter.exposition.families import Family, Format, comments
from exporter.exposition.selection import aliases
from exporter.model import Summary, Type, counter, gauge
from exporter.registry import SOURCES
from tests.fakes.source import Thing

HIDDEN = [metric for source in SOURCES for metric in source.dialect_metrics]
NATIVE = {metric.name: metric for metric in (*catalog(), *HIDDEN)}
EVERYTHING = active_dialects(NAMES, NATIVE.values())


def names(exporter: str) -> set[str]:
    """Returns an exporter's metric names: its defaults, and DCGM's profiling metrics."""
    return set((Path(__file__).parent / f"{exporter}.txt").read_text().split())


# Names that no dialect maps, and the reason.
MERGE = "only on the server's own page, which can be merged"
UNMAPPED = {
    "DCGM_EXP_XID_ERRORS_COUNT": "counts within dcgm-exporter's own window",
    "DCGM_EXP_CLOCK_EVENTS_COUNT": "counts within dcgm-exporter's own window",
    "container_file_descriptors": "not read: needs every process' /proc/PID/fd",
    "container_sockets": "not read: needs every process' /proc/PID/fd",
    "nv_inference_first_response_histogram_ms": MERGE,
    "nv_inference_request_summary_us": MERGE,
    "nv_inference_queue_summary_us": MERGE,
    "nv_inference_compute_input_summary_us": MERGE,
    "nv_inference_compute_infer_summary_us": MERGE,
    "nv_inference_compute_output_summary_us": MERGE,
    "nv_model_load_duration_secs": MERGE,
    "nv_pinned_memory_pool_total_bytes": MERGE,
    "nv_pinned_memory_pool_used_bytes": MERGE,
}


def test_unmapped_names_have_a_reason() -> None:
    mapped = {rule.name for rule in EVERYTHING.family_rules} | set(cadvisor.SAME_NAMES)
    missing = (names("dcgm") | names("cadvisor") | names("triton")) - mapped
    assert missing == set(UNMAPPED)


def test_rules_refer_to_existing_metrics_and_labels() -> None:
    for rule in EVERYTHING.family_rules:
        assert rule.source_metric in NATIVE, rule
        metric = NATIVE[rule.source_metric]
        assert not rule.info_metric or NATIVE[rule.info_metric].type is Type.INFO
        for name in (rule.source_metric, *rule.added_metrics, *rule.unless_metrics):
            assert set(rule.join_labels) <= set(NATIVE[name].label_names), rule
        assert metric.type is not Type.HISTOGRAM, "DialectFamily supports no histograms"
    for label_rule in EVERYTHING.label_rules:
        assert NATIVE[label_rule.info_metric].type is Type.INFO
        metric = NATIVE[label_rule.source_metric]
        assert set(label_rule.join_labels) <= set(metric.label_names), label_rule


def test_every_native_metric_of_cadvisors_name_gets_its_labels() -> None:
    """A new container metric with cAdvisor's name must be in SAME_NAMES."""
    common = set(NATIVE) & names("cadvisor")
    assert common == set(cadvisor.SAME_NAMES)


def test_no_name_is_duplicated_with_all_dialects() -> None:
    assert EVERYTHING.name_conflicts == ()
    taken: dict[str, str] = {}
    for source in SOURCES:
        declared = (*source.metrics, *source.dialect_metrics)
        families: list[Family] = [*source.metrics, *EVERYTHING.families(declared)]
        for family in families:
            for alias in aliases(family):
                assert alias not in taken, f"{family.name} and {taken[alias]}"
                taken[alias] = family.name
    derived = {rule.name for rule in EVERYTHING.family_rules}
    assert derived <= set(taken), "every rule has a source"


def test_rules_of_the_same_name_agree_and_have_one_source() -> None:
    owner = {
        metric.name: source.name
        for source in SOURCES
        for metric in (*source.metrics, *source.dialect_metrics)
    }
    by_name: dict[str, list[FamilyRule]] = {}
    for rule in EVERYTHING.family_rules:
        by_name.setdefault(rule.name, []).append(rule)
    for name, rules in by_name.items():
        if name in NATIVE:
            assert all(rule.extends and rule.type is NATIVE[name].type for rule in rules), name
            continue
        assert len({(rule.type, rule.help, owner[rule.source_metric]) for rule in rules}) == 1, name


@pytest.mark.parametrize("name", sorted({rule.name for rule in EVERYTHING.family_rules}))
def test_parsers_accept_the_comment_lines(name: str) -> None:
    family = next(rule for rule in EVERYTHING.family_rules if rule.name == name)
    text = comments(family, Format.TEXT).decode()
    assert f"# TYPE {name} {family.type}\n" in text
    page = comments(family, Format.OPENMETRICS).decode() + f"{name} 1.0\n# EOF\n"
    (parsed,) = openmetrics_families(page)  # type: ignore[no-untyped-call]  # the library has no types
    expected = family.type
    if family.type is Type.COUNTER and not name.endswith("_total"):
        expected = "unknown"  # type: ignore[assignment]  # a type only OpenMetrics has
    assert parsed.type == expected
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name)


def test_name_conflicts() -> None:
    native = (
        *NATIVE.values(),
        gauge("container_memory_failcnt", "Native now.", Thing, lambda thing: thing.heat),
        counter("nv_inference_count_total", "Native now.", Thing, lambda thing: thing.sent),
    )
    active = active_dialects(["triton", "cadvisor", "cadvisor"], native)
    assert active.name_conflicts == ("nv_inference_count", "container_memory_failcnt")
    kept = {rule.name for rule in active.family_rules}
    assert not kept & set(active.name_conflicts)
    assert "nv_inference_exec_count" in kept
    assert "machine_cpu_cores" in kept
    assert not any(name.startswith("DCGM") for name in kept)


def test_no_rules_without_dialects() -> None:
    inactive = active_dialects([], NATIVE.values())
    assert (inactive.family_rules, inactive.label_rules, inactive.name_conflicts) == ((), (), ())
    assert active_dialects(["dcgm"], NATIVE.values()).label_rules == ()


def test_microseconds_never_decrease() -> None:
    """Rounding to whole microseconds keeps the order: the counter stays monotonic."""
    rules = {rule.name: rule for rule in triton.FAMILIES}
    convert = rules["nv_inference_queue_duration_us"].convert
    values = [convert(Summary(ns / 1e9, 1)) for ns in range(10**15, 10**15 + 5000, 7)]
    assert values == sorted(values)
    assert convert(Summary(1_234_567_891_000 / 1e9, 1)) == 1_234_567_891
