"""CPU and memory of the traces' receiver, and what tracing costs a real Triton.

    python -m benchmarks.traces [seconds] [--triton]

Spans are those of plain requests (three a request) and differ in their IDs and times. In one
process: CPU time of reading and counting a span, as JSON and as protobuf, beside json.loads of the
same bodies. In a daemon: CPU time of an empty POST, its share of a core at 10,000 spans a second in
POSTs of 512, what it sheds above its limits, and RSS with and without a listener. With --triton:
throughput and CPU time a request of a real Triton without traces, and at the rates 1000 and 100.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from exporter.traces.knowledge import Knowledge, TracedServer

from exporter.trace_posts import TracePost
from exporter.traces.collector import Collector
from tests.daemon import Daemon, off, running
from tests.ports import free_port
from tests.sources.triton.server import Model, Server
from tests.traces.percentiles import tracing
from tests.traces.posts import TracedRequest, document, protobuf
from tests.waiting import until

SPANS_PER_POST = 512
SPANS_PER_SECOND = 10_000
ALONE = (
    *off("gpu", "containers", "joins", "upstream", "host", "model-server"),
    "--web.listen-address=127.0.0.1:0",
)
# Without a Triton the daemon asks none; spans then wait for one, which is the dearest case.
NO_TRITON = off("triton")
JSON, PROTOBUF = "application/json", "application/x-protobuf"


def bodies(count: int, *, packed: bool) -> list[bytes]:
    """Returns POSTs of SPANS_PER_POST spans of this moment."""
    made = []
    for _ in range(count):
        spans = []
        while len(spans) < SPANS_PER_POST:
            request = TracedRequest(f"model_{len(made) % 30}", start=time.time_ns())
            spans += request.spans()
        body = document(spans[:SPANS_PER_POST], "here")
        made.append(protobuf(body) if packed else json.dumps(body).encode())
    return made


def cpu_of_spans(*, packed: bool, posts: int = 40) -> tuple[float, float]:
    """Returns CPU microseconds of a span, read and counted, and its bytes."""
    collector = Collector(4 << 20, 10_000_000, 200, 300.0)
    models = {(f"model_{number}", "1"): None for number in range(30)}
    rates = {("here", name): ((0, 100),) for name, _ in models}
    collector.knowledge = Knowledge({"here": TracedServer("here", models)}, rates)
    made = [TracePost(body, packed, gzip=False) for body in bodies(posts, packed=packed)]
    for _ in collector.add(made[:1], 0.0, time.time()):
        pass
    started = time.process_time()
    for _ in collector.add(made[1:], 0.0, time.time()):
        pass
    took = time.process_time() - started
    spans = (posts - 1) * SPANS_PER_POST
    if any(collector.left_out.values()):
        raise SystemExit(f"spans were left out: {collector.left_out}")
    return 1e6 * took / spans, sum(map(len, (post.body for post in made[1:]))) / spans


def cpu_of_json(posts: int = 40) -> float:
    """Returns CPU microseconds a span of Python's own parser, for the ratio."""
    made = bodies(posts, packed=False)
    started = time.process_time()
    for body in made:
        json.loads(body)
    return 1e6 * (time.process_time() - started) / (posts * SPANS_PER_POST)


class Sender:
    """One kept connection to a receiver."""

    def __init__(self, port: int, kind: str = JSON) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._kind = kind

    def send(self, body: bytes) -> None:
        self._connection.request("POST", "/v1/traces", body, {"Content-Type": self._kind})
        response = self._connection.getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"HTTP {response.status}")


def cpu_of_posts(daemon: Daemon, port: int, count: int = 3000) -> float:
    """Returns CPU microseconds of an empty POST."""
    sender = Sender(port)
    sender.send(b"{}")
    started = daemon.cpu_seconds()
    for _ in range(count):
        sender.send(b"{}")
    return 1e6 * (daemon.cpu_seconds() - started) / count


def steady(daemon: Daemon, port: int, seconds: float, *, packed: bool) -> tuple[float, float]:
    """Returns spans per second, and the share of a core: at SPANS_PER_SECOND if it can be sent."""
    interval = SPANS_PER_POST / SPANS_PER_SECOND
    made = bodies(int(seconds / interval), packed=packed)
    sender = Sender(port, PROTOBUF if packed else JSON)
    sender.send(made[0])
    started, cpu = time.monotonic(), daemon.cpu_seconds()
    for number, body in enumerate(made[1:], start=1):
        time.sleep(max(0.0, started + number * interval - time.monotonic()))
        sender.send(body)
    took = time.monotonic() - started
    return (len(made) - 1) * SPANS_PER_POST / took, (daemon.cpu_seconds() - cpu) / took


def shed(daemon: Daemon) -> float:
    return daemon.value("triton_trace_posts_shed_total", reason="rate") or 0.0


