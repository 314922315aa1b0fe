"""Metric keys: the declared and the produced keys are equal, and literals at their producer."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pynvml
import pytest

from exporter.model import Reading
from exporter.sources.gpu.metrics import METRICS
from exporter.sources.gpu.reading import GpuRow, MigRow
from exporter.sources.gpu.simulation import card_values
from exporter.sources.gpu.simulation.cards import CARDS
from exporter.sources.gpu.simulation.source import SimulatedGpus
from tests.paths import ROOT
from tests.sources.gpu.profile_readings import profile_readings

JOINS = ROOT / "exporter" / "joins"
PACKAGE = ROOT / "exporter" / "sources" / "gpu"
PRODUCERS = (*sorted((PACKAGE / "nvml").glob("*.py")), PACKAGE / "device.py")
SIMULATION = PACKAGE / "simulation"


def literals(source: str) -> set[str]:
    """Returns the string constants, without the fixed parts of f-strings."""
    tree = ast.parse(source)
    parts = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for value in node.values
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
    }


def literals_of(paths: Iterable[Path]) -> set[str]:
    return set().union(*(literals(path.read_text()) for path in paths))


def declared(row: type) -> set[str]:
    """Returns the keys that the declarations of a row type read."""
    keys = {getattr(metric.get, "key", None) for metric in METRICS if metric.row is row}
    return {key for key in keys if key is not None}


def joined() -> set[str]:
    """Returns the keys that the joins read: `row.values.get("…")`."""
    return {
        node.args[0].value
        for path in JOINS.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and isinstance(node.func.value, ast.Attribute)
        and node.func.value.attr == "values"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def produced(readings: Iterable[Reading], row_type: type[GpuRow | MigRow]) -> set[str]:
    """Returns the keys of all rows of a type."""
    keys: set[str] = set()
    for reading in readings:
        for row in reading.rows:
            if isinstance(row, row_type):
                keys |= row.values.keys()
                keys |= getattr(row, "labelled", {}).keys()
    return keys


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> list[Reading]:
    return list(profile_readings(tmp_path_factory.mktemp("profiles")).values())


def test_the_search_finds_whole_keys_only() -> None:
    assert literals('a["energy"]; f("power", key="fan"); x = {"clock": 1}') == {
        "energy",
        "power",
        "fan",
        "clock",
    }
    assert "memory_used" not in literals('f"{part}_used"; "memory_" "free"; "memory" + "_used"')
    assert "power" not in literals('f"power{number}"')
    assert {"energy", "mig_mode"} <= joined(), "the keys of the joins are found"
    assert len(declared(GpuRow)) > 70
    assert len(declared(MigRow)) > 10


def test_every_key_that_is_read_is_a_literal_at_its_producer() -> None:
    computed = (declared(GpuRow) | declared(MigRow) | joined()) - literals_of(PRODUCERS)
    assert not computed


@pytest.mark.skipif(
    not hasattr(pynvml, "nvmlDeviceGetMarginTemperature"), reason="an old release of pynvml"
)
def test_keys_read_and_produced_are_the_same(readings: list[Reading]) -> None:
    whole_gpu = produced(readings, GpuRow)
    assert whole_gpu - joined() == declared(GpuRow) - joined()
    assert joined() <= whole_gpu | produced(readings, MigRow)
    assert produced(readings, MigRow) == declared(MigRow)


def test_every_key_that_is_produced_is_a_literal(readings: list[Reading]) -> None:
    keys = produced(readings, GpuRow) | produced(readings, MigRow)
    computed = keys - literals_of(PRODUCERS)
    assert not computed


def test_every_simulated_key_is_a_literal_and_read() -> None:
    gpus = SimulatedGpus(",".join(CARDS))
    rows = [gpu.row(now) for gpu in gpus._gpus for now in (0.0, 3600.0)]
    keys = produced([Reading((row,)) for row in rows], GpuRow)
    captured: set[str] = set()
    for column in card_values.columns().values():
        values = card_values.card_values(column)
        captured |= values.scalars.keys() | values.labelled.keys()
    assert keys & captured, "some values are captured"
    assert keys - captured, "some values are invented"
    unread = (keys | captured) - declared(GpuRow)
    assert not unread
    computed = captured - literals_of([SIMULATION / "card_values.py"])
    computed |= keys - captured - literals_of([SIMULATION / "source.py"])
    assert not computed
