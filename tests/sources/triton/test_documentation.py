"""docs/triton.md: its tables are complete and agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from exporter.catalog import catalog
from exporter.sources.triton import schema
from exporter.upstream import triton
from exporter.upstream.family_rules import FamilyRules
from exporter.upstream.settings import Settings
from tests.paths import ROOT
from tests.sources.triton.model_kinds import METRIC
from tests.sources.triton.server import Model, Server

TEXT = (ROOT / "docs" / "triton.md").read_text()


def table(title: str) -> dict[str, str]:
    """Returns the second column by the first, of the table under a heading."""
    section = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    return {re.sub("`", "", left): right for left, right in rows[2:] or rows}


def fields(struct: type[msgspec.Struct], prefix: str) -> set[str]:
    return {f"{prefix}.{field.name}" for field in msgspec.structs.fields(struct)}


def test_every_statistic_has_its_row() -> None:
    known = {field.name for field in msgspec.structs.fields(schema.ModelStats)}
    known -= {"inference_stats", "batch_stats", "response_stats"}
    known |= fields(schema.Stages, "inference_stats")
    known |= fields(schema.BatchStats, "batch_stats")
    known |= fields(schema.ResponseStats, "response_stats")
    rows = {name.strip() for left in table("Every statistic") for name in left.split(",")}
    assert rows - {"Statistic", "---"} == known


def test_mentioned_metrics_exist() -> None:
    names = {metric.name for metric in catalog()}
    names |= {f"{name}{part}" for name in names for part in ("_count", "_sum")}
    for mentioned in re.findall(r"`((?:triton|upstream|gpu)_[a-z_]+)", TEXT):
        if not mentioned.endswith("_"):
            assert mentioned in names, mentioned


def test_every_triton_metric_is_mentioned() -> None:
    for metric in catalog():
        if metric.name.startswith("triton_"):
            pattern = re.sub(r"compute_(input|infer|output)", "compute_*", metric.name)
            assert f"`{metric.name}" in TEXT or f"`{pattern}" in TEXT, metric.name


def test_families_are_merged_or_dropped_as_documented() -> None:
    rules = FamilyRules(Settings(), "x", triton.BETTER_ELSEWHERE)
    rows = table("Every family of Triton's own metrics page")
    checked = 0
    for name, treatment in rows.items():
        if re.fullmatch(r"[a-z_:]+\*?", name):
            checked += 1
            assert rules.merges(name.replace("*", "any")) is treatment.startswith("merged"), name
    assert checked >= 30


@pytest.mark.real
def test_a_real_servers_families_are_all_in_the_table(tmp_path: Path) -> None:
    rows = table("Every family of Triton's own metrics page")
    models = (Model("wine", config="response_cache { enable: true }\n"), METRIC)
    arguments = ["--metrics-config=summary_latencies=true", "--cache-config=local,size=1048576"]
    with Server(tmp_path, models, arguments) as server:
        families = server.families()
    assert len(families) > 20
    assert {name for name in families if name not in rows} == {"my_responses"}
