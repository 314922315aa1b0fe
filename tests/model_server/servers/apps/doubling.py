"""The model of all Python servers: doubles a number. Some numbers have another outcome.

A request for SLOW writes a file to the folder GATE (an environment variable) and waits, for at most
20 seconds, until the client writes another one.
"""

# mypy: ignore-errors
import asyncio
import os
import uuid
from pathlib import Path

BAD, BROKEN, SLOW = -1.0, 13.0, 20.0
GATE = Path(os.environ["GATE"])


class BadNumber(Exception):
    """The client's mistake, which each server reports in its own way."""


async def double(number):
    if number == BAD:
        raise BadNumber("no negative numbers")
    if number == BROKEN:
        raise RuntimeError("the model is broken")
    if number == SLOW:
        await _wait_at_the_gate()
    return 2 * number


async def _wait_at_the_gate():
    request = uuid.uuid4().hex
    (GATE / f"inside-{request}").touch()
    for _ in range(1000):
        if (GATE / f"go-{request}").exists():
            return
        await asyncio.sleep(0.02)
