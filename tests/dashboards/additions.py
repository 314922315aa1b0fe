"""Series that settings add to a host's history: of the dialects and of merged pages.

Both are made from the host's native series, as the daemon makes them from its readings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache, lru_cache

from prometheus_client.parser import text_string_to_metric_families

from exporter.catalog import catalog
from exporter.dialects import NAMES, active_dialects
from exporter.exposition.dialect_rules import FamilyRule
from exporter.registry import SOURCES
from tests.dashboards.history import Labels, host_samples, metric_series
from tests.dashboards.hosts import START, Host, ValueAt, constant
from tests.paths import ROOT

DIALECTS = active_dialects(NAMES, catalog())
PAGES = ROOT / "tests" / "model_server" / "pages"
# Recorded pages by upstream.
MERGED = {
    "llm": "vllm.prom",
    "api": "fastapi.prom",
    "iris": "kserve.prom",
    "wine": "mlserver.prom",
    "llama": "llamacpp.prom",
}
# Series that a page of any server may have: the name Prometheus gives its own, the labels of native
# series, the recorded names of another Prometheus that is merged by federation.
ODD_PAGE = """\
# TYPE jobs gauge
jobs{job="batch",instance="worker-1:80",gpu="0",uuid="GPU-1",name="api",image="api:1",id="/"} 1
# TYPE gpu_requests gauge
gpu_requests{server="triton",model="wine",version="1",source="gpu"} 3
# TYPE job:gpu_power_watts:sum gauge
job:gpu_power_watts:sum{gpu="0"} 1e9
"""
# Series of Prometheus itself, which are not merged.
_PROMETHEUS = re.compile(r"up|ALERTS(?:_FOR_STATE)?|scrape_.*")

Series = tuple[str, str, Labels, ValueAt]
ByName = dict[str, list[tuple[dict[str, str], ValueAt]]]
"""Labels and values of series."""


def samples_with_pages(host: Host) -> Iterator[Series]:
    """Yields the host's series, and those of merged pages, without families of native names."""
    yield from host_samples(host)
    for upstream, name, labels, number in merged_samples():
        rises = name.endswith(("_total", "_count", "_sum", "_bucket"))
        value = _rising(number) if rises else constant(number)
        yield name, name, (*labels, ("upstream", upstream)), value


@cache
def merged_samples() -> tuple[tuple[str, str, Labels, float], ...]:
    """Returns (upstream, sample name, labels, value) of the merged pages."""
    native = {metric.name for metric in catalog()}
    pages = {upstream: (PAGES / file).read_text() for upstream, file in MERGED.items()}
    samples = []
    for upstream, page in {**pages, "odd": ODD_PAGE}.items():
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                names = {sample.name, family.name}
                if not names & native and not _PROMETHEUS.fullmatch(sample.name):
                    samples.append((upstream, sample.name, _exported(sample.labels), sample.value))
    return tuple(samples)


def _exported(labels: dict[str, str]) -> Labels:
    """Returns the labels as Prometheus stores them without honor_labels."""
    reserved = ("job", "instance")
    return tuple((f"exported_{k}" if k in reserved else k, v) for k, v in labels.items())


def _rising(number: float) -> ValueAt:
    return lambda t: number * (1 + (t - START) / 3600)


def samples_with_all(host: Host) -> Iterator[Series]:
    """Yields the host's series and those of merged pages, with all that the dialects add."""
    native = list(samples_with_pages(host))
    only_for_dialects = [
        (metric.family, name, labels, value)
        for source in SOURCES
        for metric in source.dialect_metrics
        for name, labels, value in metric_series(metric, source.name, host)
    ]
    containers = {
        (dict(labels)["name"], dict(labels)["image"]): dict(labels)
        for _, name, labels, _ in native
        if name == "container_info"
    }
    for family, name, labels, value in native:
        own = dict(labels)
        for rule in DIALECTS.label_rules:
            if rule.source_metric == name:
                info = containers.get((own["name"], own["image"]), {})
                own = dict(rule.map_labels(dict(labels), info)) | own
        yield family, name, tuple(own.items()), value
    taken = {(name, frozenset(labels)) for _, name, labels, _ in native}
    by_name: ByName = {}
    for _, name, labels, value in (*native, *only_for_dialects):
        by_name.setdefault(name, []).append((dict(labels), value))
    for family_rule in DIALECTS.family_rules:
        for added in _added_series(family_rule, by_name):
            key = (added[1], frozenset(added[2]))
            if key not in taken:
                taken.add(key)
                yield added


def _added_series(rule: FamilyRule, native: ByName) -> Iterator[Series]:
    inputs = [_inputs(rule, metric, native) for metric in (rule.source_metric, *rule.added_metrics)]
    if rule.gather is None:
        for labels, value in inputs[0]:
            yield rule.name, rule.name, tuple(labels.items()), _converted(rule, value)
        return
    gather = rule.gather()

    @lru_cache(maxsize=1)  # the history asks all series for one time after another
    def at(t: float) -> dict[Labels, float]:
        read = [[(dict(labels), value(t)) for labels, value in mapped] for mapped in inputs]
        return {tuple(pairs): number for pairs, number in gather(*read)}

    for pairs in at(START):
        yield (
            rule.name,
            rule.name,
            pairs,
            lambda t, pairs=pairs: at(t).get(pairs, math.nan),  # type: ignore[misc]  # a default binds the loop's value
        )


def _inputs(rule: FamilyRule, metric: str, native: ByName) -> list[tuple[dict[str, str], ValueAt]]:
    """Returns the mapped labels and the values of a native metric's series that a rule uses."""
    unless = {
        _join_key(rule, own) for name in rule.unless_metrics for own, _ in native.get(name, ())
    }
    infos = {_join_key(rule, own): own for own, _ in native.get(rule.info_metric, ())}
    inputs = []
    for own, value in native.get(metric, ()):
        key = _join_key(rule, own)
        if key not in unless:
            pairs = rule.map_labels(own, infos.get(key, {}))
            if pairs is not None:
                inputs.append((dict(pairs), value))
    return inputs


def _join_key(rule: FamilyRule, labels: dict[str, str]) -> tuple[str | None, ...]:
    return tuple(labels.get(label) for label in rule.join_labels)


def _converted(rule: FamilyRule, value: ValueAt) -> ValueAt:
    def convert(t: float) -> float:
        number = rule.convert(value(t))
        return math.nan if number is None else float(number)

    return convert
