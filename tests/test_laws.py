"""The laws of the house: which way imports point, one declaration a metric, docs kept current."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from exporter.catalog import catalog
from exporter.model import Metric, Type, counter, gauge, info
from exporter.reference import metrics_reference, settings_reference
from exporter.sources import SOURCES
from tests.fakes.source import Thing
from tests.paths import ROOT

PACKAGE = ROOT / "exporter"

# What each room may import of the project, beside itself. A name stands for everything below it.
ALLOWED = {
    "errors": set(),
    "worker": {"errors"},
    "log": set(),
    "health": set(),
    "notify": set(),
    "model": {"errors"},
    "settings": set(),
    "peers": {"errors", "worker", ""},
    "sources": {"errors", "joins", "model", "peers", "settings", "upstream", "worker", ""},
    "upstream": {"errors", "model", "peers", "settings", "sources", "worker"},
    "joins": {"errors", "model", "peers", "settings", "sources"},
    "exposition": {"errors", "model", "worker"},
    "dialects": {"exposition", "model"},
    "store": {"model"},
    "complaints": {"errors"},
    "poll": {"complaints", "errors", "model", "settings", "store"},
    "catalog": {"model", "sources"},
    "given": {"errors"},
    "control": {"errors", "settings", "worker"},
    "config": {"control", "errors", "given", "settings", "sources", "web"},
    "report": {"model", "settings", "sources"},
    "reference": {"catalog", "config", "dialects", "given", "sources"},
    "table": {"report"},
    "web": {"errors", "exposition", "given", "report", "settings", "worker", ""},
}
# Wiring: may import anything.
FREE = {"app", "running", "cli", "__main__"}


def room(module: str) -> str:
    """The first part below `exporter`; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def imports() -> list[tuple[str, str]]:
    """(importing module, imported module) for every import of the project by itself."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: relative import"
                names = [node.module or ""]
                if node.module in ("exporter", "exporter.sources") or (
                    (node.module or "").startswith("exporter.sources.")
                ):
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found += [(module, name) for name in names if name.split(".")[0] == "exporter"]
    return found


def test_imports_point_one_way() -> None:
    seen = set()
    for importer, imported in imports():
        here, there = room(importer), room(imported)
        if there == "__version__":
            there = ""
        seen.add(here)
        if here in FREE or here == there or not here:
            continue
        assert here in ALLOWED, f"{importer} is a new room: say what it may import"
        assert there in ALLOWED[here], f"{importer} must not import {imported}"
    assert seen >= {"sources", "exposition", "web", "poll"}, "the walk found the rooms"


def test_no_source_imports_another() -> None:
    folders = {source.name for source in SOURCES}
    for importer, imported in imports():
        here, there = importer.split("."), imported.split(".")
        if here[1:2] == ["sources"] and len(here) > 2 and there[2:3] and there[2] in folders:
            assert here[2] == there[2], f"{importer} must not import {imported}"


def test_every_metric_is_declared_once() -> None:
    metrics = catalog()
    assert len({metric.name for metric in metrics}) == len(metrics)
    written = [
        node.value
        for path in PACKAGE.rglob("*metrics.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for metric in metrics:
        assert written.count(metric.name) == 1, f"{metric.name} is written more than once"


def test_names_and_help_keep_the_conventions() -> None:
    prefixes = {
        "gpu": ("gpu_",),
        "containers": ("container_",),
        "triton": ("triton_",),
        "host": ("host_",),
        "upstream": ("upstream_", "triton_"),
        "joins": ("container_gpu_", "triton_model_", "triton_server_"),
        "itself": ("inference_exporter_", "process_"),
    }
    for source in SOURCES:
        assert source.metrics, f"{source.name} declares nothing"
        for metric in source.metrics:
            assert metric.name.startswith(prefixes[source.name]), metric.name
            for forbidden in ("_ms_", "_mb", "percent", "_usage_rate"):
                assert forbidden not in metric.name, metric.name
            assert not {"hostname", "host", "job", "instance", "le"} & set(metric.label_names)


def test_only_the_declared_units_end_a_name() -> None:
    unitless = {metric.name for metric in catalog() if not metric.unit}
    for name in unitless:
        stem = name.removesuffix("_total").rsplit("_", 1)[-1]
        assert stem not in {"ms", "us", "ns", "mb", "kb", "percent", "mhz", "milliseconds"}, name


@pytest.mark.parametrize(
    ("file", "written"),
    [("docs/metrics.md", metrics_reference), ("docs/settings.md", settings_reference)],
)
def test_references_are_current(file: str, written: object) -> None:
    assert callable(written)
    assert (ROOT / file).read_text() == written(), f"{file} is old: run `make docs`"


def test_a_wrong_declaration_is_refused() -> None:
    with pytest.raises(ValueError, match="_total belongs to"):
        gauge("thing_total", "Help.", Thing, lambda t: t.heat)
    with pytest.raises(ValueError, match="_total belongs to"):
        counter("thing", "Help.", Thing, lambda t: t.heat)
    with pytest.raises(ValueError, match="_info belongs to"):
        info("thing", "Help.", Thing, ("a",), lambda _: ("",))
    with pytest.raises(ValueError, match="full stop"):
        gauge("thing", "Help", Thing, lambda t: t.heat)
    with pytest.raises(ValueError, match="label twice"):
        Metric("thing", Type.GAUGE, "Help.", Thing, lambda _: (), ("name",))


def test_the_tables_need_no_driver_and_no_client() -> None:
    program = "import sys, exporter.catalog as c; c.catalog(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "exporter.sources.gpu.metrics" in loaded
    assert not loaded & {"pynvml", "docker", "tritonclient", "psutil", "aiohttp", "numpy"}
