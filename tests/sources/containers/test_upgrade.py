"""An upgrade of Docker from 20.10 to 29, and the downgrade, while the exporter is running."""

from __future__ import annotations

import asyncio

import pytest

from exporter.errors import Unreachable
from exporter.sources.containers.reading import EngineRow
from tests.sources.containers.dockerd import Docker29, Dockerd
from tests.sources.containers.engines import selected
from tests.sources.containers.polling import PolledSource, polled

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("docker29" not in selected(), reason="ENGINE does not contain Docker 29"),
]


async def check_engine(source: PolledSource, engine: Dockerd) -> None:
    """Checks that the engine is read in its own API version, and its events are received."""
    await source.until_engine_responds()
    (row,) = (await source.engine.read()).rows
    assert isinstance(row, EngineRow)
    assert row.api_version == engine.api
    await source.until_listed(lambda _: source.has_events)
    name = f"on-{engine.name}"
    engine.run(name, ("sleep", "1000000"))
    rows = await source.until_listed(lambda rows: name in rows)
    assert set(rows) == {name}


def test_an_upgrade_and_a_downgrade_are_followed() -> None:
    """20.10 and 29 refuse each other's API version."""

    async def scenario(old: Dockerd, new: Dockerd) -> None:
        async with polled(old.url) as source:
            await check_engine(source, old)
            old.stop()
            with pytest.raises(Unreachable):
                await source.engine.read()
            with new:
                await check_engine(source, new)
            with pytest.raises(Unreachable):
                await source.engine.read()
            old.start()
            await source.until_listed(lambda rows: set(rows) == {f"on-{old.name}"})
            assert (await source.engine.read()).note.endswith(f"(API {old.api}) at {old.url}")

    with Dockerd() as old:
        new = Docker29()
        new.socket = old.socket
        asyncio.run(scenario(old, new))
