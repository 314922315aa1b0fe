"""The exporter's own metrics as a source, so that a scrape does not read /proc."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from exporter import __version__
from exporter.errors import BadData, NotFound
from exporter.lean_import import lean_import
from exporter.model import Health, Reading, Row, SourceStatus, Target
from exporter.settings import SourceSettings
from exporter.sources.itself.failures import FailureTotals
from exporter.sources.itself.reading import Build, ExporterPod, ExporterProcess, SourceRow
from exporter.sources.itself.settings import Settings
from exporter.worker import Worker

if TYPE_CHECKING:  # the registry imports modules of this package
    from exporter.context import Context

# Of prometheus_client: the exposition imports wsgiref and http.server, 1 MB.
_UNUSED = (
    "prometheus_client.exposition",
    "prometheus_client.gc_collector",
    "prometheus_client.metrics",
    "prometheus_client.platform_collector",
)
with lean_import("prometheus_client", _UNUSED):
    from prometheus_client import ProcessCollector

NAME = "itself"
T = TypeVar("T")


class ExporterTarget:
    """The only target. Without `up`: inference_exporter_source_up has the same value."""

    name = "exporter"
    up = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, context: Context, worker: Worker, pod: ExporterPod | None) -> None:
        self._context, self._worker, self._pod = context, worker, pod
        self._failures = FailureTotals()
        self._collector: ProcessCollector | None = None

    async def read(self) -> Reading:
        return await self.read_then(lambda reading: reading)

    async def read_then(self, finish: Callable[[Reading], T]) -> T:
        """As `read`; returns what `finish` makes of the reading, in the worker's thread."""
        statuses = self._context.statuses()
        self._failures.retain(status.name for status in statuses)
        rows: list[Row] = [
            Build(
                __version__,
                platform.python_version(),
                self._context.scrapes(),
                sum(status.series for status in statuses),
                self._context.refusals(),
            ),
            *(source_row(status, self._failures.update(status)) for status in statuses),
        ]
        if self._pod is not None:
            rows.append(self._pod)
        return await self._worker.run(lambda: finish(self._with_process(rows)))

    def _with_process(self, rows: list[Row]) -> Reading:
        """Returns the reading, with the process metrics. Blocks."""
        try:
            return Reading((*rows, self._read_process()))
        except (NotFound, BadData) as error:
            return Reading(tuple(rows), (error,))

    def _read_process(self) -> ExporterProcess:
        """Reads the process metrics. Blocks. Raises NotFound, BadData.

        From /proc/self, the collector's default: in the host's /proc under --path.procfs this
        process may have another PID, or be missing.
        """
        if self._collector is None:
            self._collector = ProcessCollector(registry=None)  # the constructor reads /proc/stat
        try:
            values = {
                sample.name: sample.value
                for family in self._collector.collect()
                for sample in family.samples
            }
        except (ValueError, LookupError, NameError) as error:
            # NameError: a bug of the collector if /proc/self/limits has no line "Max open files".
            raise BadData(f"/proc/self cannot be parsed: {error}") from error
        if not values:
            self._collector = None  # it caches that the boot time is unknown
            raise NotFound("/proc/stat or /proc/self cannot be read", "mount /proc")
        return ExporterProcess(
            cpu_seconds=values.get("process_cpu_seconds_total"),
            resident_memory=values.get("process_resident_memory_bytes"),
            virtual_memory=values.get("process_virtual_memory_bytes"),
            start_time=values.get("process_start_time_seconds"),
            open_fds=values.get("process_open_fds"),
            max_fds=values.get("process_max_fds"),
        )


def source_row(status: SourceStatus, failures: tuple[tuple[str, int], ...]) -> SourceRow:
    """Returns the row of a source: over all targets, or of its discovery if it has none."""
    if not status.wanted:
        occurred = tuple((kind, count) for kind, count in failures if count)
        return SourceRow(labels=(status.name,), failures=occurred)
    healths = [target.health for target in status.instances] or [status.health]
    successes = [health.last_success for health in healths if health.last_success is not None]
    durations = [health.duration for health in healths if health.duration is not None]
    polled = status.health.error is not None or any(map(_polled, healths))
    up = status.up if polled else None
    if status.name == NAME:
        up = True  # also in its first reading: that this row exists proves it
    return SourceRow(
        labels=(status.name,),
        up=up,
        last_success=max(successes, default=None),
        duration=max(durations, default=None),
        series=status.series if polled else None,
        dropped_series=status.dropped_series if polled else None,
        max_series=status.max_series,
        failures=failures,
    )


def _polled(health: Health) -> bool:
    return health.error is not None or health.duration is not None


class ExporterSource:
    """The exporter itself. `discover` never fails."""

    name = NAME

    def __init__(self, context: Context, settings: Settings | None = None) -> None:
        self._worker = Worker(NAME)
        self._targets = (ExporterTarget(context, self._worker, _pod(settings or Settings())),)

    async def discover(self) -> Sequence[Target]:
        return self._targets

    async def close(self) -> None:
        self._worker.close()


def _pod(settings: Settings) -> ExporterPod | None:
    """Returns the exporter's pod; None outside of Kubernetes."""
    if not settings.pod_name:
        return None
    return ExporterPod((settings.pod_namespace, settings.pod_name, settings.node_name))


def build(settings: SourceSettings, context: Context) -> ExporterSource:
    if not isinstance(settings, Settings):
        raise TypeError(f"expected the settings of the exporter itself, not {settings!r}")
    return ExporterSource(context, settings)
