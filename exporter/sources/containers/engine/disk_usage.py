"""How much disk the engine's objects take: asked for rarely, as the engine walks over all files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct, field

from exporter.errors import SourceError
from exporter.model import Metric, Reading, Up
from exporter.sources.containers.engine.api_types import ContainerId, checked
from exporter.sources.containers.engine.target import EngineTarget
from exporter.sources.containers.reading import DiskUsage
from exporter.sources.containers.settings import Settings
from exporter.worker import Worker

if TYPE_CHECKING:
    from exporter.sources.containers.engine.sdk_client import EngineClient

# The engine may walk for minutes: longer than any poll waits.
_DEADLINE = 600.0
# Seconds after which it is asked again that failed to answer, where the interval is longer.
_AGAIN = 60.0
_Size = Annotated[int, Meta(ge=-1, le=2**63 - 1)]  # -1: not known


class _ContainerSize(Struct):
    id: ContainerId = field(name="Id")
    size: _Size = field(name="SizeRw", default=0)


class _VolumeUsage(Struct):
    size: _Size = field(name="Size", default=-1)


class _Volume(Struct):
    usage: _VolumeUsage | None = field(name="UsageData", default=None)


class _Cache(Struct):
    size: _Size = field(name="Size", default=0)


class DiskUsageReply(Struct):
    """GET /system/df. LayersSize: of all images, what they share counted once."""

    layers: _Size | None = field(name="LayersSize", default=None)
    images: list[Any] | None = field(name="Images", default=None)
    containers: list[_ContainerSize] | None = field(name="Containers", default=None)
    volumes: list[_Volume] | None = field(name="Volumes", default=None)
    caches: list[_Cache] | None = field(name="BuildCache", default=None)


class DiskUsageTarget:
    """Asks in a thread of its own, and shows the last answer at each poll until the next."""

    name = "disk-usage"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, settings: Settings, engine: EngineTarget) -> None:
        self._settings = settings
        self._interval = settings.disk_usage_interval or 0.0
        self._engine = engine
        self._worker = Worker("containers-disk")
        self._asking: asyncio.Task[DiskUsageReply] | None = None
        self._next = 0.0
        """When to ask again, on the event loop's clock."""
        self._answer: DiskUsageReply | None = None
        self._failure: SourceError | None = None

    async def read(self) -> Reading:
        """The last answer; empty while the first is awaited. Raises SourceError."""
        now = asyncio.get_running_loop().time()
        if self._asking is None and now >= self._next:
            self._next = now + self._interval
            self._asking = asyncio.create_task(self._worker.run(self._ask))
        if self._asking is not None and self._asking.done():
            asking, self._asking = self._asking, None
            try:
                self._answer, self._failure = asking.result(), None
            except SourceError as failure:
                self._answer, self._failure = None, failure
                self._next = min(self._next, now + _AGAIN)
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # it would grow with every raise
        return Reading((self._row(self._answer),) if self._answer is not None else ())

    def close(self) -> None:
        """End the thread as soon as it is free."""
        if self._asking is not None:
            self._asking.cancel()
        self._worker.close()

    def _ask(self) -> DiskUsageReply:
        from exporter.sources.containers.engine.sdk_client import EngineClient  # noqa: PLC0415 - loaded when needed
        from exporter.sources.containers.engine.sdk_errors import translated  # noqa: PLC0415 - as above

        client: EngineClient = EngineClient(self._settings, _DEADLINE)
        try:
            with translated("asking for disk usage"):
                reply: Any = client.df()
        finally:
            client.close()
        return checked(reply, DiskUsageReply, "the disk usage")

    def _row(self, answer: DiskUsageReply) -> DiskUsage:
        volumes = [each.usage.size for each in answer.volumes or () if each.usage is not None]
        # Podman gives 0 for them, however many there are.
        layers = answer.layers if answer.layers or not answer.images else None
        kinds = {
            "images": (layers, answer.images),
            "containers": (sum(each.size for each in answer.containers or ()), answer.containers),
            "volumes": (sum(size for size in volumes if size >= 0), answer.volumes),
            "build_cache": (sum(each.size for each in answer.caches or ()), answer.caches),
        }
        listing = self._engine.listing
        known = {one.id: one.labels for one in listing.containers} if listing else {}
        return DiskUsage(
            totals=tuple(
                (kind, size)
                for kind, (size, objects) in kinds.items()
                if size is not None and size >= 0 and objects is not None
            ),
            counts=tuple(
                (kind, len(objects)) for kind, (_, objects) in kinds.items() if objects is not None
            ),
            layers=tuple(
                (known[each.id], each.size)
                for each in answer.containers or ()
                if each.id in known and each.size >= 0
            ),
        )
