"""The readers of a Triton server's responses."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from exporter.errors import SourceError
from exporter.faults import FaultTotals
from exporter.http_client.address import parse
from exporter.http_client.client import HttpClient
from exporter.joins.metrics import METRICS as JOINS
from exporter.joins.triton_instances import server_containers
from exporter.model import Reading
from exporter.sources.containers.reading import Container
from exporter.sources.triton import decoding
from exporter.sources.triton.listeners import Endpoint, ListenerSearch
from exporter.sources.triton.metrics import METRICS
from exporter.sources.triton.reading import ServerAddressRow
from exporter.sources.triton.settings import Settings
from exporter.sources.triton.shared_models import ModelLimits, SharedModels
from exporter.sources.triton.target import ServerTarget
from exporter.worker import Steps
from tests.fakes.triton import EXTENSIONS, duration, model
from tests.garbage.law import Fixture, Outcome, counters, series
from tests.steps import complete

_LIMITS = ModelLimits(100)
_RESPONSES = ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel")


def _model(name: str, scale: int) -> dict[str, Any]:
    """Returns a model with every statistic."""
    responses = {
        str(index): {
            part: duration((place + index) * scale, 1000 * (place + index) * scale)
            for place, part in enumerate(_RESPONSES, 1)
        }
        for index in (0, 1)
    }
    memory = [
        {"type": "GPU", "id": 0, "byte_size": 100},
        {"type": "CPU", "id": 0, "byte_size": 7},
    ]
    batches = [
        {
            "batch_size": size,
            "compute_input": duration(count, 10 * count),
            "compute_infer": duration(count, 20 * count),
            "compute_output": duration(count, 30 * count),
        }
        for size, count in ((1, 2 * scale), (4, 3 * scale))
    ]
    return model(name, scale, batch_stats=batches, response_stats=responses, memory_usage=memory)


def documents(scale: int = 2) -> dict[str, Any]:
    """Returns the responses of a server with two models."""
    names = ("wine-model", "other-model")
    return {
        "metadata": {"name": "triton", "version": "2.51.0", "extensions": [*EXTENSIONS, "trace"]},
        "statistics": {"model_stats": [_model(name, scale) for name in names]},
        "index": [{"name": name, "version": "1", "state": "READY"} for name in names],
        "config": {
            "name": "wine-model",
            "platform": "some_platform",
            "backend": "some_backend",
            "max_batch_size": 8,
            "instance_group": [{"name": "x", "kind": "KIND_GPU", "count": 2, "gpus": [0, 1]}],
            "model_transaction_policy": {"decoupled": True},
            "parameters": {"inference-exporter.kind": {"string_value": "bls"}},
        },
    }


class StubClient:
    """TritonClient, with the responses of a fixture. `texts` may be changed between polls."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}

    async def metadata(self, deadline: float) -> Any:
        return decoding.metadata(self.texts["metadata"])

    async def statistics(self, deadline: float) -> Any:
        return complete(decoding.statistics(self.texts["statistics"], _LIMITS))

    async def states(self, deadline: float) -> Any:
        return complete(decoding.states(self.texts["index"], _LIMITS))

    async def config(self, key: tuple[str, str], deadline: float) -> Any:
        mine = key[0] == "wine-model"
        return decoding.config(self.texts["config" if mine else "intact config"])

    async def server_ready(self, deadline: float) -> bool:
        return True


class InlineWorker:
    """A worker without a thread."""

    async def run(self, call: Callable[[], Any]) -> Any:
        return call()

    async def run_steps(self, steps: Steps[Any]) -> Any:
        return complete(steps)


@functools.cache
def _encoded(scale: int) -> dict[str, bytes]:
    texts = {name: json.dumps(document).encode() for name, document in documents(scale).items()}
    return texts | {"intact config": texts["config"]}


def _read(loop: asyncio.AbstractEventLoop, name: str, content: bytes) -> Outcome:
    """Returns the series of the second poll, whose statistics are twice those of the first."""
    address, client = parse("here=localhost:8000"), StubClient()
    worker: Any = InlineWorker()
    target = ServerTarget(
        HttpClient(address, 1 << 20),
        ServerAddressRow(("here",), "localhost", 8000),
        Settings(),
        SharedModels(_LIMITS),
        importer=worker,
        worker=worker,
    )
    target._client = client  # type: ignore[assignment]  # as used
    try:
        client.texts = _encoded(1) | ({} if name == "statistics" else {name: content})
        first = loop.run_until_complete(target.read())
        client.texts = _encoded(2) | {name: content}
        reading = loop.run_until_complete(target.read())
    except SourceError as error:
        return Outcome({}, (error,), error)
    return Outcome(series(METRICS, reading), (*first.problems, *reading.problems))


