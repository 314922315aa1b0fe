"""The reader of model servers' pages."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.errors import BadData, SourceError
from exporter.model import Reading
from exporter.model_server.engines import built_in_profiles
from exporter.model_server.mapping import PageMapping, sample_names
from exporter.model_server.metrics import METRICS
from exporter.model_server.page_samples import SampleReader
from exporter.model_server.reading import ServedModelRow
from tests.garbage.law import Fixture, Outcome, counters, series

# Gauges and counters of a model each: a damaged line costs its series.
PAGE = b"""\
# HELP sglang:num_running_reqs A help text.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="a",tp_rank="0"} 3.0
sglang:num_queue_reqs{model_name="a",tp_rank="0"} 5.0
sglang:token_usage{model_name="a",tp_rank="0"} 0.25
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="a"} 1345.0
sglang:generation_tokens_total{model_name="a"} 2141.0
sglang:http_requests_total{endpoint="/x"} 7.0
sglang:num_running_reqs{model_name="b",tp_rank="0"} 4.0
sglang:generation_tokens_total{model_name="b"} 11.0
"""


def _read(content: bytes) -> Outcome:
    (profile,) = (each for each in built_in_profiles() if each.name == "sglang")
    reader, mapping = SampleReader(sample_names(profile), 60_000), PageMapping(profile, 50)
    page = reader.begin()
    try:
        page.feed(content)
        samples = page.finish()
    except SourceError as error:
        return Outcome({}, failed=error)
    rows = tuple(
        ServedModelRow(("s", "sglang", name), m.values, m.outcomes, m.stages, m.histograms)
        for name, m in mapping.models(samples).items()
    )
    omissions = samples.omissions
    problems = (BadData(f"left out of the page: {omissions}"),) if omissions else ()
    return Outcome(series(METRICS, Reading(rows)), problems)


def fixtures() -> Iterator[Fixture]:
    """Yields the fixture of a page."""
    yield Fixture("model server: page", PAGE, _read, counters(METRICS))
