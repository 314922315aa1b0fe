"""The parts of a host, started once for all tests of whole daemons."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.host import ASKED, MODEL, Parts
from tests.fakes.nvml.standin import Driver
from tests.sources.containers.engines import default_engine
from tests.sources.containers.shared_containers import three_containers
from tests.sources.triton.server import Model, Server, batching


@pytest.fixture(scope="package")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    models = (
        Model(MODEL),
        Model(ASKED),
        Model("batched", config=batching(4, 0.01)),
        Model("idle"),
    )
    with (
        default_engine() as engine,
        three_containers(engine) as three,
        Server(tmp_path_factory.mktemp("triton"), models) as triton,
    ):
        yield Parts(engine, three, triton, Driver(tmp_path_factory.mktemp("driver")))
