"""CPU of a poll of Triton servers with 30 and 300 models, and of the merge of their pages.

    python benchmarks/triton.py [polls]

The server is a process of its own that answers with what a real one says (statistics of models
that are all being used, the index, readiness; 13 series a model on its own port), so that what is
measured is this process alone: user and system time of reading, decoding, deriving and rendering.
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
from exporter.upstream.text_parser import TextParser
from tests.fakes.triton import Fake, as_json, http, model

KINDS = (
    "nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_request_duration_us", "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us", "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us", "nv_inference_pending_request_count",
)  # fmt: skip


def serve(models: int, out: Connection) -> None:
    """Answer polls for ever; every poll of the statistics sees more requests than the last."""

    async def run() -> None:
        async with Fake() as fake:
            names = [f"model_{number:03}" for number in range(models)]
            pages = [
                as_json({"model_stats": [model(name, scale) for name in names]})
                for scale in range(1, 9)
            ]
            index = [{"name": name, "version": "1", "state": "READY"} for name in names]
            fake.answers["/v2/repository/index"] = as_json(index)
            lines = [f'{kind}{{model="{name}",version="1"}} {n}'
                     for kind in KINDS for n, name in enumerate(names)]  # fmt: skip
            fake.answers["/metrics"] = http("\n".join(lines) + "\n")
            out.send(fake.port)
            turn = 0
            while True:
                fake.answers["/v2/models/stats"] = pages[turn % len(pages)]
                turn += 1
                await asyncio.sleep(0.005)

    asyncio.run(run())


async def measure(models: int, port: int, polls: int) -> dict[str, float]:
    """Seconds of CPU of a poll, by part; bytes of its reply; series of its page."""
    context = Context(Paths(), tuple, lambda: 0)
    source = build(Settings(url=(f"here=127.0.0.1:{port}",)), context)
    renderer = Renderer(METRICS)
    (target,) = await source.discover()
    for _ in range(13):  # configurations, caches, and one turn of the refresh
        rendered = renderer.render((await target.read()).rows)
    read = render = 0.0
    for _ in range(polls):
        started = time.process_time()
        reading = await target.read()
        between = time.process_time()
        rendered = renderer.render(reading.rows)
        read += between - started
        render += time.process_time() - between
    await source.close()
    body = json.dumps({"model_stats": [model(f"model_{n:03}") for n in range(models)]})
    return {
        "read": read / polls,
        "render": render / polls,
        "bytes": len(body),
        "series": rendered.series,
    }


def merge(models: int, polls: int) -> tuple[float, int]:
    """Seconds of CPU of a page's merge, rendering included, and its samples."""
    lines = [f'{kind}{{model="model_{n:03}",version="1"}} {{value}}'
             for kind in KINDS for n in range(models)]  # fmt: skip
    pages = [
        "\n".join(line.replace("{value}", str(turn * 7)) for line in lines).encode()
        for turn in range(2)
    ]
    reader, renderer = TextParser("here", lambda _: True, 1_000_000), Renderer(UPSTREAM_METRICS)
    samples = reader.read(pages[0]).samples
    started = time.process_time()
    for turn in range(polls):
        reading: Any = Reading((), families=reader.read(pages[turn % 2]).families)
        add_families(renderer.render(reading.rows), reading.families, sys.maxsize)
    return (time.process_time() - started) / polls, samples


def main() -> None:
    polls = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for models in (30, 300):
        mine, its = multiprocessing.Pipe()
        process = multiprocessing.Process(target=serve, args=(models, its), daemon=True)
        process.start()
        found = asyncio.run(measure(models, mine.recv(), polls))
        process.terminate()
        process.join()
        total = found["read"] + found["render"]
        print(
            f"{models} models: {total * 1e3:.2f} ms CPU a poll ({found['read'] * 1e3:.2f} read, "
            f"{found['render'] * 1e3:.2f} render; {found['bytes'] / 1e3:.0f} KB, "
            f"{found['series']:.0f} series), {total / 5:.3%} of a core at 5 s"
        )
        seconds, samples = merge(models, polls)
        print(
            f"{models} models, merge of their page: {seconds * 1e3:.2f} ms for {samples} samples, "
            f"{seconds / samples * 1e6:.2f} us each"
        )


if __name__ == "__main__":
    main()
