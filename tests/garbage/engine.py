"""The readers of the engine's replies: list, inspect, stats, version, disk usage."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from exporter.errors import NotFound, SourceError
from exporter.faults import Faults, FaultTotals
from exporter.model import Reading, Row
from exporter.sources.containers.engine.api_types import Stats, Version
from exporter.sources.containers.engine.container_list import ContainerLister
from exporter.sources.containers.engine.disk_usage import (
    DiskUsageReply,
    DiskUsageTarget,
    without_long_members,
)
from exporter.sources.containers.engine.json_reply import decode_reply
from exporter.sources.containers.engine.stats import usage_from_stats
from exporter.sources.containers.engine.target import EngineTarget
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import EngineRow
from exporter.sources.containers.resources_target import _row
from exporter.sources.containers.settings import Settings
from tests.fakes.container_engine import container_id
from tests.garbage.law import Fixture, Outcome, counters, series

SETTINGS = Settings(labels=("com.example.team",))
NUMBERS = (1, 2)


def listed(number: int) -> dict[str, Any]:
    labels = {"com.docker.compose.project": f"project-{number}", "com.example.team": "red"}
    return {
        "Id": container_id(number),
        "Names": [f"/container-{number}", f"/other/alias-{number}"],
        "State": "running",
        "Status": "Up 2 hours (healthy)",
        "Labels": labels | {"com.docker.compose.service": f"service-{number}"},
        "Created": 1_767_323_000 + number,
    }


def inspected(number: int) -> dict[str, Any]:
    return {
        "Id": container_id(number),
        "Image": f"sha256:{number}",
        "RestartCount": 3,
        "State": {
            "Pid": 5_000_000 + number,
            "StartedAt": "2026-01-02T03:04:05.678901234Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
            "Status": "running",
            "ExitCode": 0,
            "OOMKilled": False,
            "Health": {"Status": "healthy"},
        },
        "Config": {
            "Image": f"image-{number}:1",
            "Env": ["PATH=/bin", "NVIDIA_VISIBLE_DEVICES=0,1"],
        },
        "HostConfig": {
            "Memory": 8_000_000_000,
            "MemorySwap": 9_000_000_000,
            "MemoryReservation": 1_000_000_000,
            "CpuQuota": 50_000,
            "CpuPeriod": 100_000,
            "CpuShares": 512,
            "NanoCpus": 0,
            "NetworkMode": "bridge",
            "Runtime": "nvidia",
            "DeviceRequests": [
                {"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]]}
            ],
            "Devices": [{"PathOnHost": "/dev/x"}],
            "Annotations": {"cdi.k8s.io/x": "nvidia.com/gpu=0"},
            "Binds": ["/dev/null:/var/run/nvidia-container-devices/0"],
            "Mounts": [{"Source": "/a", "Target": "/b"}],
        },
        "NetworkSettings": {
            "SandboxKey": "/var/run/docker/netns/1",
            "Networks": {"bridge": {"IPAddress": "172.17.0.2", "GlobalIPv6Address": ""}},
            "Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}], "9000/tcp": None},
        },
    }


def stats(number: int) -> dict[str, Any]:
    def entries(*values: int) -> list[dict[str, Any]]:
        return [
            {"major": 8, "minor": minor, "op": operation, "value": value + minor}
            for minor in (0, 16)
            for operation, value in zip(("read", "write"), values, strict=True)
        ]

    counts = {
        f"{direction}_{name}": 1000 * place + number
        for direction in ("rx", "tx")
        for place, name in enumerate(("bytes", "packets", "errors", "dropped"), 1)
    }
    return {
        "read": "2026-01-02T04:00:00Z",
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": 2_500_000_000 + number,
                "usage_in_kernelmode": 500_000_000,
                "usage_in_usermode": 2_000_000_000,
            },
            "throttling_data": {
                "periods": 40,
                "throttled_periods": 10,
                "throttled_time": 2_500_000_000,
            },
        },
        "memory_stats": {
            "usage": 10_000,
            "max_usage": 20_000,
            "failcnt": 6,
            "limit": 8_000_000_000,
            "stats": {
                "total_cache": 8192,
                "total_rss": 4096,
                "total_mapped_file": 2048,
                "total_dirty": 500,
                "total_writeback": 400,
                "total_swap": 512,
                "total_pgfault": 77,
                "total_pgmajfault": 7,
                "total_inactive_file": 3000,
                "total_active_file": 1000,
            },
        },
        "pids_stats": {"current": 5, "limit": 100},
        "blkio_stats": {
            "io_service_bytes_recursive": entries(1000, 2000),
            "io_serviced_recursive": entries(3, 4),
        },
        "networks": {"eth0": counts, "eth1": counts},
    }


class StubClient:
    """The SDK's client, with the replies of a fixture."""

    timeout: float = 0.0
    api_version = "1.41"

    def __init__(self, replies: dict[str, bytes]) -> None:
        self._replies = replies
        self.engine = decode_reply(replies["version"], Version, "version", Faults())

    def container_list(self) -> Iterator[bytes]:
        yield self._replies["list"]

    def inspect_container(self, container_id: str) -> bytes:
        return self._replies[f"inspect {container_id}"]

    def close(self) -> None:
        pass


def replies() -> dict[str, Any]:
    documents: dict[str, Any] = {
        "version": {"ApiVersion": "1.41", "Version": "20.10.24"},
        "list": [listed(number) for number in NUMBERS],
    }
    for number in NUMBERS:
        documents[f"inspect {container_id(number)}"] = inspected(number)
        documents[f"stats {container_id(number)}"] = stats(number)
    return documents


