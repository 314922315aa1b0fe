"""CPU time of GPU use, energy and stalls by server: ten servers on eight GPUs, 100 containers.

    python -m benchmarks.server_gpus [polls]

The servers listen on real ports of this process tree: five are processes of their own with a child
on a GPU, five are in containers; the last uses all eight GPUs. A poll is the join; every sixth one
looks after the processes in a thread. The mean of six such polls, the least of all, has a budget
of 0.3 ms; a second line adds the rendering.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection

from exporter.context import Context
from exporter.exposition.renderer import Renderer
from exporter.model import Reading, Row
from exporter.model_server.gpu_target import ServerGpusTarget, WatchedServer
from exporter.model_server.metrics import METRICS
from exporter.model_server.reading import ServerGpuRow
from exporter.model_server.stall import Activity
from exporter.settings import Paths
from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuIdentity, GpuProcess, GpuRow
from exporter.sources.triton.reading import ServerAddressRow

GPUS, SERVERS, CONTAINERS = 8, 10, 100
BUDGET = 0.3
"""Milliseconds of CPU time of a poll."""
_HOST = SERVERS // 2
# Polls of which one looks after the processes.
_CYCLE = 6


def _serve(pipe: Connection) -> None:
    """Listens on a port, and starts a child that waits for its end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        child = subprocess.Popen(["sleep", "3600"])
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        pipe.send((listening.getsockname()[1], child.pid))
        try:
            signal.pause()
        finally:
            child.kill()


def _container(number: int) -> Container:
    return Container((f"c{number}", "image:1"), f"{number + 1:064x}", "", pid=1)


def host_servers(stack: ExitStack) -> list[tuple[int, int]]:
    """Starts the servers of the host; returns port and PID of the child of each."""
    found: list[tuple[int, int]] = []
    for _ in range(_HOST):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(target=_serve, args=(sender,), daemon=True)
        process.start()
        stack.callback(process.join)
        stack.callback(process.terminate)
        found.append(receiver.recv())
    return found


def watched(ports: Sequence[int]) -> Iterator[WatchedServer]:
    for number in range(SERVERS):
        container = "" if number < _HOST else _container(number).id
        port = ports[number] if number < _HOST else 8000
        host = "127.0.0.1" if number < _HOST else f"10.0.0.{number}"
        address = ServerAddressRow((f"s{number}",), host, port, container=container)
        activity = Activity()
        activity.requests = 1
        yield WatchedServer((f"s{number}", "vllm"), address, activity)


def gpu_rows(poll: int, children: Sequence[int]) -> Iterator[GpuRow]:
    """Yields the GPUs: three processes each, that of the last server on all of them."""
    for index in range(GPUS):
        own = [children[index % _HOST], 100_000 + index % (_HOST - 1), 100_009]
        processes = tuple(
            GpuProcess(pid, None, 1 << 30, 0.3, containers=_paths(pid)) for pid in own
        )
        joules = 1000 + poll * 2500.123
        labels = (str(index), f"GPU-{index}")
        yield GpuRow(labels, GpuIdentity(), {"energy": joules}, {}, processes)


def _paths(pid: int) -> tuple[tuple[tuple[str, str], ...], ...]:
    if pid < 100_000:
        return ()
    id_ = _container(_HOST + pid - 100_000 if pid < 100_009 else SERVERS - 1).id
    return (((id_, f"/docker/{id_}"),),)


def measure(polls: int) -> tuple[float, float]:
    """Returns the CPU milliseconds of a poll, without and with rendering."""
    with ExitStack() as stack:
        hosts = host_servers(stack)
        readings: dict[str, dict[str, Reading]] = {
            "containers": {
                "resources": Reading(tuple(_container(number) for number in range(CONTAINERS)))
            }
        }
        context = Context(Paths(), tuple, lambda: 0, lambda name: readings.get(name, {}))
        children = [child for _, child in hosts]

        async def run() -> tuple[float, float]:
            target = ServerGpusTarget(context, 60.0)
            target.servers = tuple(watched([port for port, _ in hosts]))
            renderer = Renderer(METRICS)
            cycles: list[list[float]] = []
            rows: Sequence[Row] = ()
            for poll in range(polls):
                readings["gpu"] = {
                    row.labels[1]: Reading((row,)) for row in gpu_rows(poll, children)
                }
                started = time.process_time()
                rows = (await target.read()).rows
                read = time.process_time()
                renderer.render(rows)
                if poll % _CYCLE == 0:
                    cycles.append([0.0, 0.0])
                cycles[-1][0] += read - started
                cycles[-1][1] += time.process_time() - started
            await target.close()
            used = {row.labels[0] for row in rows if isinstance(row, ServerGpuRow) and row.memory}
            if used != {f"s{number}" for number in range(SERVERS)}:
                raise SystemExit(f"GPUs of {sorted(used)} only")
            complete = cycles[1 : polls // _CYCLE]  # the first searches all processes
            least, with_rendering = (min(costs) for costs in zip(*complete, strict=True))
            return least / _CYCLE * 1e3, with_rendering / _CYCLE * 1e3

        return asyncio.run(run())


def main(polls: int) -> None:
    read, rendered = measure(polls)
    print(f"| {SERVERS} servers on {GPUS} GPUs, {CONTAINERS} containers | CPU ms a poll |")
    print("| --- | --- |")
    print(f"| joined | {read:.3f} |")
    print(f"| joined and rendered | {rendered:.3f} |")
    if read > BUDGET:
        raise SystemExit(f"over the budget of {BUDGET} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
