"""Helpers that poll a kubelet source in tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from exporter.context import Context
from exporter.model import Reading
from exporter.settings import Duration, Paths
from exporter.sources.kubelet.metrics import METRICS
from exporter.sources.kubelet.settings import Settings
from exporter.sources.kubelet.source import KubeletSource, build
from tests.sources.samples import Samples, samples


@contextlib.asynccontextmanager
async def kubelet_source(socket: Path, **settings: Any) -> AsyncIterator[KubeletSource]:
    """Yields a source of the kubelet at a socket, and closes it."""
    values = {"timeout": Duration(60), **settings}  # a busy machine is not a defect
    source = build(Settings(socket=str(socket), **values), Context(Paths(), tuple, lambda: 0))
    try:
        yield source
    finally:
        await source.close()


async def poll(source: KubeletSource) -> Reading:
    """Discovers the targets and reads the pod resources."""
    target = (await source.discover())[0]
    return await target.read()


def shown(reading: Reading) -> dict[str, Samples]:
    """Returns the values by metric and labels."""
    return samples(METRICS, reading)
