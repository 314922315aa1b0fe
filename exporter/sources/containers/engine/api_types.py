"""Types of the Docker Engine API's replies, decoded by json_reply.py.

Only the fields in use are declared: no other is built. A member that does not match gets its
default; all are optional but those without which the reply means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

# Container IDs become part of request paths, so only this form is accepted.
ContainerId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# Characters of a label's value.
MAX_LABEL_VALUE_LENGTH = 1024
_Text = Annotated[str, Meta(max_length=4096)]
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# Unsigned 64-bit; Podman reports no limit as 2^64 - 1.
_Unsigned = Annotated[float, Meta(ge=0)]


class Version(Struct):
    """GET /version."""

    api: Annotated[str, Meta(pattern=r"\A[0-9]{1,4}\.[0-9]{1,4}\Z")] = field(name="ApiVersion")
    engine: Annotated[str, Meta(max_length=256)] = field(name="Version", default="")


class ContainerSummary(Struct):
    """One element of GET /containers/json?all=1."""

    id: ContainerId = field(name="Id")
    names: list[_Text] = field(name="Names", default_factory=list)
    state: _Text = field(name="State", default="")
    status: _Text = field(name="Status", default="")
    labels: dict[str, str] | None = field(name="Labels", default=None)
    created: int = field(name="Created", default=0)

    @property
    def name(self) -> str:
        """The container's own name, or the start of its ID as `docker ps` shows it.

        Names with two slashes are aliases from links ("/web/db").
        """
        own = [name for name in self.names if "/" not in name.removeprefix("/")]
        name = valid_unicode(own[0].removeprefix("/")) if own else ""
        return name[:1024] or self.id[:12]

    def label(self, name: str) -> str:
        """Returns the start of a label's value; empty if it is missing."""
        return label_value(self.labels or {}, name)


class _HealthCheck(Struct):
    status: _Text = field(name="Status", default="")


class _ContainerState(Struct):
    pid: _Count | None = field(name="Pid", default=None)
    started_at: _Text = field(name="StartedAt", default="")
    finished_at: _Text = field(name="FinishedAt", default="")
    status: Annotated[str, Meta(max_length=64)] = field(name="Status", default="")
    exit_code: Annotated[int, Meta(ge=-(2**31), lt=2**32)] | None = field(
        name="ExitCode", default=None
    )
    oom_killed: bool | None = field(name="OOMKilled", default=None)
    health: _HealthCheck | None = field(name="Health", default=None)


class ContainerInspect(Struct):
    """GET /containers/ID/json. Never kept: it contains the container's whole environment.

    config, host, network_settings: parsed leniently (lenient_json.py), as no identity or state
    depends on them.
    """

    image_id: _Text = field(name="Image", default="")
    state: _ContainerState = field(name="State", default_factory=_ContainerState)
    config: dict[str, Any] | None = field(name="Config", default=None)
    restarts: _Count | None = field(name="RestartCount", default=None)
    host: dict[str, Any] | None = field(name="HostConfig", default=None)
    network_settings: dict[str, Any] | None = field(name="NetworkSettings", default=None)


class EventActor(Struct):
    """The subject of an event, and its labels among the attributes."""

    id: _Text = field(name="ID", default="")
    attributes: dict[str, str] | None = field(name="Attributes", default=None)


class Event(Struct):
    """One line of GET /events. time_ns: Unix timestamp in nanoseconds, on the engine's clock."""

    type: _Text = field(name="Type", default="")
    action: _Text = field(name="Action", default="")
    actor: EventActor = field(name="Actor", default_factory=EventActor)
    time_ns: _Count = field(name="timeNano", default=0)

    @property
    def container(self) -> str:
        """The ID of the event's container; empty if it has none."""
        if self.type == "container":
            return self.actor.id
        # The actor of a network event is the network in Docker, the container in Podman.
        actor = self.actor.id if self.action in ("connect", "disconnect") else ""
        return (self.actor.attributes or {}).get("container", actor)


class _CpuUsage(Struct):
    total: _Count | None = field(name="total_usage", default=None)
    kernel: _Count | None = field(name="usage_in_kernelmode", default=None)
    user: _Count | None = field(name="usage_in_usermode", default=None)


class _Throttling(Struct):
    periods: _Count | None = 0
    throttled_periods: _Count | None = 0
    throttled_time: _Count | None = 0


class _CpuStats(Struct):
    usage: _CpuUsage = field(name="cpu_usage", default_factory=_CpuUsage)
    throttling: _Throttling | None = field(name="throttling_data", default=None)


class _MemoryStats(Struct):
    usage: _Count | None = None
    max_usage: _Count | None = None
    failcnt: _Count | None = 0  # engines omit a 0
    limit: _Unsigned | None = None
    stats: dict[str, Any] | None = None


class _PidsStats(Struct):
    current: _Count | None = None
    limit: _Unsigned | None = None


class _BlkioStats(Struct):
    sizes: list[Any] | None = field(name="io_service_bytes_recursive", default=None)
    counts: list[Any] | None = field(name="io_serviced_recursive", default=None)


class NetworkStats(Struct):
    """One interface of the `networks` of a stats reply."""

    rx_bytes: _Count | None = None
    rx_packets: _Count | None = None
    rx_errors: _Count | None = None
    rx_dropped: _Count | None = None
    tx_bytes: _Count | None = None
    tx_packets: _Count | None = None
    tx_errors: _Count | None = None
    tx_dropped: _Count | None = None


class Stats(Struct):
    """GET /containers/ID/stats?stream=0. Times in nanoseconds, sizes in bytes."""

    cpu: _CpuStats = field(name="cpu_stats", default_factory=_CpuStats)
    memory: _MemoryStats = field(name="memory_stats", default_factory=_MemoryStats)
    pids: _PidsStats = field(name="pids_stats", default_factory=_PidsStats)
    blkio: _BlkioStats = field(name="blkio_stats", default_factory=_BlkioStats)
    networks: dict[str, NetworkStats] | None = None
    read: _Text = ""

    @property
    def running(self) -> bool:
        """Whether the container is running: otherwise `read` is the zero time (year 1)."""
        return not self.read.startswith("0001-")


def label_value(labels: Mapping[str, str], name: str) -> str:
    """Returns the start of a label's value; empty if it is missing."""
    return valid_unicode(labels.get(name, ""))[:MAX_LABEL_VALUE_LENGTH]


def valid_unicode(text: str) -> str:
    """Returns the text with lone surrogates replaced, as they cannot be encoded as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def parse_timestamp(text: str) -> float | None:
    """Parses RFC 3339 with nanoseconds to a Unix timestamp; None if it is not set (the year 1)."""
    try:
        moment = msgspec.convert(text, Annotated[datetime, Meta(tz=True)])
    except msgspec.ValidationError:
        return None
    return moment.timestamp() if moment.year >= 1970 else None
