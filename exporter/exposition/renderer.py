"""Readings to sample lines, once each.

Sample lines of text 0.0.4 and OpenMetrics 1.0 are the same bytes; only the comment lines differ
(`page.py`). prometheus_client's `generate_latest` is the oracle: the same families give the same
bytes, labels in alphabetical order and Go's number format included.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from exporter.errors import BadData, Internal, SourceError, TooMany
from exporter.exposition.dialect_rules import FamilyRule, LabelRule
from exporter.exposition.family_samples import (
    DialectFamily,
    FamilySamples,
    NativeFamily,
    RowsByType,
)
from exporter.exposition.info_labels import InfoLabels, SharedInfoLabels
from exporter.model import Metric, Rendered, Row, Type


class Renderer:
    """Renders the readings of one target. Not shared between threads: one reading at a time.

    derived, added: what dialects want. shared: the info metrics of the source's other targets,
    whose renderers must run in the same thread.
    """

    def __init__(
        self,
        metrics: Iterable[Metric[Any]],
        derived: Iterable[FamilyRule] = (),
        added: Iterable[LabelRule] = (),
        shared: SharedInfoLabels | None = None,
    ) -> None:
        infos = InfoLabels(shared)
        added = tuple(added)
        natives = {
            metric.name: NativeFamily(metric, [a for a in added if a.of == metric.name], infos)
            for metric in metrics
        }
        for native in natives.values():
            if native.metric.type is Type.INFO:
                infos.add(native)
        self._columns: list[FamilySamples] = [
            # Info metrics first: the others may look their labels up.
            *sorted(natives.values(), key=lambda native: native.metric.type is not Type.INFO),
            *(
                DialectFamily(each, natives[each.of], infos)
                for each in derived
                if each.of in natives
            ),
        ]
        self._rows = RowsByType(())

    def render(self, rows: Iterable[Row], room: int = sys.maxsize) -> Rendered:
        """All sample lines of a reading. What cannot be rendered is a problem, not an exception.

        room: how many lines there may be. A family that does not fit is left out whole, for a
        part of it would give wrong sums; a smaller one that comes later may still fit.
        """
        self._rows = RowsByType(rows, self._rows)
        lines: dict[str, bytes] = {}
        shed: dict[str, int] = {}
        problems: list[SourceError] = []
        series = 0
        for column in self._columns:
            name = column.name
            try:
                keys, values = column.take(self._rows)
                width = column.series.width(keys)
                if series + width > room:
                    shed[name] = shed.get(name, 0) + width
                    column.forget()
                    continue
                data = column.series.render(keys, values)
            except Exception as error:  # noqa: BLE001 - one metric must not take the others with it
                column.forget()
                problems.append(Internal(f"{name} cannot be rendered: {error!r}"))
                continue
            if column.series.twice:
                twice = column.series.twice
                problems.append(BadData(f"{name}: {twice} values with labels seen before"))
            if data:
                lines[name] = lines[name] + data if name in lines else data
                series += len(column.series)
        if shed:
            problems.append(_too_many(shed))
        return Rendered(lines, series, tuple(problems), sum(shed.values()))


def _too_many(shed: dict[str, int]) -> TooMany:
    names = list(shed)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return TooMany(
        f"{sum(shed.values())} series would go over the ceiling and are left out:"
        f" {', '.join(names[:5])}{more}",
        "raise the source's max_series or page.max_series, or have the source show less",
    )
