"""CPU time of polls of Triton servers with 30 and 300 models, and of merging their pages.

    python benchmarks/triton.py [polls]

The server is a separate process that sends a real server's responses (statistics of models in use,
the index, readiness; 9 series per model on its metrics page), so that the measurement covers this
process alone: user and system time of requests, decoding, window statistics and rendering.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from exporter.context import Context
from exporter.exposition.renderer import Renderer
from exporter.exposition.upstream_families import add_families
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.triton.metrics import METRICS
from exporter.sources.triton.settings import Settings
from exporter.sources.triton.source import build
from exporter.upstream.metrics import METRICS as UPSTREAM_METRICS
from exporter.upstream.text_parser import PageLimits, TextParser
from tests.fakes.triton import FakeTriton, http_response, json_response, model

FAMILIES = (
    "nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_request_duration_us", "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us", "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us", "nv_inference_pending_request_count",
)  # fmt: skip


def serve(models: int, out: Connection) -> None:
    """Serves polls until it is killed; the statistics grow from poll to poll."""

    async def run() -> None:
        async with FakeTriton() as fake:
            names = [f"model_{number:03}" for number in range(models)]
            pages = [
                json_response({"model_stats": [model(name, scale) for name in names]})
                for scale in range(1, 9)
            ]
            index = [{"name": name, "version": "1", "state": "READY"} for name in names]
            fake.responses["/v2/repository/index"] = json_response(index)
            lines = [f'{family}{{model="{name}",version="1"}} {n}'
                     for family in FAMILIES for n, name in enumerate(names)]  # fmt: skip
            fake.responses["/metrics"] = http_response("\n".join(lines) + "\n")
            out.send(fake.port)
            turn = 0
            while True:
                fake.responses["/v2/models/stats"] = pages[turn % len(pages)]
                turn += 1
                await asyncio.sleep(0.005)

    asyncio.run(run())


async def measure(models: int, port: int, polls: int) -> dict[str, float]:
    """Returns CPU seconds of a poll by part, bytes of the statistics, and exported series."""
    context = Context(Paths(), tuple, lambda: 0)
    source = build(Settings(url=(f"here=127.0.0.1:{port}",)), context)
    renderer = Renderer(METRICS)
    (target,) = await source.discover()
    for _ in range(13):  # configurations, caches, and one configuration refresh
        rendered = renderer.render((await target.read()).rows)
    read = render = 0.0
    for _ in range(polls):
        started = time.process_time()
        reading = await target.read()
        rendering = time.process_time()
        rendered = renderer.render(reading.rows)
        read += rendering - started
        render += time.process_time() - rendering
    await source.close()
    body = json.dumps({"model_stats": [model(f"model_{n:03}") for n in range(models)]})
    return {
        "read": read / polls,
        "render": render / polls,
        "bytes": len(body),
        "series": rendered.series,
    }


def merge(models: int, polls: int) -> tuple[float, int]:
    """Returns CPU seconds to merge a page, rendering included, and its number of samples."""
    lines = [f'{family}{{model="model_{n:03}",version="1"}} {{value}}'
             for family in FAMILIES for n in range(models)]  # fmt: skip
    pages = [
        "\n".join(line.replace("{value}", str(turn * 7)) for line in lines).encode()
        for turn in range(2)
    ]
    parser = TextParser("here", lambda _: True, PageLimits(1_000_000))
    renderer = Renderer(UPSTREAM_METRICS)
    samples = parser.parse(pages[0]).sample_count
    started = time.process_time()
    for turn in range(polls):
        reading: Any = Reading((), families=parser.parse(pages[turn % 2]).families)
        add_families(renderer.render(reading.rows), reading.families, sys.maxsize)
    return (time.process_time() - started) / polls, samples


def main() -> None:
    polls = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for models in (30, 300):
        receiver, sender = multiprocessing.Pipe()
        process = multiprocessing.Process(target=serve, args=(models, sender), daemon=True)
        process.start()
        result = asyncio.run(measure(models, receiver.recv(), polls))
        process.terminate()
        process.join()
        total = result["read"] + result["render"]
        print(
            f"{models} models: {total * 1e3:.2f} ms CPU per poll ({result['read'] * 1e3:.2f} read, "
            f"{result['render'] * 1e3:.2f} render; {result['bytes'] / 1e3:.0f} KB, "
            f"{result['series']:.0f} series), {total / 5:.3%} of a core at 5 s"
        )
        seconds, samples = merge(models, polls)
        print(
            f"{models} models, merge of their page: {seconds * 1e3:.2f} ms for {samples} samples, "
            f"{seconds / samples * 1e6:.2f} us per sample"
        )


if __name__ == "__main__":
    main()
