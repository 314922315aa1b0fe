"""Maps the samples of an engine's page to the vocabulary, by its profile. Pure.

Which series make up which value is planned once, and again when other series are on the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.model import Histogram
from exporter.model_server.page_samples import PageSamples, PageSeries
from exporter.model_server.profile import (
    HISTOGRAMS,
    OUTCOME_KEYS,
    STAGE_KEYS,
    Expression,
    Profile,
    Term,
)

_MAX_MODEL_LENGTH = 256
# Of these the largest counts, not the sum: each engine has its own cache.
_OF_THE_FULLEST = frozenset(("kv_cache_usage_ratio",))
# Stages whose cumulative time is the sum of a histogram, if no profile names another.
_STAGE_HISTOGRAMS = {
    "request": "request_duration_seconds",
    "queue": "queue_duration_seconds",
    "prefill": "prefill_duration_seconds",
    "decode": "decode_duration_seconds",
}
PROGRESS = "progress"
"""The key of a model's value of the expression `progress`, which no metric has."""
_SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(slots=True)
class ModelValues:
    """The values of one model, as in ServedModelRow."""

    values: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)


class _Use(NamedTuple):
    """A use of a sample: number of the expression and of its term, and the part of a histogram."""

    key: str
    expression: int
    term: int
    part: str


class _ScalarPlan(NamedTuple):
    """terms: sign and divisor (a negative one subtracts), and the indices of the series."""

    key: str
    terms: tuple[tuple[int, tuple[int, ...]], ...]
    subtracts: bool


class _HistogramPlan(NamedTuple):
    """buckets: for each bound the indices of its series, at last those of +Inf or the count.

    single: the index of each bound, if it has one series, as on most pages; empty if it has more.
    """

    key: str
    bounds: tuple[float, ...]
    buckets: tuple[tuple[int, ...], ...]
    single: tuple[int, ...]
    sums: tuple[int, ...]
    divisor: int


@dataclass(slots=True)
class _Difference:
    """State of a counter that is a difference: the last minuend, difference and exported value."""

    minuend: float
    latest: float
    exported: float


def sample_names(profile: Profile) -> set[str]:
    """Returns the names of the samples that a profile uses, with those that identify it."""
    names = {*profile.detect}
    for key, expressions in profile.metrics.items():
        for term in (term for expression in expressions for term in expression.terms):
            names.add(term.family)
            if key in HISTOGRAMS:
                names.update(f"{term.family}{suffix}" for suffix in _SUFFIXES)
    for expression in (profile.awake, profile.progress):
        names.update(term.family for term in (expression.terms if expression is not None else ()))
    for family in profile.detect:
        names.update((f"{family}_count", f"{family}_total"))
    return names


def detected(profiles: Sequence[Profile], names: set[str] | frozenset[str]) -> Profile | None:
    """Returns the first profile that one of the names on a page identifies."""
    for profile in profiles:
        for family in profile.detect:
            if not names.isdisjoint((family, f"{family}_count", f"{family}_total")):
                return profile
    return None


