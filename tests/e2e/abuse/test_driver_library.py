"""The NVIDIA driver's library hangs in a constructor, while the dynamic loader loads it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon, off, running
from tests.e2e.abuse.harness import attack
from tests.fakes.container_engine import FakeEngine
from tests.fakes.nvml.standin import LIBRARY
from tests.fakes.triton import FakeTriton, http_response
from tests.parts import missing
from tests.waiting import until

CODE = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void hang(void) {
    close(open(FOLDER "/loading", O_CREAT | O_WRONLY, 0600));
    for (int i = 0; i < 6000 && access(FOLDER "/go", F_OK) != 0; i++)
        usleep(50000);
}
"""
FLAGS = tuple(
    f"--{source}.{setting}"
    for source in ("gpu", "containers", "triton", "joins", "upstream", "host", "itself")
    for setting in ("interval=200ms", "timeout=2s")
)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Returns the folder of a library whose constructor hangs until the file `go` exists.

    The constructor creates the file `loading`.
    """
    if shutil.which("gcc") is None:
        missing("gcc, which compiles the library")
    (tmp_path / "hang.c").write_text(CODE)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f'-DFOLDER="{tmp_path}"', "-o", LIBRARY, "hang.c"],
        cwd=tmp_path,
        check=True,
    )
    return tmp_path


@contextlib.contextmanager
def triton_server() -> Iterator[FakeTriton]:
    """Serves in a thread until the block ends."""
    fake = FakeTriton()
    fake.responses["/metrics"] = http_response("# TYPE a gauge\na 1\n")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(fake.listen())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(fake.shut(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def stops_meanwhile(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(timeout=30)  # the library hangs for five minutes


def test_the_other_sources_are_read(library: Path, tmp_path: Path) -> None:
    engine = FakeEngine(2)
    with (
        engine.serving(),
        triton_server() as triton,
        attack(
            "driver library that hangs while it is loaded",
            tmp_path,
            *FLAGS,
            f"--triton.url=t={triton.url}",
            f"--upstream.url=u=http://{triton.url}/metrics",
            environment={"LD_LIBRARY_PATH": str(library), "DOCKER_HOST": engine.url},
            bound="loaded without the GIL",
        ) as current,
    ):
        daemon = current.daemon
        until((tmp_path / "loading").exists, "the library to be loaded")
        until(
            lambda: daemon.value(
                "inference_exporter_source_failures_total", source="gpu", kind="timeout"
            ),
            "a counted failure",
        )
        for name in ("container_engine_up", "container_resources_up", "triton_up"):
            until(lambda name=name: daemon.value(name) == 1, name)  # type: ignore[misc]  # bound at once
        until(lambda: daemon.value("upstream_up", upstream="u") == 1, "upstream_up")
        until(
            lambda: daemon.value("inference_exporter_source_up", source="host") is not None,
            "the host",
        )
        status, _, _ = daemon.get("/metrics", {"Accept-Encoding": "gzip"})
        assert status == 200


def test_a_source_that_is_turned_on_meanwhile(library: Path, tmp_path: Path) -> None:
    """Its libraries cannot be imported: it waits alone, and starts after the hang."""
    settings = tmp_path / "settings.yml"
    settings.write_text("host: {enabled: off}\ncontainers: {enabled: off}\n")
    with attack(
        "driver library that hangs while a source is turned on",
        tmp_path,
        *FLAGS,
        f"--config.file={settings}",
        environment={"LD_LIBRARY_PATH": str(library)},
        bound="imports wait without the GIL",
    ) as current:
        daemon = current.daemon
        until((tmp_path / "loading").exists, "the library to be loaded")
        settings.write_text("containers: {enabled: off}\n")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "host: not started" in daemon.log_text(), "the reload", seconds=60)
        daemon.until_logged("settings reloaded")
        (tmp_path / "go").touch()

        def started() -> bool:
            daemon.process.send_signal(signal.SIGHUP)
            return daemon.value("inference_exporter_source_up", source="host") == 1

        until(started, "the host", seconds=60, every=0.5)


def test_the_daemon_stops(library: Path, tmp_path: Path) -> None:
    with running(
        tmp_path,
        *(*FLAGS, *off("containers", "triton", "upstream")),
        "--web.listen-address=127.0.0.1:0",
        environment={**os.environ, "LD_LIBRARY_PATH": str(library)},
    ) as daemon:
        until((tmp_path / "loading").exists, "the library to be loaded")
        stops_meanwhile(daemon)
