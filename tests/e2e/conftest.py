"""The inference host, started once for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.host import LOADED_MODEL, MODEL, InferenceHost
from tests.fakes.nvml.standin import Driver
from tests.sources.containers.engines import default_engine
from tests.sources.containers.shared_containers import three_containers
from tests.sources.triton.server import Model, Server, batching


@pytest.fixture(scope="package")
def inference_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceHost]:
    models = (
        Model(MODEL),
        Model(LOADED_MODEL),
        Model("batched", config=batching(4, 0.01)),
        Model("idle"),
    )
    with (
        default_engine() as engine,
        three_containers(engine) as containers,
        Server(
            tmp_path_factory.mktemp("triton"), models, ["--metrics-config=summary_latencies=true"]
        ) as triton,
    ):
        driver = Driver(tmp_path_factory.mktemp("driver"))
        yield InferenceHost(engine, containers, triton, driver)
