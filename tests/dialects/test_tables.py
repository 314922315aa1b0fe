"""The tables: what they refer to exists, no name stands twice, and what is missing is known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from exporter.catalog import catalog
from exporter.dialects import NAMES, active_dialects, cadvisor, dcgm, triton
from exporter.exposition.dialect_rules import FamilyRule
from exporter.exposition.families import Family, Format, comments
from exporter.exposition.selection import aliases
from exporter.model import Summary, Type, counter, gauge
from exporter.registry import SOURCES
from tests.fakes.source import Thing

NATIVE = {metric.name: metric for metric in catalog()}
EVERYTHING = active_dialects(NAMES, NATIVE.values(), "Hostname", "host-1")


def names(exporter: str) -> set[str]:
    """What an exporter calls its metrics: the defaults of each, and DCGM's profiling ones."""
    return set((Path(__file__).parent / f"{exporter}.txt").read_text().split())


# What has no place here, and why.
MERGE = "only on the server's own page, from which it can be merged"
UNMAPPED = {
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": "DCGM shows a rate typed as a counter there",
    "DCGM_EXP_XID_ERRORS_COUNT": "counts within a window of dcgm-exporter's own",
    "DCGM_EXP_CLOCK_EVENTS_COUNT": "counts within a window of dcgm-exporter's own",
    "container_file_descriptors": "not read: a look into every process's /proc/PID/fd",
    "container_sockets": "not read: a look into every process's /proc/PID/fd",
    "nv_inference_first_response_histogram_ms": MERGE,
    "nv_inference_request_summary_us": MERGE,
    "nv_inference_queue_summary_us": MERGE,
    "nv_inference_compute_input_summary_us": MERGE,
    "nv_inference_compute_infer_summary_us": MERGE,
    "nv_inference_compute_output_summary_us": MERGE,
    "nv_model_load_duration_secs": MERGE,
    "nv_pinned_memory_pool_total_bytes": MERGE,
    "nv_pinned_memory_pool_used_bytes": MERGE,
    "nv_cpu_utilization": "a ratio over a window of Triton's own; host_cpu_seconds_total has it",
    "nv_cpu_memory_used_bytes": "host_memory_available_bytes has it, the other way round",
}


def test_what_is_not_mapped_is_known() -> None:
    spoken = {each.name for each in EVERYTHING.derived} | set(cadvisor.SAME)
    missing = (names("dcgm") | names("cadvisor") | names("triton")) - spoken
    assert missing == set(UNMAPPED)


def test_tables_refer_to_what_exists() -> None:
    for each in EVERYTHING.derived:
        assert each.of in NATIVE, each
        labels = set(NATIVE[each.of].label_names)
        for looked_up in (each.about, each.unless):
            assert not looked_up or NATIVE[looked_up].type is Type.INFO
        assert set(each.on) <= labels, each
        assert NATIVE[each.of].type is not Type.HISTOGRAM, "nothing derives from histograms yet"
    for added in EVERYTHING.added:
        assert NATIVE[added.about].type is Type.INFO
        assert set(added.on) <= set(NATIVE[added.of].label_names), added.of


def test_every_name_of_cadvisor_that_we_have_gets_its_labels() -> None:
    """Whatever is added to our containers under cAdvisor's name must be in its list."""
    ours = set(NATIVE) & names("cadvisor")
    assert ours == set(cadvisor.SAME)


def test_no_family_stands_twice_with_everything_on() -> None:
    assert EVERYTHING.lost == ()
    taken: dict[str, str] = {}
    for source in SOURCES:
        families: list[Family] = [*source.metrics, *EVERYTHING.families(source.metrics)]
        for family in families:
            for alias in aliases(family):
                assert alias not in taken, f"{family.name} and {taken[alias]}"
                taken[alias] = family.name
    one_source = {each.name: each.of for each in EVERYTHING.derived}
    assert set(one_source) <= set(taken), "each is on the page"


def test_families_of_one_name_are_alike_and_of_one_source() -> None:
    owner = {metric.name: source.name for source in SOURCES for metric in source.metrics}
    by_name: dict[str, list[FamilyRule]] = {}
    for each in EVERYTHING.derived:
        by_name.setdefault(each.name, []).append(each)
    for same in by_name.values():
        assert len({(each.type, each.help, owner[each.of]) for each in same}) == 1, same[0].name


@pytest.mark.parametrize("name", sorted({each.name for each in EVERYTHING.derived}))
def test_comments_are_what_parsers_take(name: str) -> None:
    family = next(each for each in EVERYTHING.derived if each.name == name)
    text = comments(family, Format.TEXT).decode()
    assert f"# TYPE {name} {family.type}\n" in text
    page = comments(family, Format.OPENMETRICS).decode() + f"{name} 1.0\n# EOF\n"
    (read,) = openmetrics_families(page)  # type: ignore[no-untyped-call]  # the library has no types
    expected = family.type
    if family.type is Type.COUNTER and not name.endswith("_total"):
        expected = "unknown"  # type: ignore[assignment]  # a type only OpenMetrics has
    assert read.type == expected
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name)


def test_native_wins_over_a_dialect_and_the_first_over_the_next() -> None:
    mine = (
        *NATIVE.values(),
        gauge("container_memory_failcnt", "Native now.", Thing, lambda thing: thing.heat),
        counter("nv_inference_count_total", "Native now.", Thing, lambda thing: thing.sent),
    )
    spoken = active_dialects(["triton", "cadvisor", "cadvisor"], mine, "", "")
    assert spoken.lost == ("nv_inference_count", "container_memory_failcnt")
    kept = {each.name for each in spoken.derived}
    assert not kept & set(spoken.lost)
    assert "nv_inference_exec_count" in kept
    assert "machine_cpu_cores" in kept
    assert not any(name.startswith("DCGM") for name in kept)


def test_nothing_is_spoken_unasked() -> None:
    silent = active_dialects([], NATIVE.values(), "Hostname", "h")
    assert (silent.derived, silent.added, silent.lost) == ((), (), ())
    assert active_dialects(["dcgm"], NATIVE.values(), "", "h").added == ()


@pytest.mark.parametrize("label", ["Hostname", "hostname", ""])
def test_the_label_of_the_host(label: str) -> None:
    table = {each.name: each for each in dcgm.families(label, "host-1")}
    labels = {"gpu": "0", "uuid": "GPU-0"}
    pairs = table["DCGM_FI_DEV_GPU_TEMP"].describe(labels, {"name": "H100", "pci_bus_id": "0:1"})
    assert pairs is not None
    expected = ["gpu", "UUID", "pci_bus_id", "device", "modelName"]
    expected += [label] if label else []
    assert [name for name, _ in pairs] == [*expected, "DCGM_FI_DRIVER_VERSION"]
    assert dict(pairs)["device"] == "nvidia0"
    assert not label or dict(pairs)[label] == "host-1"


def test_microseconds_never_fall() -> None:
    """Rounding to whole microseconds keeps the order: a counter stays one."""
    table = {each.name: each for each in triton.FAMILIES}
    convert = table["nv_inference_queue_duration_us"].value
    values = [convert(Summary(ns / 1e9, 1)) for ns in range(10**15, 10**15 + 5000, 7)]
    assert values == sorted(values)
    assert convert(Summary(1_234_567_891_000 / 1e9, 1)) == 1_234_567_891
