"""The source manager: requests of polls between the sources."""

from __future__ import annotations

import asyncio

import pytest

from exporter.dialects import ActiveDialects
from exporter.errors import Unreachable
from exporter.poll import SourcePoller
from exporter.settings import SourceSettings
from exporter.source_manager import SourceManager
from exporter.store import Store
from tests.fakes.source import FakeSource, render_functions


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("containers", ["joins", "traces", "upstream", "model_server", "itself"]),
        ("upstream", ["model_server", "itself"]),
        ("model_server", ["itself"]),
        ("itself", []),
    ],
)
def test_a_change_of_status_requests_a_poll_of_the_later_stages(
    changed: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of its own stage: sources that fail every other time would be polled without a pause."""

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
        for _ in range(2):
            requested.clear()
            await poller.discover()
            assert requested == expected
            source.error = None
        await manager.close()

    asyncio.run(main())
