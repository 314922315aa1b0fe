"""deploy/demo/load.py: its plan, its ledger, and a page that differs from it."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests import clean_interpreter
from tests.paths import ROOT

LOAD = ROOT / "deploy" / "demo" / "load.py"
REQUESTS = 130


class Handler(http.server.BaseHTTPRequestHandler):
    """A server that counts what it responds to, but for every tenth bad request if `forgets`."""

    counts: ClassVar[Counter[str]] = Counter()
    lock: ClassVar[threading.Lock] = threading.Lock()
    bodies: ClassVar[list[str]] = []
    forgets: ClassVar[bool] = False
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/metrics":
            with self.lock:
                lines = [f'asked{{code="{code}"}} {n}.0' for code, n in self.counts.items()]
            self.respond(200, "\n".join(lines))
        else:
            self.count(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.lock:
            self.bodies.append(body)
        self.count(400 if "bad" in body else 200)

    def count(self, status: int) -> None:
        with self.lock:
            if not (self.forgets and status == 400 and self.counts["400"] >= 10):
                self.counts[str(status)] += 1
        self.respond(status, "{}")

    def respond(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    Handler.counts.clear()
    Handler.bodies.clear()
    Handler.forgets = False
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def load(address: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return clean_interpreter.run(
        f"import runpy; runpy.run_path({str(LOAD)!r}, run_name='__main__')",
        *(f"--requests={REQUESTS}", "--counter=asked", "--status-label=code", "--wait=1"),
        *(*flags, address),
        after=("import argparse, dataclasses, runpy, urllib.request",),
    )


def requests_file(folder: Path) -> str:
    file = folder / "requests.json"
    requests = {
        "health": [{"path": "/health"}],
        "good": [{"path": "/ask", "body": {"n": 1}}],
        "corrupt": [{"path": "/ask", "body": "bad {"}],
    }
    file.write_text(json.dumps(requests))
    return str(file)


def test_the_ledger_equals_the_page(address: str, tmp_path: Path) -> None:
    Handler.counts["200"] = 1000  # of earlier requests
    flags = (f"--service={requests_file(tmp_path)}", f"--page=http://{address}/metrics")
    done = load(address, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    refused = Handler.counts["400"]
    assert refused > 5
    assert f"200: sent {REQUESTS - refused}, counted {REQUESTS - refused}: equal" in done.stdout
    assert f"400: sent {refused}, counted {refused}: equal" in done.stdout
    assert Counter(Handler.bodies).keys() == {'{"n": 1}', "bad {"}


def test_a_page_that_lacks_requests_is_a_failure(address: str, tmp_path: Path) -> None:
    Handler.forgets = True
    flags = (f"--service={requests_file(tmp_path)}", f"--page=http://{address}/metrics")
    done = load(address, *flags)
    assert done.returncode == 1
    assert "counted 10: DIFFERENT" in done.stdout
    assert ": equal" in done.stdout


def test_the_plan_is_that_of_its_seed(address: str) -> None:
    plans = []
    for seed in (1, 1, 2):
        Handler.bodies.clear()
        assert load(address, "--service=wine", f"--seed={seed}").returncode == 0
        plans.append(sorted(Handler.bodies))
    assert plans[0] == plans[1] != plans[2]
    assert any("bad data" in body for body in plans[0])


def test_no_response_ends_the_plan() -> None:
    done = load("127.0.0.1:1", "--service=wine")
    assert done.returncode == 1
    assert done.stderr.startswith("no response from 127.0.0.1:1")
