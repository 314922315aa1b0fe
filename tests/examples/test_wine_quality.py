"""`make example`: the ledger of its plan, the reference, its rules; Locust's tasks; manifests."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.daemon import Samples, find, parse
from tests.dashboards import query_checks
from tests.parts import missing
from tests.paths import ROOT
from tests.waiting import until
from tools.dashboards.prometheus_query import (
    DashboardQuerier,
    PrometheusApi,
    TimeRange,
    iter_panels,
)

EXAMPLE = ROOT / "examples" / "wine-quality"
VENV = ROOT / ".cache" / "wine-quality"
REQUESTS = 260


def free_offset() -> int:
    """Returns a port offset at which all of the example's ports are free."""
    # As those of tests/deploy/test_demo.py, which may start meanwhile.
    offsets = list(range(150, 4600, 100))
    random.SystemRandom().shuffle(offsets)
    for offset in offsets:
        with contextlib.ExitStack() as stack:
            try:
                for port in (10400, 9090, 8080):
                    stack.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            except OSError:  # in use
                continue
            return offset
    raise AssertionError("no free ports")


@contextlib.contextmanager
def example(folder: Path, offset: int) -> Iterator[Path]:
    """Runs the example until it prints where to look; yields the file of its output."""
    output = folder / "output"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, EXAMPLE / "run.py"),
                *(f"--offset={offset}", f"--requests={REQUESTS}", "--scrape-interval=1"),
            ],
            stdout=stream,
            stderr=stream,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one thread
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        until(
            lambda: process.poll() is not None or "Ctrl-C stops" in output.read_text(),
            "the example to run",
            seconds=180,
        )
        assert process.poll() is None, output.read_text()
        yield output
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # kill it, so that later tests can run
            process.kill()
            process.wait()
            raise
    assert process.returncode == 0, output.read_text()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - http
        text: str = response.read().decode()
    return text


