"""The password in DOCKER_HOST: not in the log, on no page, and not in the output of `check`."""

from __future__ import annotations

import os
from pathlib import Path

from tests import exporter_process
from tests.daemon import QUICK, off, running
from tests.waiting import until

ALONE = (*QUICK, *off("gpu", "triton", "host", "joins"))
HOST = {"DOCKER_HOST": "tcp://operator7:hunter2@127.0.0.1:1/?token=hunter2"}


def test_no_page_and_no_log_line_contains_it(tmp_path: Path) -> None:
    with running(tmp_path, *ALONE, environment=HOST) as daemon:
        daemon.until_logged("connecting to the engine")
        until(lambda: b"127.0.0.1:1" in daemon.get("/")[2], "the address on the page")
        pages = [daemon.get(path)[2].decode() for path in ("/", "/metrics")]
    for text in (*pages, daemon.log_text()):
        assert "hunter2" not in text
        assert "operator7" not in text


def test_check_does_not_print_it() -> None:
    result = exporter_process.run(
        "check", *ALONE, "--containers.timeout=20s", environment={**os.environ, **HOST}
    )
    assert "127.0.0.1:1" in result.stdout
    assert "hunter2" not in result.stdout + result.stderr
    assert "operator7" not in result.stdout + result.stderr