_DEPENDS: dict[str, tuple[tuple[str, str], ...]] = {
    "metadata": (
        (r"name|version", "triton_server_info"),
        (r"extensions", "triton_(?!server).*"),
    ),
    "statistics": (
        (r"^model_stats($| )|^model_stats\.\d($| )", "triton_.*"),
        (r"\.(name|version)($| )", "triton_.*"),
        (r"batch_stats", "triton_(batch_size|execution_|mean_batch_size).*"),
        (r"response_stats", "triton_response.*"),
        (r"memory_usage", "triton_model_memory_bytes"),
        (r"last_inference", "triton_last_inference_timestamp_seconds"),
        # A sum that decreases, as an element is gone, is the sign of a reset.
        (
            r"(batch|response)_stats\.",
            "triton_(resets_total|latency_seconds|success_ratio|mean_batch_size)",
        ),
        # The latencies and the ratio are of differences, so of all these.
        (r"inference_stats", "triton_(latency_seconds|success_ratio)"),
    ),
    "index": ((r"", "triton_model_(ready|state)"),),
    "config": ((r"", "triton_model_info|triton_batch_size_bucket.*"),),
}


# Ports 8000 and 9000; the header and the spaces are the kernel's.
_SOCKETS = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    b"inode\n"
    b"   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 "
    b"71001 1 0000000000000000 100 0 0 10 0\n"
    b"   1: 00000000:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 "
    b"71002 1 0000000000000000 100 0 0 10 0\n"
    b"   2: 0100007F:1F40 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 "
    b"71003 1 0000000000000000 20 4 30 10 -1\n"
)
_LISTENING = {"a" * 64: (8000, 71001), "b" * 64: (9000, 71002)}


def _read_sockets(folder: Path, content: bytes) -> Outcome:
    """Returns the containers of two servers, by the processes that listen on their ports."""
    (folder / "self" / "net" / "tcp").write_bytes(content)
    endpoints = {
        key: Endpoint(frozenset({"127.0.0.1"}), port) for key, (port, _) in _LISTENING.items()
    }
    search, totals = ListenerSearch(str(folder)), FaultTotals()
    found = search.find(frozenset(endpoints.values()))
    totals.add("net/tcp", search.faults)
    servers = [
        ServerAddressRow((key[0],), "127.0.0.1", 1, listeners=found[endpoint].cgroups)
        for key, endpoint in endpoints.items()
    ]
    containers = {
        key: Container((f"name-{key[0]}", "image"), key, "sha256:0") for key in _LISTENING
    }
    rows = server_containers(servers, containers)
    return Outcome(series(JOINS, Reading(rows)), totals.problems())


def listener_fixtures(folder: Path) -> Iterator[Fixture]:
    """Yields a fixture for the table of sockets. folder: an empty one."""
    for pid, (key, (_, inode)) in enumerate(_LISTENING.items(), 1):
        (folder / str(pid) / "fd").mkdir(parents=True)
        (folder / str(pid) / "fd" / "3").symlink_to(f"socket:[{inode}]")
        (folder / str(pid) / "cgroup").write_text(f"0::/system.slice/docker-{key}.scope\n")
    (folder / "self" / "net").mkdir(parents=True)
    (folder / "self" / "net" / "tcp6").write_bytes(_SOCKETS.split(b"\n")[0] + b"\n")
    yield Fixture("triton: net/tcp", _SOCKETS, partial(_read_sockets, folder))


def fixtures(loop: asyncio.AbstractEventLoop) -> Iterator[Fixture]:
    """Yields a fixture for each response."""
    for name, document in documents().items():
        yield Fixture(
            f"triton: {name}",
            document,
            partial(_read, loop, name),
            counters(METRICS),
            depends=_DEPENDS[name],
            # A count of compute_… that has wrapped around is a torn read, and no fault.
            # The device -1 is valid, too.
            silent="triton_(latency_seconds|success_ratio|resets_total|compute_.*|model_memory.*)",
            counted="triton_(latency_seconds|resets_total)",
            doubled="triton_(model_memory_bytes)",
        )