def post(url: str, body: object) -> dict[str, float]:
    request = urllib.request.Request(  # noqa: S310 - http
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - http
        reply: dict[str, float] = json.load(response)
    return reply


@pytest.mark.real
@pytest.mark.timeout(400)
def test_the_example_starts_by_one_command_and_counts_every_request(tmp_path: Path) -> None:
    if not (VENV / "model" / "model.joblib").exists():
        missing("no wine model; examples/wine-quality/install.sh trains it")
    offset = free_offset()
    with example(tmp_path, offset) as output:
        text = output.read_text()
        # The ledger of the plan, the weights of its seed, and the same counts on the page.
        ledger = {kind: (status, int(count)) for kind, status, count in LEDGER.findall(text)}
        assert ledger.keys() == {"health", "good", "corrupt"}
        assert [ledger[kind][0] for kind in ("health", "good", "corrupt")] == ["200", "200", "422"]
        assert sum(count for _, count in ledger.values()) == REQUESTS
        assert text.count(": equal") == 2
        assert "DIFFERENT" not in text
        page = f"http://127.0.0.1:{10400 + offset}/metrics"

        def samples() -> Samples:
            return parse(get(page))

        # The good requests of the plan are the least that have been predicted by now.
        def merged() -> Samples | None:
            page = samples()
            name = "wine_quality_prediction_count"
            return page if find(page, name, upstream="wine") is not None else None

        counts = until(merged, "the service's metrics")
        assert counts is not None
        assert (find(counts, "wine_quality_prediction_count") or 0) >= ledger["good"][1]
        assert (find(counts, "model_predictions_total", model="wine") or 0) >= ledger["good"][1]
        assert find(counts, "wine_model_info", version="1", algorithm="ridge regression") == 1
        assert 0.3 < (find(counts, "wine_model_holdout_absolute_error") or 0) < 0.5
        assert find(counts, "http_requests_inprogress", handler="/predict") is not None
        assert (find(counts, "http_request_size_bytes_sum", handler="/predict") or 0) > 0
        assert (find(counts, "http_response_size_bytes_sum", handler="/predict") or 0) > 0
        # The reference has the same bounds as the histogram.
        bounds = {
            name: {dict(labels)["le"] for sample, labels in counts if sample == f"{name}_bucket"}
            for name in ("wine_quality_prediction", "model_prediction_reference")
        }
        assert bounds["wine_quality_prediction"] == bounds["model_prediction_reference"]
        assert find(counts, "model_prediction_reference_count", model="wine") == 2000
        # A truth that comes later; its increase needs a scrape before.
        prometheus = f"http://127.0.0.1:{9090 + offset}/api/v1/query?"

        def query(expr: str) -> list[object]:
            url = prometheus + urllib.parse.urlencode({"query": expr})
            result: list[object] = json.loads(get(url))["data"]["result"]
            return result

        until(lambda: query("model_absolute_error_count == 0"), "a first scrape", seconds=60)
        service = f"http://127.0.0.1:{8080 + offset}"
        wine = {"alcohol": 11.5, "volatile_acidity": 0.65, "sulphates": 0.9}
        wine |= {"residual_sugar": 7.75, "ph": 3.4}
        quality = post(f"{service}/predict", {**wine, "id": "a"})["quality"]
        assert quality == pytest.approx(5.5, abs=0.3), "the formula of the made wines"
        assert post(f"{service}/truth", {"id": "a", "quality": quality + 2})["known"] is True
        assert post(f"{service}/truth", {"id": "a", "quality": 1})["known"] is False
        until(
            lambda: find(samples(), "model_absolute_error_sum", model="wine") == pytest.approx(2),
            "the error on the exporter's page",
        )
        # Prometheus records the model's predictions, without drift in so few of them.
        until(
            lambda: query("model:prediction_drift:ks{window='1h'}"),
            "the drift from the reference",
            seconds=60,
        )
        check_dashboard(offset)


# Panels of classes have nothing of a regression, those of last week and of alarms nothing yet.
WITHOUT_DATA = {
    "Accuracy, last day",
    "Drift alarm since",
    "Accuracy by delay of the truth",
    "Precision",
    "Recall",
}


def check_dashboard(offset: int) -> None:
    """Fails unless every panel of the dashboard has values of the running example."""
    api = PrometheusApi(f"http://127.0.0.1:{9090 + offset}")
    wanted: set[str] = set()

    def empty_panels() -> set[str]:
        now = time.time()
        querier = DashboardQuerier(
            api, query_checks.load_dashboard("quality"), TimeRange(now - 120, now, 5, 1), {}
        )
        wanted.clear()
        empty = set()
        for panel in iter_panels(querier.dashboard):
            results = querier.query_panel(panel)
            assert not query_checks.check_results(panel, results)
            if query_checks.text_row(panel, results) or not any(r.series for r in results):
                empty.add(panel["title"])
            wanted.add(panel["title"])
        return empty

    empty: set[str] = set()

    def complete() -> bool:
        empty.clear()
        empty.update(empty_panels())
        return empty <= WITHOUT_DATA

    # Rates need two scrapes, and two evaluations of the rules.
    with contextlib.suppress(AssertionError):  # the next one names the panels
        until(complete, seconds=60, every=1)
    assert empty == WITHOUT_DATA
    assert len(wanted) > 15


LEDGER = re.compile(r"^(health|good|corrupt) *(\d+): (\d+)$", re.MULTILINE)


def test_locust_has_the_three_tasks() -> None:
    tree = ast.parse((EXAMPLE / "locustfile.py").read_text())
    weights = {
        node.name: ast.literal_eval(decorator.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
    }
    assert weights == {"health": 1, "predict": 10, "predict_bad_data": 2}


def test_the_manifests_are_valid() -> None:
    documents = list(yaml.safe_load_all((EXAMPLE / "kubernetes.yaml").read_text()))
    for document in documents:
        if document["kind"] != "ServiceMonitor":  # a custom resource
            kubernetes_validate.validate(document, "1.32", strict=True)
    kinds = [document["kind"] for document in documents]
    assert kinds == ["Namespace", "Deployment", "Service", "ServiceMonitor"]


def test_features_are_those_of_the_load() -> None:
    """Of the training, the service, and the requests: each runs without the others."""
    paths = (EXAMPLE / "train.py", EXAMPLE / "service.py", ROOT / "deploy/demo/load.py")
    found = [
        ast.literal_eval(node.value)
        for path in paths
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") in ("FEATURES", "WINE")
    ]
    assert len(found) == 3
    assert found[0] == found[1] == found[2]
