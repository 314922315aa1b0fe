"""The target `disk-usage`: GET /system/df, requested rarely, as the engine walks over all files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct, field

from exporter.errors import SourceError
from exporter.model import Metric, Reading, Up
from exporter.sources.containers.engine.api_types import ContainerId
from exporter.sources.containers.engine.json_reply import MAX_LIST_VALUES, decode_reply
from exporter.sources.containers.engine.target import EngineTarget
from exporter.sources.containers.reading import DiskUsage
from exporter.sources.containers.settings import Settings
from exporter.worker import Worker

if TYPE_CHECKING:
    from exporter.sources.containers.engine.sdk_client import EngineClient

# The engine's walk may take minutes, longer than the timeout of any poll.
_TIMEOUT = 600.0
# Seconds after a failed request until the next one, if the interval is longer.
_RETRY_INTERVAL = 60.0
_Size = Annotated[int, Meta(ge=-1, le=2**63 - 1)]  # -1: unknown


class _ContainerSize(Struct):
    id: ContainerId = field(name="Id")
    size: _Size = field(name="SizeRw", default=0)


class _VolumeUsage(Struct):
    size: _Size = field(name="Size", default=-1)


class _Volume(Struct):
    usage: _VolumeUsage | None = field(name="UsageData", default=None)


class _BuildCache(Struct):
    size: _Size = field(name="Size", default=0)


class _Image(Struct):
    """Only counted."""


class DiskUsageReply(Struct):
    """GET /system/df. LayersSize: of all images; shared layers count once."""

    layers: _Size | None = field(name="LayersSize", default=None)
    images: list[_Image] | None = field(name="Images", default=None)
    containers: list[_ContainerSize] | None = field(name="Containers", default=None)
    volumes: list[_Volume] | None = field(name="Volumes", default=None)
    build_caches: list[_BuildCache] | None = field(name="BuildCache", default=None)


class DiskUsageTarget:
    """Requests the disk usage in its own thread; each poll returns the last reply."""

    name = "disk-usage"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, settings: Settings, engine: EngineTarget) -> None:
        self._settings = settings
        self._interval = settings.disk_usage_interval or 0.0
        self._engine = engine
        self._worker = Worker("containers-disk")
        self._request: asyncio.Task[DiskUsageReply] | None = None
        self._next_request = 0.0
        """Time of the next request, on the event loop's clock."""
        self._reply: DiskUsageReply | None = None
        self._failure: SourceError | None = None

    async def read(self) -> Reading:
        """Returns the last reply; empty until the first one. Raises SourceError."""
        now = asyncio.get_running_loop().time()
        if self._request is None and now >= self._next_request:
            self._next_request = now + self._interval
            self._request = asyncio.create_task(self._worker.run(self._get_disk_usage))
        if self._request is not None and self._request.done():
            request, self._request = self._request, None
            try:
                self._reply, self._failure = request.result(), None
            except SourceError as failure:
                self._reply, self._failure = None, failure
                self._next_request = min(self._next_request, now + _RETRY_INTERVAL)
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # it would grow with every raise
        return Reading((self._row(self._reply),) if self._reply is not None else ())

    def close(self) -> None:
        """Ends the thread as soon as it is free."""
        if self._request is not None:
            self._request.cancel()
        self._worker.close()

    def _get_disk_usage(self) -> DiskUsageReply:
        from exporter.sources.containers.engine.sdk_client import open_client  # noqa: PLC0415 - imported when used
        from exporter.sources.containers.engine.sdk_errors import translate_errors  # noqa: PLC0415 - as above

        client: EngineClient = open_client(self._settings, _TIMEOUT)
        try:
            with translate_errors("requesting disk usage"):
                reply: Any = client.df()
        finally:
            client.close()
        return decode_reply(reply, DiskUsageReply, "the disk usage", MAX_LIST_VALUES)

    def _row(self, reply: DiskUsageReply) -> DiskUsage:
        volume_sizes = [
            volume.usage.size for volume in reply.volumes or () if volume.usage is not None
        ]
        # Podman reports 0 for the layers, however many images it has.
        layers = reply.layers if reply.layers or not reply.images else None
        container_sizes = sum(container.size for container in reply.containers or ())
        cache_sizes = sum(cache.size for cache in reply.build_caches or ())
        kinds = {
            "images": (layers, reply.images),
            "containers": (container_sizes, reply.containers),
            "volumes": (sum(size for size in volume_sizes if size >= 0), reply.volumes),
            "build_cache": (cache_sizes, reply.build_caches),
        }
        container_list = self._engine.container_list
        labels = (
            {container.id: container.labels for container in container_list.containers}
            if container_list
            else {}
        )
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
                (labels[container.id], container.size)
                for container in reply.containers or ()
                if container.id in labels and container.size >= 0
            ),
        )