@functools.cache
def _intact_replies() -> dict[str, bytes]:
    return {name: json.dumps(document).encode() for name, document in replies().items()}


def _read(name: str, content: bytes) -> Outcome:
    """Returns the series of all containers, with one reply replaced."""
    texts = {**_intact_replies(), name: content}
    lister = ContainerLister(SETTINGS)
    try:
        client = StubClient(texts)
        lister._client = client  # type: ignore[assignment]  # the part of it that is used
        lister._version = client.engine
        found = lister.refresh(frozenset(), relist=True)
    except SourceError as error:
        return Outcome({}, (error,), error)
    version = found.version
    rows: list[Row] = [EngineRow(version.engine, version.api, (), (), 0)]
    problems = list(found.problems)
    totals = FaultTotals()
    for container in found.containers:
        usage, faults = None, Faults()
        text = texts.get(f"stats {container.id}")
        try:
            if text is None:
                raise NotFound("no such container")
            reply = decode_reply(text, Stats, "stats", faults)
            if container.pid and reply.running:
                usage = usage_from_stats(
                    container, reply, lambda number: number, version.engine, faults
                )
        except SourceError as error:
            problems.append(error)
        totals.add("stats", faults)
        rows.append(_row(container, usage, None, frozenset(), 1e9, list_is_current=True))
        rows += [usage] if usage is not None else []
    reading = Reading(tuple(rows))
    return Outcome(series(METRICS, reading), (*problems, *totals.problems()))


def _read_disk_usage(content: bytes) -> Outcome:
    target = DiskUsageTarget(Settings(), EngineTarget(Settings()))
    target._engine.container_list = _ContainerList()  # type: ignore[assignment]  # as used
    faults, totals = Faults(), FaultTotals()
    try:
        reply = decode_reply(
            without_long_members([content]), DiskUsageReply, "the disk usage", faults
        )
    except SourceError as error:
        return Outcome({}, (error,), error)
    totals.add("disk usage", faults)
    reading = Reading((target._row(reply),))
    target.close()
    return Outcome(series(METRICS, reading), totals.problems())


class _Container:
    def __init__(self, number: int) -> None:
        self.id, self.labels = container_id(number), (f"container-{number}", "image")


class _ContainerList:
    containers = tuple(_Container(number) for number in NUMBERS)


DISK_USAGE = {
    "LayersSize": 1000,
    "Images": [{"Id": "sha256:1"}, {"Id": "sha256:2"}],
    "Containers": [{"Id": container_id(number), "SizeRw": 10 * number} for number in NUMBERS],
    "Volumes": [{"UsageData": {"Size": 7}}, {"UsageData": {"Size": 8}}],
    "BuildCache": [{"Size": 3}, {"Size": 4}],
}
_IDENTITY = "container_.*"
_DEPENDS: dict[str, tuple[tuple[str, str], ...]] = {
    "list": (
        (r"^\d+(\.|$)", "container_info"),
        (r"Labels", "container_info"),
        (r"(^|\d\.)(Id|Names)\b", _IDENTITY),
        (r"^\d( |$)", _IDENTITY),
        (r"State", "container_state"),
    ),
    "inspect": (
        (r"(^| )Image\b", "container_info"),
        (r"Config(\.Image)?\b", _IDENTITY),
        (r"State\.(Status|Pid)|State\b", _IDENTITY),
        (r"StartedAt", "container_start_time_seconds"),
        (r"FinishedAt", "container_finish_time_seconds|container_last_seen"),
        (r"Health", "container_health_state"),
        (r"NetworkMode|HostConfig$|HostConfig ", "container_network_.*"),
        (r"CpuQuota|HostConfig$|HostConfig ", "container_cpu_cfs_.*|container_spec_cpu.*"),
        (r"NanoCpus", "container_spec_cpu_.*|container_cpu_cfs_.*"),
        (r"Memory\b|HostConfig$|HostConfig ", "container_spec_memory_.*"),
    ),
    "stats": (
        (r"read$", "container_.*"),
        (r"total_inactive_file|memory_stats\.stats|memory_stats$", "container_memory_.*"),
        (r"blkio_stats", "container_fs_.*"),
        (r"networks", "container_network_.*"),
        (r"throttling_data", "container_cpu_cfs_.*"),
    ),
    "version": ((r"ApiVersion", ".*"),),
    "disk usage": (
        (r"", "container_disk_objects|container_disk_usage_bytes"),
        (r"Id|Containers", "container_fs_usage_bytes"),
    ),
}


def fixtures() -> Iterator[Fixture]:
    """Yields a fixture for each reply; of the second container everything stays."""
    for name, document in replies().items():
        if name.endswith(container_id(2)):
            continue
        kind = name.partition(" ")[0]
        yield Fixture(
            f"engine: {kind}",
            document,
            partial(_read, name),
            counters(METRICS),
            depends=_DEPENDS[kind],
            silent="container_spec_.*|container_threads_max|container_cpu_cfs_.*",
        )
    yield Fixture(
        "engine: disk usage",
        DISK_USAGE,
        _read_disk_usage,
        counters(METRICS),
        depends=_DEPENDS["disk usage"],
        counted="container_disk_usage_bytes",  # -1: unknown, and not in the sum
        silent="container_disk_usage_bytes|container_fs_usage_bytes",
        doubled="container_disk_(objects|usage_bytes)",
    )
