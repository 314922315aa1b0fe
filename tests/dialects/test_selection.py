"""`collect[]` and `exclude[]` with the names of dialects."""

from __future__ import annotations

import pytest

from exporter.catalog import catalog
from exporter.dialects import NAMES, active_dialects
from exporter.exposition.families import Family
from exporter.exposition.selection import BadSelection, Selector
from exporter.registry import SOURCES

DIALECTS = active_dialects(NAMES, catalog())
FAMILIES: dict[str, tuple[Family, ...]] = {
    entry.name: (
        *entry.metrics,
        *DIALECTS.families((*entry.metrics, *entry.dialect_metrics)),
    )
    for entry in SOURCES
}
SELECTOR = Selector(FAMILIES, DIALECTS.shared_names)
NATIVE = {entry.name: {metric.name for metric in entry.metrics} for entry in SOURCES}


def selected(collect: list[str], exclude: list[str] = []) -> dict[str, frozenset[str]]:  # noqa: B006 - not changed
    families = SELECTOR.families_of(SELECTOR.select(collect, exclude, ()))
    return {source: selection.names for source, selection in families.items()}


def prefixes(names: frozenset[str]) -> set[str]:
    return {name.partition("_")[0] for name in names}


def test_a_source_is_without_the_dialects_names() -> None:
    assert selected(["gpu"]) == {"gpu": NATIVE["gpu"]}
    assert selected(["triton"]) == {"triton": NATIVE["triton"]}


def test_a_dialect_alone() -> None:
    dcgm = selected(["dcgm"])
    assert dcgm.keys() == {"gpu"}
    assert prefixes(dcgm["gpu"]) == {"DCGM"}
    triton = SELECTOR.families_of(SELECTOR.select(["triton-server"], [], ()))
    for source, families in triton.items():
        assert prefixes(families.names) <= {"nv"}, source
        assert families.has_merged("nv_cache_util"), "what only the server's own page has"
        assert not families.has_merged("vllm:x")
    assert "nv_inference_count" in triton["triton"].names
    assert "nv_gpu_utilization" in triton["gpu"].names
    assert "upstream" in triton


def test_cadvisor_has_the_native_metrics_of_its_names() -> None:
    cadvisor = selected(["cadvisor"])
    assert cadvisor.keys() == {"containers", "host"}
    assert {"container_memory_rss", "container_memory_failcnt"} <= cadvisor["containers"]
    assert "container_state" not in cadvisor["containers"], "cAdvisor does not have it"
    assert "machine_cpu_cores" in cadvisor["host"]
    assert not cadvisor["host"] & NATIVE["host"]


def test_sources_and_dialects_together() -> None:
    both = selected(["gpu", "dcgm"])
    assert prefixes(both["gpu"]) == {"gpu", "DCGM"}
    assert selected(["host", "dcgm"])["host"] == NATIVE["host"]


def test_exclude() -> None:
    page = selected([], ["dcgm", "triton-server"])
    assert page.keys() == FAMILIES.keys()
    names = frozenset.union(*page.values())
    assert not prefixes(names) & {"DCGM", "nv"}
    assert {"container_memory_failcnt", "machine_cpu_cores", "gpu_up"} <= names
    assert "gpu" not in selected([], ["gpu"]), "its dialects' families neither"
    upstream = SELECTOR.families_of(SELECTOR.select([], ["triton-server"], ()))["upstream"]
    assert upstream.has_merged("vllm:x")
    assert not upstream.has_merged("nv_cache_util")
    assert SELECTOR.families_of(SELECTOR.select(["upstream"], [], ()))["upstream"].has_merged(
        "nv_x"
    )
    without = frozenset.union(*selected([], ["cadvisor"]).values())
    assert "container_memory_rss" in without, "our own"
    assert "machine_cpu_cores" not in without


def test_a_dialect_that_is_not_active() -> None:
    plain = Selector({"gpu": FAMILIES["gpu"][:3]})
    with pytest.raises(BadSelection, match="dialect dcgm is not active: enable it with --dialect"):
        plain.select(["dcgm"], [], ())
    with pytest.raises(BadSelection, match=r"unknown source 'x'; sources: gpu$"):
        plain.select(["x"], [], ())
    with pytest.raises(BadSelection, match=r"dialects: dcgm, cadvisor, triton-server$"):
        SELECTOR.select(["x"], [], ())
