"""Triton servers in the vocabulary: derived from the Triton source's readings, without requests.

TensorRT-LLM's families are read from the server's own metrics page while the upstream source
merges it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, partial

from exporter.context import Context
from exporter.errors import DeadlineExceeded, Expired, NotYet, SourceError
from exporter.http_client.address import parse_page
from exporter.model import Histogram, Metric, Reading, Row, TargetStatus, Up
from exporter.model_server.mapping import ModelValues, PageMapping, sample_names
from exporter.model_server.metrics import UP
from exporter.model_server.page_samples import PageSamples, SampleReader
from exporter.model_server.profile import Profile, parse_profile
from exporter.model_server.reading import ModelServerRow, ServedModelRow
from exporter.model_server.stall import HTTP_OK, NO_RESPONSE, Activity
from exporter.model_server.window import ModelWindow, snapshot
from exporter.shared_pages import SharedPage
from exporter.sources.triton.reading import (
    CumulativeDuration,
    ModelRow,
    ReadyRow,
    ServerAddressRow,
    ServerRow,
)
from exporter.upstream.reading import QueueRow
from exporter.worker import Worker

ENGINE = "triton"
TRITON_PAGE = {
    "title": "Triton (TensorRT-LLM backend)",
    "detect": "nv_trt_llm_request_metrics nv_trt_llm_kv_cache_block_metrics",
    "model": "model",
    "metrics": {
        "requests_running": 'nv_trt_llm_request_metrics{request_type="scheduled"}',
        "requests_waiting": 'nv_trt_llm_request_metrics{request_type="waiting"}',
        "kv_cache_usage_ratio": (
            'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}'
        ),
    },
}
_MAX_LINES = 60_000
_MAX_MODELS = 1000
_REJECTED, _CANCELED = "REJECTED", "CANCELED"


@cache
def _triton_profile() -> Profile:
    return parse_profile(ENGINE, TRITON_PAGE)


class DerivedTritonTarget:
    """One Triton server. Has the state of the server's target in the Triton source."""

    def __init__(self, server: str, context: Context, worker: Worker, window: float) -> None:
        self._server = server
        self._context = context
        self._worker = worker
        self._window = window
        self._windows: dict[str, ModelWindow] = {}
        self._by_reason = False
        self._page_key: tuple[str, int, str] | None = None
        self._reader = SampleReader(sample_names(_triton_profile()), _MAX_LINES)
        self._mapping = PageMapping(_triton_profile(), _MAX_MODELS)
        self.activity = Activity()
        self.address: ServerAddressRow | None = None
        """As of the last read."""

    @property
    def name(self) -> str:
        return self._server

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (self._server, ENGINE)

    def close(self) -> None:
        if self._page_key is not None:
            self._context.shared_pages.release(*self._page_key)

    async def read(self) -> Reading:
        """Derives the rows. Raises the error of the Triton source's last read."""
        status = _triton_status(self._context, self._server)
        if status is None or not status.health.up:
            self._note_failure(status)
            raise (status and status.health.error) or NotYet("the server has not been read yet")
        reading = self._context.readings("triton").get(self._server)
        if reading is None:
            raise NotYet("the server has not been read yet")
        rows = reading.rows
        address = next((row for row in rows if isinstance(row, ServerAddressRow)), None)
        server = next((row for row in rows if isinstance(row, ServerRow)), None)
        ready = next((row.ready for row in rows if isinstance(row, ReadyRow)), None)
        self.address = address
        labels = (self._server, ENGINE)
        netloc = f"{address.host}:{address.port}" if address is not None else ""
        derived: list[Row] = [
            ModelServerRow(labels, server.version if server else "", netloc, ready=ready)
        ]
        models = self._models(rows)
        for name, engine_values in (await self._engine_values(address)).items():
            models.setdefault(name, ModelValues()).values.update(engine_values.values)
        now = time.monotonic()
        self.activity.page(now, models)
        self.activity.state(now, HTTP_OK if ready else None, ready=ready)
        windows, self._windows = self._windows, {}
        read_at = status.health.last_success or 0.0
        for model, values in models.items():
            window = self._windows[model] = windows.get(model) or ModelWindow(self._window)
            statistics, _ = window.add(read_at, snapshot(values))
            derived.append(
                ServedModelRow(
                    (*labels, model),
                    values.values,
                    values.outcomes,
                    values.stages,
                    values.histograms,
                    statistics,
                )
            )
        return Reading(tuple(derived), note="from the Triton source")

    def _note_failure(self, status: TargetStatus | None) -> None:
        """Notes that the statistics time out; Triton's HTTP server answers for the engine."""
        error = status.health.error if status is not None else None
        if isinstance(error, Expired):
            return  # the exporter is late, which says nothing of the server
        if isinstance(error, DeadlineExceeded):
            self.activity.timed_out(time.monotonic(), NO_RESPONSE)
        else:
            self.activity.failed()

    def _models(self, rows: Iterable[Row]) -> dict[str, ModelValues]:
        """Returns the values by model, added up over its versions."""
        versions: dict[str, list[ModelRow]] = {}
        for row in rows:
            if isinstance(row, ModelRow):
                versions.setdefault(row.labels[1], []).append(row)
        queues: dict[str, list[QueueRow]] = {}
        page = self._context.readings("upstream").get(self._server)
        for row in page.rows if page is not None else ():
            if isinstance(row, QueueRow):
                queues.setdefault(row.labels[1], []).append(row)
                self._by_reason = self._by_reason or bool(row.failures)
        return {
            model: self._values(model_rows, queues.get(model, ()))
            for model, model_rows in versions.items()
        }

    def _values(self, rows: Sequence[ModelRow], queues: Sequence[QueueRow]) -> ModelValues:
        values = ModelValues()
        pending = [queue.pending for queue in queues if queue.pending is not None]
        if pending:
            values.values["requests_waiting"] = sum(pending)
        ok = [row.counts.success.count for row in rows]
        if None not in ok:
            values.outcomes["ok"] = sum(count or 0 for count in ok)
        failed = [row.counts.fail.count for row in rows]
        if self._by_reason:
            # The page's counts once they are known: the statistics have them in one number.
            reasons = [pair for queue in queues for pair in queue.failures]
            if reasons:
                known = {_REJECTED: "rejected", _CANCELED: "cancelled"}
                for reason, count in reasons:
                    outcome = known.get(reason, "error")
                    values.outcomes[outcome] = values.outcomes.get(outcome, 0.0) + count
        elif None not in failed:
            values.outcomes["error"] = sum(count or 0 for count in failed)
        for key, stage, durations in (
            ("request_duration_seconds", "request", [row.counts.success for row in rows]),
            ("queue_duration_seconds", "queue", [row.counts.queue for row in rows]),
        ):
            histogram = _sums(durations)
            if histogram is not None and histogram.sum is not None:
                values.histograms[key] = histogram
                values.stages[stage] = histogram.sum
        return values

    async def _engine_values(self, address: ServerAddressRow | None) -> dict[str, ModelValues]:
        """Returns the values of TensorRT-LLM's families, if the page is merged and has them."""
        shared = self._find_page(address)
        if shared is None:
            return {}
        page = shared.result
        if shared.error is not None or not isinstance(page, PageSamples):
            return {}
        try:
            return await self._worker.run(partial(self._mapping.models, page))
        except SourceError:
            return {}

    def _find_page(self, address: ServerAddressRow | None) -> SharedPage | None:
        key = None
        if address is not None and address.metrics_url:
            with suppress(ValueError):
                page, path = parse_page(address.metrics_url)
                key = (page.socket or page.host, page.port, path)
        if key != self._page_key:
            self.close()
            self._page_key = key
        return self._context.shared_pages.claim(*key, self._reader.begin) if key else None


