"""Which container uses which GPU: real containers of a real engine, on the driver's stand-in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.sources.gpu.owners import Owners
from tests.daemon import QUICK, find, off, running
from tests.gpu import cards
from tests.gpu.standin import Driver
from tests.waiting import until
from tests.whole.parts import Parts

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

MIB = 1024 * 1024


def test_a_container_and_its_gpus(parts: Parts, tmp_path: Path) -> None:
    parts.three.idle.reload()
    pid, ours = parts.three.idle.attrs["State"]["Pid"], os.getpid()
    driver = Driver(tmp_path, gpus=2)
    driver.gpu(0).processes("Compute", (pid, 100 * MIB), (ours, 7 * MIB))
    driver.gpu(0).processes("Graphics", (pid, 120 * MIB))
    driver.gpu(0).busy((pid, 1, 40), (ours, 1, 5))
    driver.gpu(1).processes("Compute", (pid, 30 * MIB))
    flags = (*QUICK, *off("triton", "host"))
    environment = {**driver.environment(), "DOCKER_HOST": parts.engine.url}
    with running(tmp_path, *flags, environment=environment) as daemon:
        until(lambda: daemon.value("container_info", name="idle") == 1, "containers", seconds=30)
        until(
            lambda: daemon.value("container_gpu_processes", name="idle", gpu="1") == 1,
            "the join",
            seconds=30,
        )
        samples = daemon.samples()
        labels = {"name": "idle", "image": parts.three.idle.attrs["Config"]["Image"]}
        for gpu, memory in ((0, 120), (1, 30)):
            where = {**labels, "gpu": str(gpu), "uuid": cards.uuid(gpu)}
            assert find(samples, "container_gpu_memory_used_bytes", **where) == memory * MIB
            assert find(samples, "container_gpu_processes", **where) == 1
        # This process is in no container of that engine; where the tests run in one, in that.
        around = Owners("/proc").of([ours])[ours]
        name = around[-1][:12] if around else ""
        outside = {"name": name, "image": "", "gpu": "0", "uuid": cards.uuid(0)}
        assert find(samples, "container_gpu_memory_used_bytes", **outside) == 7 * MIB
        assert find(samples, "gpu_processes", gpu="0") == 2
        # It ends its use of GPU 0: its series there end too.
        with driver.batch():
            driver.gpu(0).processes("Compute", (ours, 7 * MIB))
            driver.gpu(0).processes("Graphics")
        until(
            lambda: daemon.value("container_gpu_processes", name="idle", gpu="0") is None,
            "the end of its series",
        )
        assert daemon.value("container_gpu_processes", name="idle", gpu="1") == 1