class PageMapping:
    """The mapping of one server's pages."""

    def __init__(self, profile: Profile, max_models: int) -> None:
        self.profile = profile
        self._max_models = max_models
        self._uses: dict[str, list[tuple[_Use, Term]]] = {}
        for key, number, expression in self._expressions():
            for term_number, term in enumerate(expression.terms):
                for name, part in _parts(key, term):
                    use = _Use(key, number, term_number, part)
                    self._uses.setdefault(name, []).append((use, term))
        self._series: list[PageSeries] | None = None
        self._absent: list[bool] = []
        self._plans: dict[str, tuple[list[_ScalarPlan], list[_HistogramPlan]]] = {}
        self._omitted: Counter[str] = Counter()
        self._models: dict[str, None] = {}
        self._differences: dict[tuple[str, str], _Difference] = {}
        self.ready: bool | None = None
        """Whether the expression `awake` is 1; None without one, or without its series."""

    def _expressions(self) -> Iterator[tuple[str, int, Expression]]:
        for key, expressions in self.profile.metrics.items():
            for number, expression in enumerate(expressions):
                yield key, number, expression
        if self.profile.awake is not None:
            yield "awake", 0, self.profile.awake
        if self.profile.progress is not None:
            yield PROGRESS, 0, self.profile.progress

    def _of(self, key: str, number: int) -> Expression:
        of_the_engine = {"awake": self.profile.awake, PROGRESS: self.profile.progress}.get(key)
        return of_the_engine or self.profile.metrics[key][number]

    def models(self, page: PageSamples) -> dict[str, ModelValues]:
        """Returns the values by model; adds to the page's omissions."""
        absent = [value is None for value in page.values]
        if page.series is not self._series or absent != self._absent:
            self._series, self._absent = page.series, absent
            self._plan(page)
        page.omissions.update(self._omitted)
        self.ready = None
        return {
            model: self._model(model, page, scalars, histograms)
            for model, (scalars, histograms) in self._plans.items()
        }

    def _model(
        self,
        model: str,
        page: PageSamples,
        scalars: list[_ScalarPlan],
        histograms: list[_HistogramPlan],
    ) -> ModelValues:
        result = ModelValues()
        values = page.values
        for key, terms, subtracts in scalars:
            total = _total(key, terms, values)
            if subtracts:
                minuend = _total(key, terms[:1], values)
                total = self._without_decrease((model, key), minuend, total)
            if key in OUTCOME_KEYS:
                result.outcomes[OUTCOME_KEYS[key]] = total
            elif key in STAGE_KEYS:
                result.stages[STAGE_KEYS[key]] = total
            elif key == "awake":
                self.ready = total > 0 and self.ready is not False
            else:
                result.values[key] = total
        for plan in histograms:
            histogram = _histogram(plan, values)
            if histogram is None:
                page.omissions["histogram"] += 1
            else:
                result.histograms[plan.key] = histogram
        for stage, key in _STAGE_HISTOGRAMS.items():
            measured = result.histograms.get(key)
            if measured is not None and measured.sum is not None:
                result.stages.setdefault(stage, measured.sum)
        return result

    def _without_decrease(self, key: tuple[str, str], minuend: float, latest: float) -> float:
        """Returns a difference of two counters that decreases only when the first one does.

        The engine counts the two one after the other: a difference that a page between the two
        shows is exported only if the next page confirms it.
        """
        state = self._differences.get(key)
        if state is None or minuend < state.minuend:
            exported = max(0.0, latest)
        else:
            exported = max(state.exported, min(latest, state.latest))
        self._differences[key] = _Difference(minuend, latest, exported)
        return exported

    def _plan(self, page: PageSamples) -> None:
        """Plans the values for the series on the page."""
        self._omitted = Counter()
        found: dict[str, dict[str, dict[int, dict[tuple[int, str], dict[_Rank, int]]]]] = {}
        present = zip(page.series, page.values, strict=False)  # a later page may add series
        for index, (series, value) in enumerate(present):
            if value is None:
                continue
            for use, term in self._uses.get(series.name, ()):
                if not all(matcher.matches(series.labels) for matcher in term.matchers):
                    continue
                model = self._model_of(series.labels)
                if model is None:
                    break
                part = f"{use.part}{series.labels.get('le', '')}" if use.part == "le=" else use.part
                by_term = found.setdefault(model, {}).setdefault(use.key, {})
                parts = by_term.setdefault(use.expression, {}).setdefault((use.term, part), {})
                self._add(parts, series, index)
        departed = [model for model in self._models if model not in found]
        for model in departed:
            del self._models[model]
        self._differences = {
            key: state for key, state in self._differences.items() if key[0] in found
        }
        self._plans = {model: self._plans_of(keys) for model, keys in found.items()}

    def _add(self, parts: dict[_Rank, int], series: PageSeries, index: int) -> None:
        """Adds a series; of those that differ in the labels of ranks only, the lowest counts."""
        repeated = self.profile.repeated
        if not repeated:
            parts[((str(index), ""),), ()] = index
            return
        others = tuple(pair for pair in series.labels.items() if pair[0] not in repeated)
        rank = tuple(_rank(series.labels.get(label, "")) for label in repeated)
        for key in parts:
            if key[0] == others:
                if rank < key[1]:
                    del parts[key]
                    parts[others, rank] = index
                return
        parts[others, rank] = index

    def _model_of(self, labels: dict[str, str]) -> str | None:
        """Returns the value of the label `model`; None if it is left out."""
        model = next((labels[label] for label in self.profile.model if label in labels), "")
        if model in self._models:
            return model
        if len(model) > _MAX_MODEL_LENGTH:
            self._omitted["label"] += 1
            return None
        if len(self._models) >= self._max_models:
            self._omitted["models"] += 1
            return None
        self._models[model] = None
        return model

    def _plans_of(
        self, keys: dict[str, dict[int, dict[tuple[int, str], dict[_Rank, int]]]]
    ) -> tuple[list[_ScalarPlan], list[_HistogramPlan]]:
        scalars: list[_ScalarPlan] = []
        histograms: list[_HistogramPlan] = []
        for key, by_expression in keys.items():
            for number in sorted(by_expression):
                parts = {
                    part: tuple(indices.values()) for part, indices in by_expression[number].items()
                }
                if key in HISTOGRAMS:
                    plan = _histogram_plan(key, self._of(key, number), parts)
                    if plan is None:
                        self._omitted["histogram"] += 1
                        continue
                    histograms.append(plan)
                    break
                expression = self._of(key, number)
                if len(parts) == len(expression.terms):
                    terms = tuple(
                        (-term.divisor if term.negative else term.divisor, parts[i, ""])
                        for i, term in enumerate(expression.terms)
                    )
                    subtracts = any(term.negative for term in expression.terms)
                    scalars.append(_ScalarPlan(key, terms, subtracts))
                    break
        return scalars, histograms


