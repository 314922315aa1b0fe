"""The laws of the house: which way imports point, one declaration a metric, docs kept current."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from exporter.catalog import catalog
from exporter.model import Metric, Type, counter, gauge, info
from exporter.reference import metrics_reference, settings_reference
from exporter.registry import SOURCES
from tests.fakes.source import Thing
from tests.paths import ROOT

PACKAGE = ROOT / "exporter"

# What each package or module below `exporter` may import of the project, beside itself.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "health": set(),
    "kernel_file": set(),
    "log": set(),
    "notify": set(),
    "self_scrape": set(),
    "settings": set(),
    "unix_socket": set(),
    "failure_log": {"errors"},
    "worker": {"errors"},
    "yaml_file": {"errors"},
    "model": {"errors"},
    "store": {"model"},
    "poll": {"errors", "failure_log", "model", "settings", "store"},
    "control": {"errors", "settings", "unix_socket", "worker"},
    "http_client": {"__init__", "errors", "worker"},
    "context": {"http_client", "model", "settings", "worker"},
    "exposition": {"errors", "model", "worker"},
    "dialects": {"exposition", "model"},
    "sources": {
        "__init__",
        "context",
        "errors",
        "http_client",
        "kernel_file",
        "model",
        "settings",
        "worker",
    },
    "joins": {"context", "errors", "http_client", "model", "settings", "sources"},
    "upstream": {
        "context",
        "errors",
        "http_client",
        "model",
        "self_scrape",
        "settings",
        "sources",
        "worker",
    },
    "registry": {"context", "joins", "model", "settings", "sources", "upstream"},
    "catalog": {"model", "registry"},
    "status_report": {"model", "registry", "settings"},
    "web": {
        "__init__",
        "errors",
        "exposition",
        "self_scrape",
        "settings",
        "status_report",
        "unix_socket",
        "worker",
        "yaml_file",
    },
    "config": {"control", "errors", "registry", "settings", "web", "yaml_file"},
    "reference": {"catalog", "config", "dialects", "registry"},
    "source_manager": {
        "context",
        "dialects",
        "exposition",
        "model",
        "poll",
        "registry",
        "settings",
        "store",
        "worker",
    },
}
# The wiring, which may import everything and is imported by nothing below it.
WIRING = ("app", "cli", "__main__")


def room(module: str) -> str:
    """The first part below `exporter`; `__init__` for the package itself."""
    return module.split(".")[1] if "." in module else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports() -> list[tuple[str, str]]:
    """(importing module, imported module) for every import of the project by itself."""
    paths = sorted(PACKAGE.rglob("*.py"))
    modules = {module_of(path) for path in paths}
    found = []
    for path in paths:
        module = module_of(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: relative import"
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in modules else node.module or "" for name in inner]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found += [(module, name) for name in names if name.split(".")[0] == "exporter"]
    return found


def cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """A cycle of the graph; empty if it has none."""
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_imports_follow_the_layers() -> None:
    for importer, imported in imports():
        here, there = room(importer), room(imported)
        if here in WIRING or here == there:
            continue
        assert here in ALLOWED, f"{importer}: list what it may import in ALLOWED"
        assert there in ALLOWED[here], f"{importer} must not import {imported}"
    rooms = {room(module_of(path)) for path in PACKAGE.rglob("*.py")} - set(WIRING)
    assert rooms == set(ALLOWED), "ALLOWED lists the packages that exist, and no others"


def test_imports_have_no_cycle() -> None:
    assert cycle({"a": ["b"], "b": ["a"]}), "the check itself finds one"
    layers: dict[str, set[str]] = {here: set(there) for here, there in ALLOWED.items()}
    assert not cycle(layers)
    modules: dict[str, set[str]] = {}
    for importer, imported in imports():
        if imported != importer:
            modules.setdefault(importer, set()).add(imported)
    assert not cycle(modules)


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


def test_a_public_name_has_one_meaning() -> None:
    """Classes, type aliases and constants: a name is defined in one module only."""
    conventional = {"METRICS", "Settings", "UP", "T", "FAMILIES"}  # one in each source or dialect
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in _defined(ast.parse(path.read_text())):
            places.setdefault(name, []).append(module_of(path))
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    assert not {name: repeated[name] for name in repeated.keys() - conventional}
    assert len(places) > 200, "the walk found the definitions"


def _defined(tree: ast.Module) -> Iterator[str]:
    """Names of classes, private ones without their underscore, and public aliases, constants."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id[0].isupper():
                yield target.id
