"""Reference files: the metrics of each kind, and what is wrong with a file."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from exporter.context import Context
from exporter.errors import BadData, Forbidden, NotFound, SourceError
from exporter.model import Reading, Type
from exporter.settings import Paths
from exporter.sources.predictions.metrics import METRICS
from exporter.sources.predictions.reference_file import content_of, read_reference
from exporter.sources.predictions.settings import Settings
from exporter.sources.predictions.source import build
from tests.daemon import Samples, find, off, running
from tests.sources.samples import samples
from tests.waiting import until

# The histogram is tested on the daemon's page.
GAUGES = tuple(metric for metric in METRICS if metric.type is Type.GAUGE)
HISTOGRAM: dict[str, Any] = {
    "origin": "by hand",
    "bounds": [0, 0.5, 2],
    "buckets": [1, 3, 6],
    "count": 7,
    "sum": 9.5,
}


def written(folder: Path, content: object) -> Path:
    file = folder / "reference.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def read(model: str, file: Path) -> Reading:
    async def use() -> Reading:
        source = build(Settings(reference=(f"{model}={file}",)), Context(Paths(), tuple, int))
        try:
            (target,) = await source.discover()
            return await target.read()
        finally:
            await source.close()

    return asyncio.run(use())


def test_a_histogram(tmp_path: Path) -> None:
    reading = read("wine", written(tmp_path, HISTOGRAM))
    assert reading.note == "by hand"
    values = samples(GAUGES, reading)
    assert values["model_prediction_reference_width"] == {
        ("wine", "0.0", "0.5"): 0.5,
        ("wine", "0.5", "2.0"): 1.5,
        ("wine", "2.0", "+Inf"): 0,
    }
    assert "model_prediction_reference_labels" not in values


def test_categories(tmp_path: Path) -> None:
    reading = read("wine", written(tmp_path, {"labels": {"red": 3, "white": 0}}))
    assert samples(GAUGES, reading) == {
        "model_prediction_reference_labels": {("wine", "red"): 3, ("wine", "white"): 0}
    }


def test_the_daemon_reads_a_file_again(tmp_path: Path) -> None:
    file = written(tmp_path, HISTOGRAM)
    flags = (
        "--web.listen-address=127.0.0.1:0",
        f"--predictions.reference=wine={file}",
        f"--predictions.reference=later={tmp_path}/later.json",
        "--predictions.interval=100ms",
        *off("gpu", "containers", "triton", "host"),
    )
    with running(tmp_path, *flags) as daemon:

        def both() -> Samples:
            """Returns the page once it has both files: one up, one down."""
            page = daemon.samples()
            ups = [find(page, "model_prediction_reference_up", model=m) for m in ("wine", "later")]
            return page if ups == [1, 0] else {}

        page = until(both, "the file")
        assert find(page, "model_prediction_reference_bucket", model="wine", le="0.0") == 1
        assert find(page, "model_prediction_reference_bucket", model="wine", le="2.0") == 6
        assert find(page, "model_prediction_reference_bucket", model="wine", le="+Inf") == 7
        assert find(page, "model_prediction_reference_count", model="wine") == 7
        assert find(page, "model_prediction_reference_sum", model="wine") == 9.5
        (tmp_path / "new").write_text(json.dumps({**HISTOGRAM, "count": 8}))
        (tmp_path / "new").rename(tmp_path / "later.json")
        until(
            lambda: daemon.value("model_prediction_reference_count", model="later") == 8,
            "the later file",
        )
        until(
            lambda: daemon.value("model_prediction_reference_up", model="later") == 1,
            "the later file up",
        )
        file.write_text("[]")
        until(
            lambda: daemon.value("model_prediction_reference_up", model="wine") == 0, "its failure"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bounds": [0, 2, 2]}, "the bounds do not ascend"),
        ({"bounds": [0, 1]}, "2 bounds, but 3 buckets"),
        ({"buckets": [1, 3, 2]}, "the buckets are cumulative"),
        ({"buckets": [-1, 3, 6]}, "the buckets are cumulative"),
        ({"count": 5}, "nor above count"),
        ({"buckets": [0, 0, 0], "count": 0}, "there are no predictions"),
        ({"bounds": [], "buckets": []}, "either bounds or labels"),
        ({"labels": {"a": 1}}, "either bounds or labels"),
        ({"count": 1e400}, "not finite|out of range|JSON"),
        ({"bounds": ["0", 1, 2]}, "Expected `float`"),
        ({"bound": [0]}, "unknown field"),
        ({"bounds": list(range(1001)), "buckets": [1] * 1001}, "more than 1000 bounds"),
    ],
)
def test_a_wrong_histogram(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadData, match=message):
        read_reference(str(written(tmp_path, {**HISTOGRAM, **change})))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": -1}, "negative"),
        ({"a": 0}, "no predictions"),
        ({"": 1}, "empty"),
        ({"a": 1e308, "b": 1e308, "c": -1}, "negative"),
        ({str(number): 1 for number in range(101)}, "more than 100 labels"),
    ],
)
def test_wrong_categories(tmp_path: Path, labels: dict[str, float], message: str) -> None:
    with pytest.raises(BadData, match=message):
        read_reference(str(written(tmp_path, {"labels": labels})))


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, NotFound), ("{", BadData), ("[" * 100_000, BadData), (" " * (1 << 20) + "{}", BadData)],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, content: str | None, error: type[SourceError]
) -> None:
    file = tmp_path / "none.json" if content is None else written(tmp_path, content)
    with pytest.raises(error) as raised:
        read_reference(str(file))
    assert "inference-exporter reference" in raised.value.remedy


def test_a_folder_and_a_fifo_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(Forbidden):
        read_reference(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadData):
        read_reference(str(tmp_path / "fifo"))


def test_counts_whose_sum_is_no_float(tmp_path: Path) -> None:
    counts = {"a": 1e308, "b": 1e308}
    assert read_reference(str(written(tmp_path, {"labels": counts}))).labels == counts


def test_a_file_without_content_now_is_empty() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    # The writer keeps the pipe open.
    with os.fdopen(reading, "rb") as file, os.fdopen(writing, "wb"):
        assert content_of(file) == b""


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("wine", "is not NAME=FILE"),
        ("=file", "is not NAME=FILE"),
        ("a b=file", "is not NAME=FILE"),
    ],
)
def test_wrong_settings(reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(reference=(reference,))
    with pytest.raises(ValueError, match="wine is given twice"):
        Settings(reference=("wine=a", "wine=b"))
