"""CPU and memory of the daemon on a Kubernetes node: 110 pods through the CRI.

    python -m benchmarks.cri [seconds]

A CRI server of the tests in a process of its own, and a cgroup v2 tree whose values change; polls
and scrapes every 5 s. Beside it, in turns: 100 containers of Docker (a fake engine), without
grpcio; and the CRI without events, as containerd 1.6, so that each poll lists everything. The other
sources are off. CPU time and RSS are from /proc/PID/stat and statm.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.synchronize
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.daemon import PROC_ENTRIES, _replace, measure, print_row
from tests.fakes.cgroup_trees import Tree
from tests.fakes.container_engine import FakeEngine, container_id
from tests.fakes.cri import CriServer, hex_id
from tests.ports import free_port

PODS, CONTAINERS = 110, 100


def pod_path(number: int) -> str:
    """Returns the cgroup of a pod's container."""
    id_ = hex_id(f"{hex_id(f'pod team/pod-{number}/')} app 0")
    return f"kubepods/burstable/poduid-pod-{number}/{id_}"


def serve(
    socket: Path,
    ready: multiprocessing.synchronize.Event,
    stop: multiprocessing.synchronize.Event,
    *,
    events: bool,
) -> None:
    with CriServer(socket, events=events) as server:
        for number in range(PODS):
            labels = {f"label-{n}": "value" for n in range(8)}
            annotations = {"kubernetes.io/config.source": "api", "other": "x" * 500}
            pod = server.add_pod(f"pod-{number}", labels=labels, annotations=annotations)
            server.add_container(pod, "app", pid=6_000_000 + number)
        ready.set()
        stop.wait()


@contextlib.contextmanager
def runtime(folder: Path, *, events: bool) -> Iterator[str]:
    """Serves the pods from another process; yields the endpoint."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    socket = folder / "cri.sock"
    process = context.Process(target=serve, args=(socket, ready, stop), kwargs={"events": events})
    process.start()
    try:
        if not ready.wait(60):
            raise SystemExit("the server does not start")
        yield f"unix://{socket}"
    finally:
        stop.set()
        process.join()


@contextlib.contextmanager
def changing(tree: Tree, paths: list[str]) -> Iterator[None]:
    """Changes the CPU time and memory of each container every 2.5 s."""
    stop = threading.Event()

    def update() -> None:
        step = 1
        while not stop.wait(2.5):
            step += 1
            for number, path in enumerate(paths):
                cgroup = tree.root / path
                text = (cgroup / "cpu.stat").read_text()
                cpu = 1_000_000 * step + number
                _replace(cgroup / "cpu.stat", re.sub(r"(\w+_usec) \d+", rf"\1 {cpu}", text))
                _replace(cgroup / "memory.current", f"{10_000 + 4096 * step + number}\n")

    thread = threading.Thread(target=update)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def main(seconds: float) -> None:
    print(f"load average at the start: {os.getloadavg()[0]:.1f}\n")
    print(
        "| containers | samples | page kB | gzip kB | CPU % of a core | RSS MB | scrape p50 ms"
        " | worst ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tree = Tree(folder)
        (folder / "proc").mkdir()
        for name in PROC_ENTRIES:
            (folder / "proc" / name).symlink_to(f"/proc/{name}")
        engine = FakeEngine(containers=CONTAINERS)
        engine.offer_events()
        docker = [f"docker/{container_id(number)}" for number in range(1, CONTAINERS + 1)]
        pods = [pod_path(number) for number in range(PODS)]
        for first, paths in ((5_000_001, docker), (6_000_000, pods)):
            for number, path in enumerate(paths):
                tree.v2_full(path)
                tree.process(f"0::/{path}\n", first + number)
        stack.enter_context(engine.serving())
        stack.enter_context(changing(tree, docker + pods))

        def run(name: str, *flags: str) -> None:
            port = free_port()
            sources = ("gpu", "triton", "host", "upstream", "joins", "model-server")
            command = [
                *(sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}"),
                *(f"--path.sysfs={folder / 'sys'}", f"--path.procfs={folder / 'proc'}"),
                *("--log.level=warning", *(f"--{source}.enabled=off" for source in sources)),
                *flags,
            ]
            print_row(measure(name, command, port, seconds, {}))

        run(f"{CONTAINERS} of Docker", f"--containers.docker-host={engine.url}")
        for events in (True, False):
            with runtime(folder, events=events) as endpoint:
                title = f"{PODS} pods, {'with events' if events else 'each poll lists'}"
                run(title, f"--containers.cri-endpoint={endpoint}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
