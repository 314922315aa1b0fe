"""The exporter as a source of its own: one target, itself. A scrape so never reads /proc."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector

from exporter import __version__
from exporter.errors import BadData, NotFound, SourceError
from exporter.model import Health, Reading, Row, SourceStatus, Target
from exporter.settings import SourceSettings
from exporter.sources.itself.failures import FailureTotals
from exporter.sources.itself.reading import Build, ExporterProcess, SourceRow
from exporter.worker import Worker

if TYPE_CHECKING:  # the registry imports this module's neighbours
    from exporter.context import Context

NAME = "itself"


class ExporterTarget:
    """The one target. It has no `up` of its own: the source's says the same."""

    name = "exporter"
    up = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, context: Context, worker: Worker) -> None:
        self._context, self._worker = context, worker
        self._failures = FailureTotals()
        self._collector: ProcessCollector | None = None

    async def read(self) -> Reading:
        statuses = self._context.statuses()
        self._failures.keep(status.name for status in statuses)
        rows: list[Row] = [
            Build(
                __version__,
                platform.python_version(),
                self._context.scrapes(),
                sum(status.series for status in statuses),
            ),
            *(summarise(status, self._failures.update(status)) for status in statuses),
        ]
        problems: tuple[SourceError, ...] = ()
        try:
            rows.append(await self._worker.run(self._process))
        except (NotFound, BadData) as error:
            problems = (error,)
        return Reading(tuple(rows), problems)

    def _process(self) -> ExporterProcess:
        """Read this process's own files; blocking.

        The collector's defaults are /proc and "self": the host's /proc under another path may
        know this process by another PID, or not at all.
        """
        if self._collector is None:
            self._collector = ProcessCollector(registry=None)  # it reads /proc/stat when made
        try:
            values = {
                sample.name: sample.value
                for family in self._collector.collect()
                for sample in family.samples
            }
        except (ValueError, LookupError, NameError) as error:
            # NameError: it names max_fds unset where the limits have no such line.
            raise BadData(f"/proc/self cannot be understood: {error}") from error
        if not values:
            self._collector = None  # it keeps not having read the boot time
            raise NotFound("/proc/stat or /proc/self cannot be read", "mount a /proc")
        return ExporterProcess(
            cpu_seconds=values.get("process_cpu_seconds_total"),
            resident_memory=values.get("process_resident_memory_bytes"),
            virtual_memory=values.get("process_virtual_memory_bytes"),
            start_time=values.get("process_start_time_seconds"),
            open_fds=values.get("process_open_fds"),
            max_fds=values.get("process_max_fds"),
        )


def summarise(status: SourceStatus, failures: tuple[tuple[str, int], ...]) -> SourceRow:
    """One row for all targets of a source; for the search for them where it has none."""
    if not status.wanted:
        found = tuple((kind, count) for kind, count in failures if count)
        return SourceRow(labels=(status.name,), failures=found)
    healths = [target.health for target in status.targets] or [status.health]
    successes = [health.last_success for health in healths if health.last_success is not None]
    durations = [health.duration for health in healths if health.duration is not None]
    # Before the first poll has ended nothing is known of what it will show.
    polled = status.health.error is not None or any(map(_tried, healths))
    up = status.up if polled else None
    if status.name == NAME:
        up = True  # whoever reads this row has the proof, the first time too
    return SourceRow(
        labels=(status.name,),
        up=up,
        last_success=max(successes, default=None),
        duration=max(durations, default=None),
        series=status.series if polled else None,
        shed=status.shed if polled else None,
        max_series=status.max_series,
        failures=failures,
    )


def _tried(health: Health) -> bool:
    return health.error is not None or health.duration is not None


class ExporterSource:
    """There is always an exporter: `discover` never fails."""

    name = NAME

    def __init__(self, context: Context) -> None:
        self._worker = Worker(NAME)
        self._targets = (ExporterTarget(context, self._worker),)

    async def discover(self) -> Sequence[Target]:
        return self._targets

    async def close(self) -> None:
        self._worker.close()


def build(settings: SourceSettings, context: Context) -> ExporterSource:  # noqa: ARG001 - every source's build has this signature
    return ExporterSource(context)
