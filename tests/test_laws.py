"""Project rules: permitted imports, one declaration per metric, current docs, unique names."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.catalog import catalog
from exporter.model import Metric, Type, counter, gauge, info
from exporter.reference import metrics_reference, settings_reference
from exporter.registry import SOURCES
from tests import clean_interpreter
from tests.clean_interpreter import COMMAND_LINE
from tests.fakes.source import Thing
from tests.paths import ROOT
from tests.source_code import statements

PACKAGE = ROOT / "exporter"

# The packages and modules of `exporter` that each of them may import, besides itself.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "cgroup_owner": set(),
    "errors": set(),
    "gpu_pods": set(),
    "health": set(),
    "kernel_file": set(),
    "log": set(),
    "notify": set(),
    "patterns": set(),
    "self_scrape": set(),
    "settings": set(),
    "unix_socket": {"errors"},
    "failure_log": {"errors"},
    "setting_values": {"settings"},
    "faults": {"errors"},
    "json_struct": {"faults"},
    "protobuf": {"faults"},
    "grpc_client": {"errors"},
    "kernel_formats": {"faults"},
    "worker": {"errors"},
    "yaml_file": {"errors", "yaml_document"},
    "yaml_document": {"yaml_mapping"},
    "yaml_mapping": set(),
    "lean_import": set(),
    "machine_ids": {"kernel_file", "settings"},
    "model": {"errors"},
    "store": {"errors", "model"},
    "scrape_schedule": set(),
    "poll_schedule": {"scrape_schedule"},
    "poll": {
        "errors",
        "failure_log",
        "model",
        "poll_schedule",
        "scrape_schedule",
        "settings",
        "store",
    },
    "control": {"errors", "settings", "unix_socket", "worker"},
    "http_client": {"__init__", "errors", "settings", "worker"},
    "shared_pages": {"errors"},
    "trace_posts": set(),
    "context": {
        "errors",
        "gpu_pods",
        "http_client",
        "model",
        "settings",
        "shared_pages",
        "trace_posts",
        "worker",
    },
    "exposition": {"errors", "model", "scrape_schedule", "worker"},
    "dialects": {"__init__", "exposition", "model"},
    "sources": {
        "__init__",
        "cgroup_owner",
        "context",
        "errors",
        "faults",
        "grpc_client",
        "http_client",
        "json_struct",
        "kernel_file",
        "kernel_formats",
        "lean_import",
        "model",
        "patterns",
        "protobuf",
        "settings",
        "unix_socket",
        "worker",
    },
    "joins": {
        "cgroup_owner",
        "context",
        "errors",
        "gpu_pods",
        "http_client",
        "model",
        "settings",
        "sources",
    },
    "traces": {
        "context",
        "errors",
        "faults",
        "http_client",
        "json_struct",
        "model",
        "settings",
        "sources",
        "trace_posts",
        "worker",
    },
    "upstream": {
        "context",
        "errors",
        "http_client",
        "model",
        "patterns",
        "self_scrape",
        "settings",
        "shared_pages",
        "sources",
        "worker",
    },
    "model_server": {
        "cgroup_owner",
        "context",
        "errors",
        "faults",
        "http_client",
        "joins",
        "kernel_file",
        "model",
        "patterns",
        "self_scrape",
        "settings",
        "shared_pages",
        "sources",
        "upstream",
        "worker",
    },
    "registry": {
        "context",
        "joins",
        "model",
        "model_server",
        "settings",
        "sources",
        "traces",
        "upstream",
    },
    "catalog": {"model", "registry"},
    "status_report": {"model", "registry", "settings"},
    "web": {
        "__init__",
        "errors",
        "exposition",
        "self_scrape",
        "setting_values",
        "settings",
        "status_report",
        "trace_posts",
        "unix_socket",
        "worker",
        "yaml_file",
        "yaml_mapping",
    },
    "config": {
        "control",
        "errors",
        "registry",
        "setting_values",
        "settings",
        "web",
        "yaml_file",
    },
    "reference_builder": {"errors", "settings", "sources", "upstream"},
    "reference": {"catalog", "config", "dialects", "registry"},
    "source_manager": {
        "context",
        "dialects",
        "errors",
        "exposition",
        "model",
        "poll",
        "registry",
        "scrape_schedule",
        "settings",
        "store",
        "worker",
    },
}
# May import everything; imported by no other module.
APPLICATION = ("app", "cli", "__main__")


def package_of(module: str) -> str:
    """Returns the first name below `exporter`; `__init__` for the package itself."""
    return module.split(".")[1] if "." in module else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True, slots=True)
class Sources:
    """Imports and definitions of the exporter's modules, each of which is parsed once.

    imports: (importing module, imported module) for every import within the project. definitions:
    modules by the names of classes (without a leading underscore), public aliases and constants.
    """

    imports: tuple[tuple[str, str], ...]
    definitions: Mapping[str, list[str]]


@functools.cache
def sources() -> Sources:
    paths = sorted(PACKAGE.rglob("*.py"))
    modules = {module_of(path) for path in paths}
    pairs: list[tuple[str, str]] = []
    definitions: dict[str, list[str]] = {}
    for path in paths:
        module, tree = module_of(path), ast.parse(path.read_text())
        pairs += [(module, name) for name in _imported(module, tree, modules)]
        for name in _defined(tree):
            definitions.setdefault(name, []).append(module)
    return Sources(tuple(pairs), definitions)


def _imported(module: str, tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Yields the names of the project's modules that a module imports."""
    for node in statements(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            qualified = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module or "" for name in qualified]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "exporter")


def cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Returns a cycle of the graph; empty without one."""
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_imports_follow_the_layers() -> None:
    for importer, imported in sources().imports:
        source, target = package_of(importer), package_of(imported)
        if source in APPLICATION or source == target:
            continue
        assert source in ALLOWED, f"{importer}: add its permitted imports to ALLOWED"
        assert target in ALLOWED[source], f"{importer} must not import {imported}"
    packages = {package_of(module_of(path)) for path in PACKAGE.rglob("*.py")} - set(APPLICATION)
    assert packages == set(ALLOWED), "ALLOWED lists the existing packages and modules"


def test_imports_have_no_cycle() -> None:
    assert cycle({"a": ["b"], "b": ["a"]}), "the check detects a cycle"
    layers: dict[str, set[str]] = {name: set(names) for name, names in ALLOWED.items()}
    assert not cycle(layers)
    modules: dict[str, set[str]] = {}
    for importer, imported in sources().imports:
        if imported != importer:
            modules.setdefault(importer, set()).add(imported)
    assert not cycle(modules)


def test_no_source_imports_another() -> None:
    names = {source.name for source in SOURCES}
    for importer, imported in sources().imports:
        source, target = importer.split("."), imported.split(".")
        if source[1:2] == ["sources"] and len(source) > 2 and target[2:3] and target[2] in names:
            assert source[2] == target[2], f"{importer} must not import {imported}"


def test_every_metric_is_declared_once() -> None:
    metrics = catalog()
    assert len({metric.name for metric in metrics}) == len(metrics)
    literals = [
        node.value
        for path in PACKAGE.rglob("*metrics.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for metric in metrics:
        assert literals.count(metric.name) == 1, f"{metric.name} is not declared exactly once"


def test_metric_names_follow_the_conventions() -> None:
    prefixes = {
        "gpu": ("gpu_",),
        "containers": ("container_",),
        "kubelet": ("kubelet_",),
        "triton": ("triton_",),
        "host": ("host_",),
        "upstream": ("upstream_", "triton_"),
        "joins": ("container_gpu_", "gpu_health", "triton_model_", "triton_server_"),
        "model_server": ("model_server_",),
        "traces": ("triton_trace", "triton_request_latency_"),
        "predictions": ("model_prediction_",),
        "itself": ("inference_exporter_", "process_"),
    }
    for source in SOURCES:
        assert source.metrics, f"{source.name} declares no metric"
        for metric in source.metrics:
            assert metric.name.startswith(prefixes[source.name]), metric.name
            for part in ("_ms_", "_mb", "percent", "_usage_rate"):
                assert part not in metric.name, metric.name
            assert not {"hostname", "host", "job", "instance", "le"} & set(metric.label_names)


def test_only_base_units_end_a_name() -> None:
    without_unit = {metric.name for metric in catalog() if not metric.unit}
    for name in without_unit:
        stem = name.removesuffix("_total").rsplit("_", 1)[-1]
        assert stem not in {"ms", "us", "ns", "mb", "kb", "percent", "mhz", "milliseconds"}, name


@pytest.mark.parametrize(
    ("file", "generate"),
    [("docs/metrics.md", metrics_reference), ("docs/settings.md", settings_reference)],
)
def test_references_are_current(file: str, generate: Callable[[], str]) -> None:
    assert (ROOT / file).read_text() == generate(), f"{file} is outdated: run `make docs`"


def test_an_invalid_declaration_is_refused() -> None:
    with pytest.raises(ValueError, match="suffix _total is for"):
        gauge("thing_total", "Help.", Thing, lambda t: t.heat)
    with pytest.raises(ValueError, match="suffix _total is for"):
        counter("thing", "Help.", Thing, lambda t: t.heat)
    with pytest.raises(ValueError, match="suffix _info is for"):
        info("thing", "Help.", Thing, ("a",), lambda _: ("",))
    with pytest.raises(ValueError, match="full stop"):
        gauge("thing", "Help", Thing, lambda t: t.heat)
    with pytest.raises(ValueError, match="duplicate label"):
        Metric("thing", Type.GAUGE, "Help.", Thing, lambda _: (), ("name",))


def test_the_catalog_loads_no_driver_and_no_client_library() -> None:
    program = "import sys, exporter.catalog as c; c.catalog(); print(*sys.modules)"
    done = clean_interpreter.run(program, after=COMMAND_LINE)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "exporter.sources.gpu.metrics" in loaded
    assert not loaded & {"pynvml", "docker", "tritonclient", "psutil", "aiohttp", "numpy", "grpc"}


def test_a_public_name_has_one_meaning() -> None:
    """Classes, type aliases and constants: a name is defined in one module only."""
    # In each source or dialect.
    conventional = {"METRICS", "DIALECT_METRICS", "Settings", "UP", "T", "FAMILIES"}
    modules = sources().definitions
    repeated = {name: defining for name, defining in modules.items() if len(defining) > 1}
    assert not {name: repeated[name] for name in repeated.keys() - conventional}
    assert len(modules) > 200, "the definitions are found"


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yields names of classes (without a leading underscore), public aliases and constants."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id[0].isupper():
                yield target.id
