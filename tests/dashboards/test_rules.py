"""Rules and alerts: linted and tested by promtool; every alert has a test and a runbook."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import yaml_files
from tests.dashboards import relevant_rules
from tests.paths import ROOT
from tests.prometheus import PROMTOOLS, RARE_COLLECTIONS, promtool_of
from tools.dashboards.service_level import RUNBOOK_PAGES

PROMETHEUS_FOLDER = ROOT / "prometheus"
RULE_FILES = sorted((PROMETHEUS_FOLDER / "rules").glob("*.yml"))
TEST_FILES = sorted((PROMETHEUS_FOLDER / "tests").glob("*.yml"))
SCRAPE_FILES = sorted((PROMETHEUS_FOLDER / "scrape").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
RUNBOOK_URL = "https://github.com/inference-exporter/inference-exporter/blob/main/docs/runbooks/"

# Expressions over all replicas of a model.
ALL_REPLICAS = ("model:prediction", "model:accuracy")

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


Promtool = Callable[..., str]


@pytest.fixture(scope="module", params=PROMTOOLS)
def promtool(request: pytest.FixtureRequest) -> Promtool:
    """Returns a function that returns the output of one version's promtool."""
    binary = promtool_of(request.param)

    def run(*arguments: str | Path) -> str:
        """Returns the output; fails with it for a non-zero exit status."""
        process = subprocess.run(
            [binary, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
            env=RARE_COLLECTIONS,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return run


def alerts() -> list[dict[str, Any]]:
    groups = yaml_files.rule_groups(PROMETHEUS_FOLDER / "rules" / "alerts.yml")
    return [rule for group in groups for rule in group["rules"]]


def test_promtool_lints_pass(promtool: Promtool) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_promtool_unit_tests_pass(promtool: Promtool, path: Path, tmp_path: Path) -> None:
    files = list(relevant_rules.split(path, tmp_path))
    assert promtool("test", "rules", *files).count("SUCCESS") == len(files)


def test_rules_without_input_are_left_out() -> None:
    rules = [
        {"record": "a:sum", "expr": "sum(a)"},
        {"record": "b:sum", "expr": "sum(b)"},
        {"record": "b:sum", "expr": "vector(1)"},
        {"alert": "A", "expr": "a:sum > 1 and b:sum"},
        {"alert": "B", "expr": "sum(b) > 1"},
        {"alert": "C", "expr": "c:sum > 1"},
        {"alert": "D", "expr": "absent(d)"},
        {"alert": "E", "expr": '{__name__=~"e.*"} > 1'},
        {"alert": "F", "expr": 'ALERTS{alertname="A"} == 1'},
        {"record": "c:sum", "expr": "sum(c)"},
    ]

    def kept(*names: str) -> list[int]:
        return [rules.index(rule) for rule in relevant_rules.relevant(rules, {*names})]

    assert kept() == [2, 3, 6, 7, 8]
    assert kept("c") == [2, 3, 5, 6, 7, 8, 9], "by a later rule, too"
    assert kept("b") == [1, 2, 3, 4, 6, 7, 8]
    assert relevant_rules.relevant(rules, {"a", "b", "c"}) == rules


def test_every_alert_fires_stays_silent_and_resolves_in_a_test() -> None:
    fired: dict[tuple[str, str], int] = defaultdict(int)
    silent_before: set[str] = set()
    resolved: set[str] = set()
    for path in TEST_FILES:
        for test in yaml_files.load(path.read_text())["tests"]:
            seen: set[str] = set()
            for check in test.get("alert_rule_test", []):
                name = check["alertname"]
                for alert in check["exp_alerts"]:
                    fired[name, alert["exp_labels"].get("window", "")] += 1
                    fired[name, ""] += 1
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


def test_the_dashboard_links_to_the_runbook_of_every_alert() -> None:
    """By an anchor with the alert's name: PromQL cannot lower its letters for the heading's."""
    for name in {rule["alert"] for rule in alerts()}:
        (page,) = (page for page, names in RUNBOOK_PAGES.items() if re.fullmatch(names, name))
        assert f'<a id="{name}"></a>' in (RUNBOOKS / f"{page}.md").read_text()


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_annotations_and_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    annotations = rule["annotations"]
    assert set(annotations) - {"action"} == {"summary", "description", "runbook_url"}
    # Those of all replicas of a model are of no host.
    subject = "$labels.model" if rule["expr"].startswith(ALL_REPLICAS) else "$labels.instance"
    assert subject in annotations["description"]
    assert "$value" in annotations["description"] or rule["expr"].rstrip().endswith(
        ("== 0", "== 1", "[1d])")
    )
    assert annotations["summary"].endswith(".")
    assert annotations["description"].endswith(".")
    url = annotations["runbook_url"]
    assert url.startswith(RUNBOOK_URL)
    page, _, anchor = url.removeprefix(RUNBOOK_URL).partition("#")
    assert anchor == rule["alert"].lower()
    sections = sections_of(RUNBOOKS / page)
    assert rule["alert"] in sections, f"{page} has no section {rule['alert']}"


def sections_of(path: Path) -> dict[str, str]:
    """Returns the sections of a page by their second-level headings."""
    parts = re.split(r"^## (.+)$", path.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_runbook_section_is_complete_and_belongs_to_an_alert() -> None:
    names = {rule["alert"] for rule in alerts()}
    written: set[str] = set()
    for path in RUNBOOKS.glob("*.md"):
        for name, text in sections_of(path).items():
            written.add(name)
            for part in ("Meaning", "Impact", "Diagnosis", "Mitigation"):
                assert f"**{part}.**" in text, f"{path.name}: {name} has no {part}"
    assert written == names


def test_every_runbook_named_on_a_dashboard_exists() -> None:
    names = {rule["alert"] for rule in alerts()}
    total = 0
    for path in (ROOT / "grafana").glob("*.json"):
        for groups in re.findall(r"Runbooks?: (\w+)(?:, (\w+))?", path.read_text()):
            named = {name for name in groups if name}
            assert named <= names, path.name
            total += len(named)
    assert total > 20, "the pattern matches"


@pytest.mark.parametrize("path", SCRAPE_FILES, ids=lambda path: path.stem)
def test_scrape_configurations_are_valid(promtool: Promtool, path: Path, tmp_path: Path) -> None:
    if path.stem == "agent":
        promtool("check", "config", "--agent", path)
        return
    if path.stem == "kubernetes":
        path = without_kubernetes(path, tmp_path)
    promtool("check", "config", "--lint=all", "--lint-fatal", path)


def without_kubernetes(path: Path, folder: Path) -> Path:
    """Returns the configuration without service discovery, absent from Debian's Prometheus.

    Checks the discovery by the names in Prometheus' documentation.
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


def test_ratios_are_recorded_with_numerator_and_denominator() -> None:
    for path in RULE_FILES:
        for group in yaml_files.rule_groups(path):
            records = {rule.get("record", ""): rule["expr"] for rule in group["rules"]}
            for name, expr in records.items():
                if ":ratio" in name and " / " in expr:
                    numerator, _, denominator = expr.partition(" / ")
                    for part in (numerator, denominator):
                        (record,) = re.findall(r"[a-z_]+:[\w:]+", part)
                        assert record in records, f"{name}: {record} is not recorded in its group"
