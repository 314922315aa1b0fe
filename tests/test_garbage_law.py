"""One strange line, key or number costs the series that depend on it, and nothing else.

The short form takes a sample of all damages, the same in every run. `make garbage` runs the long
form: all of them, then several at once, for GARBAGE_SECONDS.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from tests.garbage import cgroups, engine, host, triton
from tests.garbage.law import Fixture

SECONDS = float(os.environ.get("GARBAGE_SECONDS", "0"))
# Damages of each fixture in the short form.
SAMPLE = 60


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> list[Fixture]:
    folder = tmp_path_factory.mktemp("garbage")
    return [
        *host.fixtures(folder),
        *cgroups.fixtures(folder),
        *engine.fixtures(),
        *triton.fixtures(asyncio.new_event_loop()),
    ]


def test_damages(fixtures: list[Fixture]) -> None:
    failures = []
    for fixture in fixtures:
        if os.environ.get("GARBAGE_ONLY", "") not in fixture.name:
            continue
        damages = list(fixture.damages())
        if not SECONDS:
            damages = random.Random(fixture.name).sample(damages, min(SAMPLE, len(damages)))
        for damage in damages:
            try:
                fixture.check(damage)
            except AssertionError as error:
                failures.append(str(error))
    assert not failures, f"{len(failures)}:\n" + "\n".join(failures[:20])
