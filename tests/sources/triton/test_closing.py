"""Closing a target during a poll, as when the server's container is removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exporter.errors import SourceError
from tests.fakes.triton import FakeTriton
from tests.sources.triton.polling import source

# Event loop iterations between the start of a poll and the closing of its target: a poll on the
# loopback takes about 60.
STEPS = range(0, 90, 2)


@pytest.mark.parametrize("header", [(), ("X-Key: @{file}",)], ids=["open", "secret"])
def test_a_read_of_a_target_closed_meanwhile_raises_source_errors_only(
    tmp_path: Path, header: tuple[str, ...]
) -> None:
    """Whatever the read waits for: no unexpected exception, and nothing stays open."""
    file = tmp_path / "key"
    file.write_text("secret")
    headers = tuple(text.format(file=file) for text in header)

    async def scenario(steps: int, outcomes: list[str]) -> None:
        async with FakeTriton() as fake:
            url = (f"a=http://localhost:{fake.port}",)
            async with source(url=url, header=headers) as triton:
                (target,) = await triton.discover()
                first = asyncio.create_task(target.read())
                for _ in range(steps):
                    await asyncio.sleep(0)
                async with asyncio.timeout(10):
                    closing = asyncio.create_task(triton.close())
                    await asyncio.sleep(0)  # close() is suspended halfway
                    for read in (first, asyncio.create_task(target.read())):
                        try:
                            await read
                            outcomes.append("read")
                        except SourceError as error:
                            outcomes.append(error.kind)
                    await closing
                    with pytest.raises(SourceError):
                        await target.read()

    outcomes: list[str] = []
    for steps in STEPS:
        asyncio.run(scenario(steps, outcomes))
    assert len(outcomes) == 2 * len(STEPS)
    assert set(outcomes) <= {"read", "unreachable"}, outcomes
    assert outcomes.count("unreachable") > len(STEPS)
