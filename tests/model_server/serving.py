"""A fake model server with a given page, and the values that the source exports of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from exporter.context import Context
from exporter.exposition.renderer import Renderer
from exporter.model import Reading
from exporter.model_server.metrics import METRICS
from exporter.model_server.settings import Settings
from exporter.model_server.source import ModelServerSource, build
from exporter.settings import Duration, Paths

PAGES = Path(__file__).parent / "pages"
AMPLE = Duration(60)
"""A timeout that a busy machine does not reach: some requests have a seventh of it."""
Values = dict[tuple[str, ...], float]
"""By name and label values without server and engine, in the order of the labels' names."""


def context(
    readings: Mapping[str, Mapping[str, Reading]] | None = None,
    paths: Paths | None = None,
    **changes: Any,
) -> Context:
    known = readings or {}
    return Context(paths or Paths(), tuple, lambda: 0, lambda name: known.get(name, {}), **changes)


@contextlib.asynccontextmanager
async def source(
    within: Context | None = None, **settings: Any
) -> AsyncIterator[ModelServerSource]:
    settings.setdefault("timeout", AMPLE)
    servers = build(Settings(**settings), within or context())
    try:
        yield servers
    finally:
        await servers.close()


def exported(reading: Reading) -> Values:
    """Returns the samples of the rendered rows, as prometheus_client reads them."""
    text = b"".join(Renderer(METRICS).render(reading.rows).lines.values()).decode()
    values: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [
                value
                for label, value in sorted(sample.labels.items())
                if label not in ("server", "engine")
            ]
            key = (sample.name, *labels)
            assert key not in values, f"duplicate series {key}"
            values[key] = sample.value
    return values
