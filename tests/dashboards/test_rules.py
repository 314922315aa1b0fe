"""Rules and alerts: linted, tested by promtool, each alert with its test and its runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.parts import missing
from tests.paths import ROOT

PROMETHEUS_FOLDER = ROOT / "prometheus"
RULE_FILES = sorted((PROMETHEUS_FOLDER / "rules").glob("*.yml"))
TEST_FILES = sorted((PROMETHEUS_FOLDER / "tests").glob("*.yml"))
SCRAPE_FILES = sorted((PROMETHEUS_FOLDER / "scrape").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
RUNBOOK_URL = "https://github.com/inference-exporter/inference-exporter/blob/main/docs/runbooks/"

pytestmark = pytest.mark.real


def promtool(*arguments: str | Path) -> str:
    """What promtool says; fails with that where it is not content."""
    binary = shutil.which("promtool") or missing("no promtool (Debian package prometheus)")
    done = subprocess.run(
        [binary, *map(str, arguments)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS_FOLDER / "rules" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_all_lints_are_content() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alert_is_seen_to_fire_to_stay_silent_and_to_resolve() -> None:
    fired: dict[tuple[str, str], int] = defaultdict(int)
    silent_before: set[str] = set()
    resolved: set[str] = set()
    for path in TEST_FILES:
        for test in yaml.safe_load(path.read_text())["tests"]:
            seen: set[str] = set()
            for check in test.get("alert_rule_test", []):
                name = check["alertname"]
                for alert in check["exp_alerts"]:
                    fired[name, alert["exp_labels"].get("window", "")] += 1
                if check["exp_alerts"]:
                    seen.add(name)
                elif name in seen:
                    resolved.add(name)
                else:
                    silent_before.add(name)
    for rule in alerts():
        name = rule["alert"]
        assert fired[name, rule["labels"].get("window", "")], f"{name} never fires in a test"
        assert name in silent_before, f"{name} is never silent beforehand"
        assert name in resolved, f"{name} never resolves"


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_and_where_and_has_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "runbook_url"}
    assert "$labels.instance" in said["description"], "which host"
    assert "$value" in said["description"] or rule["expr"].rstrip().endswith(
        ("== 0", "== 1", "[1d])")
    )
    assert said["summary"].endswith(".")
    assert said["description"].endswith(".")
    url = said["runbook_url"]
    assert url.startswith(RUNBOOK_URL)
    page, _, anchor = url.removeprefix(RUNBOOK_URL).partition("#")
    assert anchor == rule["alert"].lower()
    sections = sections_of(RUNBOOKS / page)
    assert rule["alert"] in sections, f"{page} has no section {rule['alert']}"


def sections_of(path: Path) -> dict[str, str]:
    """The sections of a page by their headings, of the second level."""
    parts = re.split(r"^## (.+)$", path.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_runbook_is_complete_and_of_an_alert() -> None:
    names = {rule["alert"] for rule in alerts()}
    written: set[str] = set()
    for path in RUNBOOKS.glob("*.md"):
        for name, text in sections_of(path).items():
            written.add(name)
            for part in ("Meaning", "Impact", "Diagnosis", "Mitigation"):
                assert f"**{part}.**" in text, f"{path.name}: {name} has no {part}"
    assert written == names


def test_every_heading_of_an_alert_is_told_on_a_dashboard_by_its_right_name() -> None:
    """Dashboards name runbooks by their alert: each of those exists."""
    names = {rule["alert"] for rule in alerts()}
    for path in (ROOT / "grafana").glob("*.json"):
        for name in re.findall(r"[Rr]unbooks? of ([A-Z]\w+)(?:, ([A-Z]\w+))?", path.read_text()):
            assert {part for part in name if part} <= names, path.name


@pytest.mark.parametrize("path", SCRAPE_FILES, ids=lambda path: path.stem)
def test_scrape_configurations_are_valid(path: Path, tmp_path: Path) -> None:
    if path.stem == "agent":
        promtool("check", "config", "--agent", path)
        return
    if path.stem == "kubernetes":
        path = without_kubernetes(path, tmp_path)
    promtool("check", "config", "--lint=all", "--lint-fatal", path)


def without_kubernetes(path: Path, folder: Path) -> Path:
    """The configuration without its discovery, which Debian's Prometheus is built without.

    The discovery itself is checked by the names that Prometheus' documentation gives.
    """
    settings = yaml.safe_load(path.read_text())
    for scrape in settings["scrape_configs"]:
        for discovery in scrape.pop("kubernetes_sd_configs"):
            assert discovery["role"] in ("node", "service", "pod", "endpoints", "endpointslice")
            assert set(discovery) <= {"role", "selectors", "namespaces"}
            for selector in discovery["selectors"]:
                assert set(selector) <= {"role", "label", "field"}
                assert selector["role"] == discovery["role"]
        for relabel in scrape["relabel_configs"]:
            for label in relabel["source_labels"]:
                assert label.startswith(("__meta_kubernetes_pod_", "__meta_kubernetes_namespace"))
    settings["rule_files"] = [str(PROMETHEUS_FOLDER / "rules" / "*.yml")]
    changed = folder / path.name
    changed.write_text(yaml.safe_dump(settings))
    return changed


def test_ratios_are_recorded_with_what_they_are_made_of() -> None:
    for path in RULE_FILES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            records = {rule.get("record", ""): rule["expr"] for rule in group["rules"]}
            for name, expr in records.items():
                if ":ratio" in name and " / " in expr:
                    top, _, below = expr.partition(" / ")
                    for part in (top, below):
                        (made,) = re.findall(r"[a-z_]+:[\w:]+", part)
                        assert made in records, f"{name}: {made} is not recorded beside it"
