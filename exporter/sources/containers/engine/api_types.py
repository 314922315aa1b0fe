"""What the engine answers, as far as it is used: strict types, checked on arrival.

Replies come from another program and may be anything; what does not fit raises BadData.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from exporter.errors import BadData

# Only what has this form becomes part of a path.
ContainerId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Text = Annotated[str, Meta(max_length=4096)]
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# Unsigned 64-bit; Podman gives 2^64 - 1 where there is no limit.
_Unsigned = Annotated[float, Meta(ge=0)]

T = TypeVar("T")


class Version(Struct):
    """GET /version."""

    api: Annotated[str, Meta(pattern=r"\A[0-9]{1,4}\.[0-9]{1,4}\Z")] = field(name="ApiVersion")
    engine: Annotated[str, Meta(max_length=256)] = field(name="Version", default="")


class Listed(Struct):
    """One element of GET /containers/json?all=1."""

    id: ContainerId = field(name="Id")
    names: list[_Text] = field(name="Names")
    state: _Text = field(name="State", default="")
    status: _Text = field(name="Status", default="")
    labels: dict[str, str] | None = field(name="Labels", default=None)
    created: int = field(name="Created", default=0)

    @property
    def name(self) -> str:
        """The container's own name: others in the list are aliases from links ("/web/db")."""
        own = [name for name in self.names if "/" not in name.removeprefix("/")]
        if not own or not (name := valid_unicode(own[0].removeprefix("/"))):
            raise BadData(f"container {self.id[:12]} has no name")
        return name[:1024]

    def label(self, name: str) -> str:
        """A label's text; the empty text where it is missing."""
        return valid_unicode((self.labels or {}).get(name, ""))[:1024]


class _HealthCheck(Struct):
    status: _Text = field(name="Status", default="")


class _ContainerState(Struct):
    pid: _Count = field(name="Pid")
    started_at: _Text = field(name="StartedAt", default="")
    finished_at: _Text = field(name="FinishedAt", default="")
    status: Annotated[str, Meta(max_length=64)] = field(name="Status", default="")
    exit_code: Annotated[int, Meta(ge=-(2**31), lt=2**32)] | None = field(
        name="ExitCode", default=None
    )
    oom_killed: bool | None = field(name="OOMKilled", default=None)
    health: _HealthCheck | None = field(name="Health", default=None)


class Inspected(Struct):
    """GET /containers/ID/json. Never kept: it holds the container's whole environment.

    config, host, network_settings: read leniently, as a container is there without them too.
    """

    id: ContainerId = field(name="Id")
    image_id: _Text = field(name="Image")
    state: _ContainerState = field(name="State")
    config: dict[str, Any] = field(name="Config")
    restarts: int | None = field(name="RestartCount", default=None)
    host: dict[str, Any] | None = field(name="HostConfig", default=None)
    network_settings: dict[str, Any] | None = field(name="NetworkSettings", default=None)


class _Actor(Struct):
    id: _Text = field(name="ID", default="")
    attributes: dict[str, str] | None = field(name="Attributes", default=None)


class Event(Struct):
    """One line of GET /events. time_ns: when, in nanoseconds since 1970, on the engine's clock."""

    type: _Text = field(name="Type", default="")
    action: _Text = field(name="Action", default="")
    actor: _Actor = field(name="Actor", default_factory=_Actor)
    time_ns: _Count = field(name="timeNano", default=0)

    @property
    def container(self) -> str:
        """The ID of the container it is about; empty where it is about none."""
        if self.type == "container":
            return self.actor.id
        # Podman has the container's ID where Docker has the network's.
        told = self.actor.id if self.action in ("connect", "disconnect") else ""
        return (self.actor.attributes or {}).get("container", told)


class _CpuUsage(Struct):
    total: _Count = field(name="total_usage")
    kernel: _Count | None = field(name="usage_in_kernelmode", default=None)
    user: _Count | None = field(name="usage_in_usermode", default=None)


class _Throttling(Struct):
    periods: _Count = 0
    throttled_periods: _Count = 0
    throttled_time: _Count = 0


class _CpuStats(Struct):
    usage: _CpuUsage = field(name="cpu_usage")
    throttling: _Throttling | None = field(name="throttling_data", default=None)


class _MemoryStats(Struct):
    usage: _Count | None = None
    max_usage: _Count | None = None
    failcnt: _Count | None = None
    limit: _Unsigned | None = None
    stats: dict[str, Any] | None = None


class _PidsStats(Struct):
    current: _Count | None = None
    limit: _Unsigned | None = None


class _BlkioStats(Struct):
    sizes: list[Any] | None = field(name="io_service_bytes_recursive", default=None)
    counts: list[Any] | None = field(name="io_serviced_recursive", default=None)


class NetworkStats(Struct):
    """One interface of a stats call."""

    rx_bytes: _Count
    rx_packets: _Count
    rx_errors: _Count
    rx_dropped: _Count
    tx_bytes: _Count
    tx_packets: _Count
    tx_errors: _Count
    tx_dropped: _Count


class Stats(Struct):
    """GET /containers/ID/stats?stream=0. Nanoseconds, bytes."""

    cpu: _CpuStats = field(name="cpu_stats")
    memory: _MemoryStats = field(name="memory_stats", default_factory=_MemoryStats)
    pids: _PidsStats = field(name="pids_stats", default_factory=_PidsStats)
    blkio: _BlkioStats = field(name="blkio_stats", default_factory=_BlkioStats)
    networks: dict[str, NetworkStats] | None = None
    read: _Text = ""

    @property
    def running(self) -> bool:
        """Whether it is of a running container: of another the engine sends no time."""
        return not self.read.startswith("0001-")


def checked(reply: Any, form: type[T], what: str) -> T:
    """The reply in its form. Raises BadData, naming the first thing that does not fit."""
    try:
        return msgspec.convert(reply, form)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadData(f"{what}: {str(error)[:200]}") from None


def valid_unicode(text: str) -> str:
    """The text as it can be sent on: a lone half of a surrogate pair has no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def time_stamp(text: str) -> float | None:
    """RFC 3339 with nanoseconds to a Unix time stamp; None where it was never set (the year 1)."""
    try:
        moment = msgspec.convert(text, Annotated[datetime, Meta(tz=True)])
    except msgspec.ValidationError:
        return None
    return moment.timestamp() if moment.year >= 1970 else None
