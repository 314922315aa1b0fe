"""The readers of spans, and of the trace settings."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.errors import SourceError
from exporter.faults import Faults, FaultTotals
from exporter.model import Reading
from exporter.trace_posts import TracePost
from exporter.traces.collector import Collector
from exporter.traces.metrics import METRICS
from exporter.traces.reading import TracedModelRow
from exporter.traces.traced_servers import TracedServer, TracedServers
from exporter.traces.triton_setting import parse_setting
from tests.garbage.law import Fixture, Outcome, Values, counters, series
from tests.steps import complete
from tests.traces.posts import START, TracedRequest, document

MODELS = ("wine", "other")
SETTING = {
    "trace_level": ["TIMESTAMPS"],
    "trace_rate": "100",
    "trace_count": "-1",
    "trace_mode": "opentelemetry",
    "resource": "service.instance.id=here",
}


def posted() -> dict[str, object]:
    """Returns a POST with a request of each model."""
    spans = []
    for number, model in enumerate(MODELS, start=1):
        queue = float(number)
        spans += TracedRequest(model, number=number, queue=queue, responses=2).spans()
    return document(spans, "instance-of-here")


def _read(content: bytes) -> Outcome:
    """Returns the histograms of the models, after spans have waited long enough."""
    collector = Collector(1 << 20, 1000, 10, 300.0)
    models = {(model, "1"): None for model in MODELS}
    rates = {("here", model): ((0, 10),) for model in MODELS}
    collector.traced_servers = TracedServers({"here": TracedServer(None, models)}, rates)
    complete(collector.add([TracePost(content, protobuf=False, gzip=False)], 0.0, START / 1e9))
    rows = tuple(collector.rows(60.0))
    problems = list(collector.problems())
    left_out = {reason: count for reason, count in collector.left_out.items() if count}
    if left_out:  # counted by triton_trace_spans_left_out_total
        problems.append(SourceError(f"left out: {left_out}"))
    values = series(METRICS, Reading(rows))
    return Outcome(_by_model(values), tuple(problems))


def _by_model(values: Values) -> Values:
    """Returns the values with the model in the metric's name: `depends` knows names only."""
    return {
        (f"{labels[1]}: {name}" if len(labels) > 1 else name, labels): value
        for (name, labels), value in values.items()
    }


def _read_setting(content: bytes) -> Outcome:
    faults, totals = Faults(), FaultTotals()
    try:
        setting = parse_setting(content, faults)
    except SourceError as error:
        return Outcome({}, failed=error)
    totals.add("trace settings", faults)
    row = TracedModelRow(("here", "wine", "1"), 1, 0, setting.rate, None)
    return Outcome(series(METRICS, Reading((row,))), totals.problems())


# Parts that all spans are in, and the instance.
_WHOLE = r"^(resourceSpans(\.\d)?(\.(scopeSpans(\.\d)?(\.spans)?|resource.*))?)?($| )"


def fixtures() -> Iterator[Fixture]:
    names = {f"{model}: {name}" for model in MODELS for name in counters(METRICS)}
    yield Fixture(
        "traces: spans",
        posted(),
        _read,
        frozenset(names) | counters(METRICS),
        depends=(
            (_WHOLE, ".*"),
            # A request's spans follow each other: compute, model, root.
            (r"spans\.[012]($|[ .])", "wine: .*"),
            (r"spans\.[345]($|[ .])", "other: .*"),
            (r"attributes", "triton_traces_lost_total"),
            (r"spans\.\d($| )", "triton_traces_lost_total"),
        ),
        # What is left out is counted, and events and attributes that are not Triton's are no fault.
        silent=".*",
    )
    yield Fixture(
        "traces: settings",
        SETTING,
        _read_setting,
        counters(METRICS),
        depends=((r"trace_rate", "triton_trace_rate"), (r"^$", "triton_.*")),
        silent="triton_trace_rate",
    )