def receiver(folder: Path, seconds: float) -> None:
    print(f"json.loads: {cpu_of_json():.1f} us a span")
    for packed, name in ((False, "JSON"), (True, "protobuf")):
        microseconds, size = cpu_of_spans(packed=packed)
        print(f"a span as {name}: {microseconds:.1f} us, {size:.0f} bytes")
    with running(folder, *ALONE, *NO_TRITON, development_mode=False) as daemon:
        daemon.get("/metrics")
        without = daemon.resident_bytes()
    port = free_port()
    address = f"--traces.listen-address=127.0.0.1:{port}"
    limits = ("--traces.max-posts=100000",)
    with running(folder, *ALONE, *NO_TRITON, address, *limits, development_mode=False) as daemon:
        until(lambda: b"triton_trace_posts_total" in daemon.get("/metrics")[2], "the listener")
        idle = daemon.resident_bytes()
        print(f"an empty POST: {cpu_of_posts(daemon, port):.0f} us")
        for packed, name in ((False, "JSON"), (True, "protobuf")):
            rate, share = steady(daemon, port, seconds, packed=packed)
            resident = daemon.resident_bytes()
            print(
                f"{rate:.0f} spans/s as {name}: {100 * share:.1f} % of a core,"
                f" RSS {resident / 1e6:.1f} MB"
            )
        print(f"RSS: {without / 1e6:.1f} MB without, {idle / 1e6:.1f} MB with an idle listener")
    with running(folder, *ALONE, *NO_TRITON, address, development_mode=False) as daemon:
        until(lambda: b"triton_trace_posts_total" in daemon.get("/metrics")[2], "the listener")
        (body,) = bodies(1, packed=False)
        sender, end, sent = Sender(port), time.monotonic() + seconds, 0
        cpu, started = daemon.cpu_seconds(), time.monotonic()
        while time.monotonic() < end:
            sender.send(body)
            sent += 1
        took = time.monotonic() - started
        share = (daemon.cpu_seconds() - cpu) / took
        spans = daemon.value("triton_trace_spans_left_out_total", reason="rate") or 0.0
        print(
            f"as fast as it answers: {sent / took:.0f} POSTs/s of {SPANS_PER_POST} spans,"
            f" {shed(daemon):.0f} POSTs and {spans:.0f} spans shed, {100 * share:.0f} % of a core,"
            f" RSS {daemon.resident_bytes() / 1e6:.1f} MB"
        )


# -- Triton --

_NOTHING = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor(
                    "RESULT", pb_utils.get_input_tensor_by_name(request, "VALUE").as_numpy()
                )
            ])
            for request in requests
        ]
"""
CLIENTS = 4


def load(url: str, seconds: float) -> int:
    """Sends requests from CLIENTS connections; returns their number."""
    tensor = {"name": "VALUE", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
    body = json.dumps({"inputs": [tensor]})
    counts = [0] * CLIENTS
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(url, timeout=30)
        while time.monotonic() < end:
            connection.request("POST", "/v2/models/nothing/infer", body)
            connection.getresponse().read()
            counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def cpu_of_server(server: Server) -> float:
    """Returns user and system seconds of the server itself, without its models' processes."""
    pid = server._process.pid if server._process is not None else 0  # noqa: SLF001 - its PID
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rounds() -> Iterator[tuple[str, int]]:
    """Yields (name, trace rate; 0: no traces), in turn."""
    for _ in range(3):
        yield "off", 0
        yield "1 in 1000", 1000
        yield "1 in 100", 100


def triton(folder: Path, seconds: float) -> None:
    port = free_port()
    flags = (*ALONE, f"--traces.listen-address=127.0.0.1:{port}")
    model = Model("nothing", code=_NOTHING)
    results: dict[str, list[tuple[float, float]]] = {}
    with (
        Server(folder / "triton", [model], tracing(port)) as server,
        running(folder, *flags, f"--triton.url={server.url}", development_mode=False) as daemon,
    ):
        load(server.url, 2)
        for name, rate in rounds():
            level = ["TIMESTAMPS"] if rate else ["OFF"]
            changes = {"trace_level": level, "trace_rate": str(rate or 1000)}
            server.request("POST", "/v2/models/nothing/trace/setting", changes)
            cpu = cpu_of_server(server)
            count = load(server.url, seconds)
            results.setdefault(name, []).append(
                (count / seconds, 1e6 * (cpu_of_server(server) - cpu) / count)
            )
        lost = daemon.value("triton_traces_lost_total")
    for name, values in results.items():
        texts = [f"{rate:.0f} requests/s at {cpu:.0f} us" for rate, cpu in values]
        print(f"Triton, traces {name}: {'; '.join(texts)}")
    print(f"traces lost: {lost:g}" if lost is not None else "no traces")


def main() -> None:
    numbers = [float(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    seconds = numbers[0] if numbers else 20.0
    with tempfile.TemporaryDirectory() as temporary:
        receiver(Path(temporary), seconds)
        if "--triton" in sys.argv:
            triton(Path(temporary), seconds)


if __name__ == "__main__":
    main()