_Rank = tuple[tuple[tuple[str, str], ...], tuple[tuple[int, str], ...]]


def _rank(text: str) -> tuple[int, str]:
    return (
        (int(text), "") if text.isascii() and text.isdigit() and len(text) < 9 else (1 << 30, text)
    )


def _parts(key: str, term: Term) -> Iterator[tuple[str, str]]:
    """Yields the sample names of a term, and the part that each is of."""
    if key not in HISTOGRAMS:
        yield term.family, ""
        return
    yield f"{term.family}_bucket", "le="
    yield f"{term.family}_sum", "sum"
    yield f"{term.family}_count", "count"


def _total(
    key: str, terms: Sequence[tuple[int, tuple[int, ...]]], values: Sequence[float | None]
) -> float:
    total = 0.0
    for divisor, indices in terms:
        numbers = [values[i] or 0.0 for i in indices]
        total += (max(numbers) if key in _OF_THE_FULLEST else sum(numbers)) / divisor
    return total


def _histogram_plan(
    key: str, expression: Expression, parts: dict[tuple[int, str], tuple[int, ...]]
) -> _HistogramPlan | None:
    """Returns the plan; None if the bounds of the summed series differ, or parts are absent."""
    (term,) = expression.terms
    counts = parts.get((0, "count"))
    bounds: dict[float, tuple[int, ...]] = {}
    for (_, part), indices in parts.items():
        if part.startswith("le="):
            try:
                bounds[float(part[3:])] = indices
            except ValueError:
                return None
    counts = counts or bounds.get(float("inf"))
    sums = parts.get((0, "sum"), ()) if expression.with_sum else ()
    if counts is None or any(len(indices) != len(counts) for indices in bounds.values()):
        return None
    if sums and len(sums) != len(counts):
        return None
    finite = sorted(bound for bound in bounds if bound < float("inf"))
    buckets = (*(bounds[bound] for bound in finite), counts)
    return _HistogramPlan(
        key,
        tuple(bound / term.divisor for bound in finite),
        buckets,
        tuple(indices[0] for indices in buckets) if len(counts) == 1 else (),
        sums,
        term.divisor,
    )


def _histogram(plan: _HistogramPlan, values: Sequence[float | None]) -> Histogram | None:
    """Returns the histogram; None if its buckets decrease."""
    if plan.single:
        counts = [values[index] or 0.0 for index in plan.single]
    else:
        counts = [sum(values[i] or 0.0 for i in indices) for indices in plan.buckets]
    if counts != sorted(counts):
        return None
    total = sum(values[i] or 0.0 for i in plan.sums) / plan.divisor if plan.sums else None
    return Histogram(plan.bounds, tuple(counts[:-1]), total, counts[-1])
