"""What the engine answers, as far as it is used: strict types, checked on arrival.

Replies come from another program and may be anything; what does not fit raises BadData.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from exporter.errors import BadData
from exporter.sources.containers.gpu_request import gpu_request
from exporter.sources.containers.network import network
from exporter.sources.containers.reading import UNCONNECTED, GpuRequest, Network

# Only what has this form becomes part of a path.
ContainerId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Text = Annotated[str, Meta(max_length=4096)]
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]

HINTS = "inference-exporter."

T = TypeVar("T")


class Version(Struct):
    """GET /version."""

    api: Annotated[str, Meta(pattern=r"\A[0-9]{1,4}\.[0-9]{1,4}\Z")] = field(name="ApiVersion")


class Listed(Struct):
    """One element of GET /containers/json. Without the daemon's `all`, only running ones come."""

    id: ContainerId = field(name="Id")
    names: list[_Text] = field(name="Names")
    state: _Text = field(name="State", default="")
    status: _Text = field(name="Status", default="")
    labels: dict[str, str] | None = field(name="Labels", default=None)

    @property
    def name(self) -> str:
        """The container's own name: others in the list are aliases from links ("/web/db")."""
        own = [name for name in self.names if "/" not in name.removeprefix("/")]
        if not own or not (name := printable(own[0].removeprefix("/"))):
            raise BadData(f"container {self.id[:12]} has no name")
        return name

    def label(self, name: str) -> str:
        """A label's text; the empty text where it is missing."""
        return printable((self.labels or {}).get(name, ""))[:1024]

    @property
    def hints(self) -> tuple[tuple[str, str], ...]:
        """The labels under HINTS, which a person sets for this program."""
        found = [name for name in self.labels or () if name.startswith(HINTS)]
        return tuple((printable(name[len(HINTS) :]), self.label(name)) for name in found[:20])


class _State(Struct):
    pid: _Count = field(name="Pid")
    started_at: _Text = field(name="StartedAt", default="")


class Inspected(Struct):
    """GET /containers/ID/json. Never kept: it holds the container's whole environment.

    config, host, network_settings: read leniently, as a container is there without them too.
    """

    id: ContainerId = field(name="Id")
    image_id: _Text = field(name="Image")
    state: _State = field(name="State")
    config: dict[str, Any] = field(name="Config")
    host: dict[str, Any] | None = field(name="HostConfig", default=None)
    network_settings: dict[str, Any] | None = field(name="NetworkSettings", default=None)


class _CpuUsage(Struct):
    total: _Count = field(name="total_usage")


class _Cpu(Struct):
    usage: _CpuUsage = field(name="cpu_usage")


class _MemoryStat(Struct):
    inactive_v1: _Count | None = field(name="total_inactive_file", default=None)
    inactive_v2: _Count | None = field(name="inactive_file", default=None)


class _Memory(Struct):
    usage: _Count | None = None
    # Unsigned 64-bit; Podman gives 2^64 - 1 where there is no limit.
    limit: Annotated[float, Meta(ge=0)] | None = None
    stats: _MemoryStat | None = None


class Stats(Struct):
    """GET /containers/ID/stats?stream=0. Nanoseconds, bytes."""

    cpu: _Cpu = field(name="cpu_stats")
    memory: _Memory = field(name="memory_stats", default_factory=_Memory)
    read: _Text = ""

    @property
    def running(self) -> bool:
        """Whether it is of a running container: of another the engine sends no time."""
        return not self.read.startswith("0001-")


@dataclass(frozen=True, slots=True)
class Identity:
    """A running container as the engine knows it.

    pid: process ID of its first process on the host; 0 while it is not running.
    started: Unix time stamp in seconds, None where it is not known.
    limited: whether a memory limit was set when it was last inspected.
    """

    id: str
    name: str
    image: str
    image_id: str
    compose_project: str
    compose_service: str
    pid: int
    started: float | None
    limited: bool
    network: Network = UNCONNECTED
    gpu_request: GpuRequest | None = None
    hints: tuple[tuple[str, str], ...] = ()


def checked(reply: Any, form: type[T], what: str) -> T:
    """The reply in its form. Raises BadData, naming the first thing that does not fit."""
    try:
        return msgspec.convert(reply, form)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadData(f"{what}: {str(error)[:200]}") from None


def identity(listed: Listed, inspected: Inspected) -> Identity:
    """Join both replies. Raises BadData."""
    # As the user named it; an image's tag may since have moved on. Never empty.
    named = inspected.config.get("Image")
    if not isinstance(named, str):
        raise BadData(f"container {listed.id[:12]}: Config.Image is no text")
    image = printable(named) or printable(inspected.image_id)
    memory = (inspected.host or {}).get("Memory")
    return Identity(
        id=listed.id,
        name=listed.name[:1024],
        image=image[:1024],
        image_id=printable(inspected.image_id)[:1024],
        compose_project=listed.label("com.docker.compose.project"),
        compose_service=listed.label("com.docker.compose.service"),
        pid=inspected.state.pid,
        started=time_stamp(inspected.state.started_at),
        limited=isinstance(memory, int) and memory > 0,
        network=network(inspected.host, inspected.network_settings, inspected.config),
        gpu_request=gpu_request(inspected.config, inspected.host),
        hints=listed.hints,
    )


def printable(text: str) -> str:
    """The text as it can be sent on: a lone half of a surrogate pair has no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def time_stamp(text: str) -> float | None:
    """RFC 3339 with nanoseconds to a Unix time stamp; None where it was never set (the year 1)."""
    try:
        moment = msgspec.convert(text, Annotated[datetime, Meta(tz=True)])
    except msgspec.ValidationError:
        return None
    return moment.timestamp() if moment.year >= 1970 else None


# As Docker's units.HumanDuration writes it: "Up 5 seconds", "Up About an hour (healthy)".
_UP = re.compile(
    r"Up (?:(\d{1,9})|Less than a|About an?) (second|minute|hour|day|week|month|year)s?"
)
_SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
}


def uptime(status: str) -> int | None:
    """Seconds a container has run by the words of its status, roughly; None where not told."""
    if (match := _UP.match(status)) is None:
        return None
    return int(match[1] or 1) * _SECONDS[match[2]]


def may_have_restarted(before: str, now: str) -> bool:
    """Whether the status leaves room for a restart since the last look.

    A status grows coarser with time and changes rarely; one that went back, or is that of a
    container less than a minute old, is worth an inspection. (The list does not say StartedAt.)
    """
    if before == now:
        return False
    old, new = uptime(before), uptime(now)
    return old is None or new is None or new < old or new < 60
