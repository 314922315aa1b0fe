"""A server let go of while it is read: its container went away in the midst of a poll."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exporter.errors import SourceError
from tests.fakes.triton import Fake
from tests.sources.triton.polling import source

# Steps of the event loop between the beginning of a poll and the end of its target: a poll on the
# loopback takes about 60 of them.
STEPS = range(0, 90, 2)


@pytest.mark.parametrize("shown", [(), ("X-Key: @{file}",)], ids=["open", "secret"])
def test_a_read_of_a_target_that_is_closed_meanwhile_fails_as_a_source_does(
    tmp_path: Path, shown: tuple[str, ...]
) -> None:
    """Whatever it was waiting for: no error nobody foresaw, and nothing that stays open."""
    file = tmp_path / "key"
    file.write_text("secret")
    headers = tuple(each.format(file=file) for each in shown)

    async def scenario(steps: int, ends: list[str]) -> None:
        async with Fake() as fake:
            url = (f"a=http://localhost:{fake.port}",)
            async with source(url=url, header=headers) as triton:
                (target,) = await triton.discover()
                first = asyncio.create_task(target.read())
                for _ in range(steps):
                    await asyncio.sleep(0)
                async with asyncio.timeout(10):
                    closing = asyncio.create_task(triton.close())
                    await asyncio.sleep(0)  # the closing waits, half done
                    for read in (first, asyncio.create_task(target.read())):
                        try:
                            await read
                            ends.append("read")
                        except SourceError as error:
                            ends.append(error.kind)
                    await closing
                    with pytest.raises(SourceError):
                        await target.read()

    ends: list[str] = []
    for steps in STEPS:
        asyncio.run(scenario(steps, ends))
    assert len(ends) == 2 * len(STEPS)
    assert set(ends) <= {"read", "unreachable"}, ends
    assert ends.count("unreachable") > len(STEPS)
