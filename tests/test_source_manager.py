"""The source manager: requests of polls between the sources."""

from __future__ import annotations

import asyncio

import pytest

from exporter.dialects import ActiveDialects
from exporter.errors import Unreachable
from exporter.poll import SourcePoller
from exporter.registry import SOURCES
from exporter.settings import SourceSettings
from exporter.source_manager import SourceManager
from exporter.store import Store
from tests.fakes.source import FakeSource, render_functions


@pytest.mark.parametrize("changed", ["containers", "model_server"])
def test_a_change_of_status_requests_a_poll_of_the_other_later_stages(
    changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the source itself: one that fails every other time would be polled at once."""

    async def main() -> None:
        store = Store()
        manager = SourceManager(store, ActiveDialects())
        requested: list[str] = []
        monkeypatch.setattr(manager, "request_poll", requested.append)
        store.on_status_change = manager.poll_later_stages
        source = FakeSource()
        poller = SourcePoller(changed, source, SourceSettings(), store, render_functions())
        await poller.discover()
        source.error = Unreachable("refused")
        expected = [entry.name for entry in SOURCES if entry.stage and entry.name != changed]
        for _ in range(2):
            requested.clear()
            await poller.discover()
            assert requested == expected
            source.error = None
        await manager.close()

    asyncio.run(main())