class TritonTargets:
    """The derived targets of the servers that the Triton source lists."""

    def __init__(self, context: Context, window: float) -> None:
        self._context = context
        self._window = window
        self._worker = Worker("derived Triton values", shared=True)
        self._targets: dict[str, DerivedTritonTarget] = {}

    def update(self) -> tuple[DerivedTritonTarget, ...]:
        names = [
            target.name
            for status in self._context.statuses()
            if status.name == ENGINE
            for target in status.targets
        ]
        for name in [name for name in self._targets if name not in names]:
            self._targets.pop(name).close()
        for name in names:
            if name not in self._targets:
                self._targets[name] = DerivedTritonTarget(
                    name, self._context, self._worker, self._window
                )
        return tuple(self._targets.values())

    def close(self) -> None:
        self._worker.close()
        for target in self._targets.values():
            target.close()


def _triton_status(context: Context, server: str) -> TargetStatus | None:
    return next(
        (
            target
            for status in context.statuses()
            if status.name == ENGINE
            for target in status.targets
            if target.name == server
        ),
        None,
    )


def _sums(durations: Sequence[CumulativeDuration]) -> Histogram | None:
    """Returns a histogram without finite bounds; None if a part is unknown."""
    count, nanoseconds = 0, 0
    for duration in durations:
        if duration.count is None or duration.ns is None:
            return None
        count += duration.count
        nanoseconds += duration.ns
    return Histogram((), (), nanoseconds / 1e9, count)
