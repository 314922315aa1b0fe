"""The target `disk-usage`: GET /system/df, requested rarely, as the engine walks over all files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Protocol

from msgspec import Meta, Struct, field

from exporter.errors import BadData, SourceError
from exporter.faults import Faults, FaultTotals
from exporter.model import Metric, Reading, Up
from exporter.sources.containers.engine.api_types import ContainerId
from exporter.sources.containers.engine.json_reply import MAX_LIST_VALUES, decode_reply
from exporter.sources.containers.engine.json_stream import MAX_STEPS, JsonPiece, JsonPieces
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
# Bounds of the reply: its bytes as they arrive, and without long members, such as labels: those in
# use are an ID and sizes; of one member, of one object, and in all.
MAX_RECEIVED_REPLY_BYTES = 64 << 20
_MAX_MEMBER_BYTES, _MAX_OBJECT_BYTES, MAX_REPLY_BYTES = 1 << 9, 1 << 16, 8 << 20
_SUBJECT = "the disk usage"
_Size = Annotated[int, Meta(ge=-1, le=2**63 - 1)]  # -1: unknown


class _ContainerSize(Struct):
    id: ContainerId | None = field(name="Id", default=None)
    size: _Size | None = field(name="SizeRw", default=0)


class _VolumeUsage(Struct):
    size: _Size | None = field(name="Size", default=-1)


class _Volume(Struct):
    usage: _VolumeUsage | None = field(name="UsageData", default=None)

    @property
    def size(self) -> int | None:
        return self.usage.size if self.usage is not None else -1


class _BuildCache(Struct):
    size: _Size | None = field(name="Size", default=0)


class _Image(Struct):
    """Only counted."""


class DiskUsageReply(Struct):
    """GET /system/df. LayersSize: of all images; shared layers count once.

    An element that does not match is None, and counts as an object of unknown size.
    """

    layers: _Size | None = field(name="LayersSize", default=None)
    images: list[_Image | None] | None = field(name="Images", default=None)
    containers: list[_ContainerSize | None] | None = field(name="Containers", default=None)
    volumes: list[_Volume | None] | None = field(name="Volumes", default=None)
    build_caches: list[_BuildCache | None] | None = field(name="BuildCache", default=None)


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
        self._request: asyncio.Task[tuple[DiskUsageReply, tuple[SourceError, ...]]] | None = None
        self._next_request = 0.0
        """Time of the next request, on the event loop's clock."""
        self._reply: DiskUsageReply | None = None
        self._problems: tuple[SourceError, ...] = ()
        """The parts of the last reply that are left out."""
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
                (self._reply, self._problems), self._failure = request.result(), None
            except SourceError as failure:
                self._reply, self._failure = None, failure
                self._next_request = min(self._next_request, now + _RETRY_INTERVAL)
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # it would grow with every raise
        if self._reply is None:
            return Reading(())
        return Reading((self._row(self._reply),), self._problems)

    def close(self) -> None:
        """Ends the thread as soon as it is free."""
        if self._request is not None:
            self._request.cancel()
        self._worker.close()

    def _get_disk_usage(self) -> tuple[DiskUsageReply, tuple[SourceError, ...]]:
        from exporter.sources.containers.engine.sdk import open_client, translate_errors  # noqa: PLC0415 - imported when used

        client: EngineClient = open_client(self._settings, _TIMEOUT)
        try:
            with translate_errors("requesting disk usage"), closing(client.disk_usage()) as parts:
                reply = without_long_members(parts)
        finally:
            client.close()
        faults = Faults()
        usage = decode_reply(reply, DiskUsageReply, _SUBJECT, faults, MAX_LIST_VALUES)
        totals = FaultTotals()
        totals.add("disk usage", faults)
        return usage, totals.problems()

    def _row(self, reply: DiskUsageReply) -> DiskUsage:
        # Podman reports 0 for the layers, however many images it has.
        layers = reply.layers if reply.layers or not reply.images else None
        kinds = {
            "images": (layers, reply.images),
            "containers": (_total(reply.containers), reply.containers),
            "volumes": (_total(reply.volumes), reply.volumes),
            "build_cache": (_total(reply.build_caches), reply.build_caches),
        }
        container_list = self._engine.container_list
        labels: dict[str, tuple[str, ...]] = (
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
            layers=tuple(self._layers(reply, labels).items()),
        )

    @staticmethod
    def _layers(
        reply: DiskUsageReply, labels: Mapping[str, tuple[str, ...]]
    ) -> dict[tuple[str, ...], int]:
        """Returns the size of each container's layer by its labels."""
        layers: dict[tuple[str, ...], int] = {}
        for container in reply.containers or ():
            if container is None or container.size is None or container.size < 0:
                continue
            if (of_container := labels.get(container.id or "")) is not None:
                layers.setdefault(of_container, container.size)
        return layers


class _Sized(Protocol):
    @property
    def size(self) -> int | None: ...


def _total(objects: Sequence[_Sized | None] | None) -> int | None:
    """Returns the sum, without the sizes that the engine does not know; None if one is invalid."""
    sizes = [None if item is None else item.size for item in objects or ()]
    known = [size for size in sizes if size is not None]
    return sum(size for size in known if size >= 0) if len(known) == len(sizes) else None


def without_long_members(parts: Iterable[bytes]) -> bytes:
    """Returns the reply without the long members of the objects in its arrays. Raises BadData."""
    pieces = JsonPieces(_SUBJECT, 3, max_member=_MAX_MEMBER_BYTES, max_piece=_MAX_OBJECT_BYTES)
    received = 0
    reply = bytearray()
    for part in parts:
        received += len(part)
        for piece in pieces.feed(part):
            reply += _complete(piece) + b","
        if received > MAX_RECEIVED_REPLY_BYTES or len(reply) > MAX_REPLY_BYTES:
            raise BadData(f"{_SUBJECT} has more than {MAX_REPLY_BYTES >> 20} MiB")
        if pieces.steps > MAX_STEPS:
            raise BadData(f"{_SUBJECT} has more than {MAX_STEPS} values")
    return bytes(reply + _complete(pieces.finish()))


def _complete(piece: JsonPiece) -> bytes:
    """Returns the text of an object. Raises BadData if it is too long."""
    if piece.too_long:
        raise BadData(f"{_SUBJECT}: an object is longer than {_MAX_OBJECT_BYTES >> 10} KiB")
    return piece.text
