"""Figures of a real server, for docs/model-servers.md: in the log of `make servers`."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from exporter.exposition.renderer import Renderer
from exporter.model import Target
from exporter.model_server.metrics import METRICS
from tests.model_server.servers.peer import Peer
from tests.model_server.servers.process import Process
from tests.model_server.servers.reading import with_target

_POLLS = 100
_log = logging.getLogger(__name__)


def started(title: str, peer: Peer) -> Peer:
    """Logs what the start of a server took; returns the server."""
    process = peer.process
    _log.info(
        "%s: ready after %.0f s and %.0f s of CPU; %d processes, %.1f GB",
        title,
        process.start_seconds,
        process.cpu_seconds(),
        len(process.pids()),
        _resident_bytes(process) / 1e9,
    )
    return peer


def page_cost(title: str, peer: Peer) -> tuple[int, float]:
    """Logs and returns the samples of a server's page, and CPU milliseconds of a poll of it."""
    samples = [line for line in peer.process.page().splitlines() if not line.startswith("#")]
    length = len(peer.process.page())

    async def scenario(target: Target) -> tuple[float, int]:
        renderer = Renderer(METRICS)
        for _ in range(3):
            renderer.render((await target.read()).rows)
        before = time.process_time()
        for _ in range(_POLLS):
            rendered = renderer.render((await target.read()).rows)
        milliseconds = (time.process_time() - before) / _POLLS * 1e3
        exported = b"".join(rendered.lines.values()).splitlines()
        return milliseconds, sum(not line.startswith(b"#") for line in exported)

    milliseconds, exported = with_target(peer.process, scenario)
    _log.info(
        "%s: page of %d bytes, %d samples; %d are exported; %.2f ms of CPU a poll",
        title,
        length,
        len(samples),
        exported,
        milliseconds,
    )
    return len(samples), milliseconds


def _resident_bytes(process: Process) -> int:
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in process.pids())
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")
