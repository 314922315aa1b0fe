"""CPU time of reading a model server's page: alone, compared with the merge, and over HTTP.

    python -m benchmarks.model_servers [polls]

The page is vLLM's under load (tests/model_server/pages) with as many HELP bytes as the real
one. In the first table readers take turns in one process: the vocabulary's reader with mapping and
rendering, the merge's parser, and prometheus_client's. In the second the servers are a process of
their own, so that CPU time is that of requests, reading, mapping and rendering.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from exporter.context import Context
from exporter.exposition.renderer import Renderer
from exporter.model_server.engines import built_in_profiles
from exporter.model_server.mapping import PageMapping, sample_names
from exporter.model_server.metrics import METRICS
from exporter.model_server.page_samples import SampleReader
from exporter.model_server.reading import ServedModelRow
from exporter.model_server.settings import Settings
from exporter.model_server.source import build
from exporter.settings import Paths
from exporter.upstream.text_parser import PageLimits, TextParser
from tests.fakes.triton import FakeTriton, http_response

PAGE = Path(__file__).parents[1] / "tests/model_server/pages/vllm.prom"
_SERVERS = (1, 10)


def page(number: int) -> bytes:
    """Returns the page of a poll: counters and sums of latencies grow."""
    lines: list[str] = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("# TYPE"):
            name = line.split()[2]
            lines.append(f"# HELP {name} {'A text as long as those of the engine. ' * 2}")
        text, _, value = line.rpartition(" ")
        grows = line.startswith("vllm:") and "_created" not in line and float(value) > 1
        lines.append(f"{text} {float(value) + number}" if grows else line)
    return "\n".join(lines).encode() + b"\n"


def milliseconds(call: Callable[[int], object], turns: int = 60) -> float:
    """Returns the least CPU time of a call."""
    times = []
    for turn in range(turns):
        started = time.process_time()
        call(turn)
        times.append(time.process_time() - started)
    return min(times) * 1e3


def alone() -> None:
    pages = [page(number) for number in range(8)]
    (vllm,) = (profile for profile in built_in_profiles() if profile.name == "vllm")
    reader, mapping = SampleReader(sample_names(vllm), 60_000), PageMapping(vllm, 50)
    unmapped = SampleReader(("nothing",), 60_000)
    merge = TextParser("chat", lambda _: True, PageLimits(20_000))
    renderer = Renderer(METRICS)

    def read(turn: int) -> object:
        in_progress = reader.begin()
        in_progress.feed(pages[turn % 8])
        models = mapping.models(in_progress.finish())
        return [
            ServedModelRow(("a", "vllm", name), m.values, m.outcomes, m.stages, m.histograms)
            for name, m in models.items()
        ]

    def read_nothing(turn: int) -> object:
        in_progress = unmapped.begin()
        in_progress.feed(pages[turn % 8])
        return in_progress.finish()

    own = milliseconds(read)
    rendered = milliseconds(lambda turn: renderer.render(read(turn)))  # type: ignore[arg-type]
    nothing = milliseconds(read_nothing)
    merged = milliseconds(lambda turn: merge.parse(pages[turn % 8]))
    text = pages[0].decode()
    client = milliseconds(lambda _: list(text_string_to_metric_families(text)), 5)
    samples = sum(1 for line in text.splitlines() if not line.startswith("#"))
    print(f"page: {len(pages[0])} bytes, {samples} samples\n")
    print("| CPU of one page | ms | to the merge |")
    print("| --- | --- | --- |")
    for name, value in (
        ("read and mapped", own),
        ("read, mapped and rendered", rendered),
        ("read, no line mapped", nothing),
        ("parsed by the merge", merged),
        ("parsed by prometheus_client", client),
    ):
        print(f"| {name} | {value:.2f} | {value / merged:.2f} |")


def serve(servers: int, out: Connection) -> None:
    """Serves pages until it is killed."""

    async def run() -> None:
        fakes = [FakeTriton() for _ in range(servers)]
        for fake in fakes:
            await fake.listen()
        out.send([fake.port for fake in fakes])
        turn = 0
        pages = [http_response(page(number)) for number in range(8)]
        while True:
            for fake in fakes:
                fake.responses = {"/metrics": pages[turn % 8]}
            turn += 1
            await asyncio.sleep(0.05)

    asyncio.run(run())


async def poll(ports: list[int], polls: int) -> float:
    """Returns the CPU milliseconds of a poll of all servers."""
    context = Context(Paths(), tuple, lambda: 0)
    urls = tuple(f"s{number}=http://127.0.0.1:{port}" for number, port in enumerate(ports))
    source = build(Settings(url=urls, discover="off"), context)
    renderers = [Renderer(METRICS) for _ in ports]
    targets = await source.discover()
    try:
        for _ in range(3):
            for target in targets:
                await target.read()
        started = time.process_time()
        for _ in range(polls):
            readings = await asyncio.gather(*(target.read() for target in targets))
            for renderer, reading in zip(renderers, readings, strict=True):
                renderer.render(reading.rows)
        return (time.process_time() - started) / polls * 1e3
    finally:
        await source.close()


def over_http(polls: int) -> None:
    print("\n| servers | CPU ms a poll | % of a core at 5 s |")
    print("| --- | --- | --- |")
    for servers in _SERVERS:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(target=serve, args=(servers, sender), daemon=True)
        process.start()
        cost = asyncio.run(poll(receiver.recv(), polls))
        process.terminate()
        print(f"| {servers} | {cost:.2f} | {cost / 50:.2f} |")


if __name__ == "__main__":
    alone()
    over_http(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
