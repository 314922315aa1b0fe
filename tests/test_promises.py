"""Promised names: none vanishes or changes without an entry in the migration notes.

docs/stability.md is the promise, docs/metrics.json has the names of now, docs/releases/ those of
each release.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter import __version__
from exporter.config import load
from tests.paths import ROOT
from tools.promises import Change, changes, promises, text, undeprecated, unnamed
from tools.release import VERSION_FILES, release

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
STABILITY = (ROOT / "docs/stability.md").read_text()
RELEASES = {
    path.stem: json.loads(path.read_text()) for path in (ROOT / "docs/releases").glob("*.json")
}
NOW = promises()

Edit = Callable[[dict[str, Any]], Any]


def test_the_file_of_the_promised_names_is_current() -> None:
    current = (ROOT / "docs/metrics.json").read_text()
    assert current == text(NOW), "docs/metrics.json is outdated: run `make docs`"
    assert json.loads(current) == NOW


@pytest.mark.parametrize("release", RELEASES)
def test_every_change_since_a_release_is_in_the_migration_notes(release: str) -> None:
    changed = list(changes(RELEASES[release], NOW))
    assert not unnamed(changed, CHANGELOG, release), "add them to the migration notes"
    assert not undeprecated(changed, STABILITY, release, __version__)


def test_the_release_of_this_version_has_its_names() -> None:
    """A release has a file; while nothing is unreleased, the file is docs/metrics.json."""
    unreleased = CHANGELOG.split("## Unreleased")[1].split("\n## ")[0].strip()
    assert re.search(rf"^## {re.escape(__version__)} / \d{{4}}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)
    assert unreleased or RELEASES[__version__] == NOW, "copy docs/metrics.json: see CONTRIBUTING.md"


def test_the_changes_since_the_first_release_are_found() -> None:
    """The known differences of 0.1.0, so that the law is seen at work."""
    changed = list(changes(RELEASES["0.1.0"], NOW))
    assert Change("--page.dcgm-hostname", "default", "Hostname to auto") in changed
    assert Change("container_last_seen", "labels", "new pod, namespace, container") in changed
    without = CHANGELOG.replace("`container_*`", "`containers`").replace("--page.dcgm-hostname", "")
    left_out = {change.name for change in unnamed(changed, without, "0.1.0")}
    assert {"--page.dcgm-hostname", "container_memory_rss"} <= left_out


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda new: new["metrics"].pop("gpu_up"), Change("gpu_up", "removed")),
        (
            lambda new: new["dialects"].pop("triton:nv_cpu_utilization"),
            Change("nv_cpu_utilization", "removed"),
        ),
        (lambda new: new["settings"].pop("log.level"), Change("--log.level", "removed")),
        (lambda new: new["commands"].pop("once"), Change("inference-exporter once", "removed")),
        (lambda new: new["flags"].pop("--config.file"), Change("--config.file", "removed")),
        (
            lambda new: new["metrics"]["gpu_up"].update(type="counter"),
            Change("gpu_up", "type", "gauge to counter"),
        ),
        (
            lambda new: new["metrics"]["gpu_power_watts"].pop("unit"),
            Change("gpu_power_watts", "unit", "watts to none"),
        ),
        (
            lambda new: new["metrics"]["gpu_up"].update(labels=["gpu"]),
            Change("gpu_up", "labels", "without uuid"),
        ),
        (
            lambda new: new["metrics"]["gpu_up"].update(labels=["gpu", "uuid", "slot"]),
            Change("gpu_up", "labels", "new slot"),
        ),
        (
            lambda new: new["metrics"]["gpu_info"]["labels"].remove("serial"),
            Change("gpu_info", "labels", "without serial"),
        ),
        (
            lambda new: new["settings"]["gpu.interval"].update(flag="--nvidia.interval"),
            Change("--gpu.interval", "flag", "--gpu.interval to --nvidia.interval"),
        ),
        (
            lambda new: new["settings"]["gpu.interval"].update(type="number"),
            Change("--gpu.interval", "type", "duration to number"),
        ),
        (
            lambda new: new["settings"]["log.level"]["values"].remove("debug"),
            Change("--log.level", "values", "without debug"),
        ),
        (
            lambda new: new["settings"]["log.level"]["environment"].clear(),
            Change("--log.level", "environment", "without INFERENCE_EXPORTER_LOG_LEVEL"),
        ),
    ],
)
def test_a_removal_or_change_breaks_the_law(edit: Edit, expected: Change) -> None:
    new = copy.deepcopy(dict(NOW))
    edit(new)
    assert list(changes(NOW, new)) == [expected]
    notes = f"## Unreleased\n\n### Migration\n\n| `{expected.name}` | {expected.property} | |\n"
    history = "\n## 1.0.0 / 2026-11-27\n"
    assert unnamed([expected], history, "1.0.0") == [expected]
    assert unnamed([expected], notes + history, "1.0.0") == []
    assert unnamed([expected], history + notes, "1.0.0") == [expected], "a note of before"
    assert unnamed([expected], notes.replace("###", "##") + history, "1.0.0") == [expected]
    other_property = notes.replace(f"| {expected.property} |", "| HELP |")
    assert unnamed([expected], other_property + history, "1.0.0") == [expected]


@pytest.mark.parametrize(
    "edit",
    [
        lambda new: new["metrics"].update(gpu_new={"type": "gauge"}),
        lambda new: new["metrics"]["gpu_info"]["labels"].append("slot"),
        lambda new: new["metrics"]["gpu_up"].update(source="joins"),
        lambda new: new["settings"]["log.level"]["values"].append("trace"),
        lambda new: new["settings"]["log.level"]["environment"].append("LOG_LEVEL"),
    ],
)
def test_an_addition_breaks_no_promise(edit: Edit) -> None:
    new = copy.deepcopy(dict(NOW))
    edit(new)
    assert list(changes(NOW, new)) == []


def test_a_pattern_names_new_labels_only() -> None:
    row = "### Migration\n| `container_*` | labels, type, removed | |\n## 1.0.0"
    new_label = Change("container_processes", "labels", "new pod")
    assert unnamed([new_label], row, "1.0.0") == []
    assert unnamed([new_label], row.replace("container_*", "*"), "1.0.0") == [new_label]
    for change in (
        Change("container_processes", "labels", "without name"),
        Change("container_processes", "removed"),
        Change("container_processes", "type", "gauge to counter"),
    ):
        assert unnamed([change], row, "1.0.0") == [change]


def test_a_name_is_removed_after_two_minor_versions_of_deprecation() -> None:
    removed = Change("gpu_up", "removed")
    table = (
        "| Deprecated | Since | Instead |\n| --- | --- | --- |\n| `gpu_up` | 1.3.0 | `gpu_on` |\n"
    )
    assert undeprecated([removed], table, "1.4.2", "1.5.0") == []
    assert undeprecated([removed], table, "1.4.2", "1.4.3") == [removed]
    assert undeprecated([removed], "", "1.4.2", "1.5.0") == [removed]
    assert undeprecated([removed], "", "1.4.2", "2.0.0") == [], "another major version"
    assert undeprecated([Change("gpu_up", "default", "1 to 2")], "", "1.4.2", "1.4.3") == []


@pytest.mark.parametrize("release", RELEASES)
def test_the_settings_of_a_release_are_accepted(release: str, tmp_path: Path) -> None:
    """As an upgrade reads them: a file, an environment or flags with all settings of a release."""
    known = RELEASES[release]["settings"]
    count = 0
    for position in (0, -1):
        values = {
            key: entry.get("values", [entry["default"]])[position]
            for key, entry in known.items()
            if entry["default"] != "none" or "values" in entry
        }
        lists = {
            key: value.split(",") if known[key]["type"].startswith("list") else [value]
            for key, value in values.items()
        }
        sections: dict[str, dict[str, Any]] = {}
        for key, elements in lists.items():
            section, _, name = key.partition(".")
            is_list = known[key]["type"].startswith("list")
            sections.setdefault(section, {})[name] = elements if is_list else elements[0]
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps(sections))
        variables = {known[key]["environment"][0]: value for key, value in values.items()}
        from_file = load(str(file), {}, {})
        assert from_file == load(None, variables, {})
        assert from_file == load(None, {}, lists)
        assert from_file.log.level == values["log.level"]
        count += len(values)
    assert count > 100


def test_the_names_in_the_migration_notes_exist() -> None:
    known = {
        entry.get("flag", name.rpartition(":")[2])
        for release in (NOW, *RELEASES.values())
        for entries in release.values()
        for name, entry in entries.items()
    }
    rows = [
        line.split(" | ", 1)
        for section in CHANGELOG.split("### Migration")[1:]
        for line in section.split("\n#")[0].splitlines()
        if line.startswith("| `")
    ]
    named = {
        name
        for first, others in rows
        for name in (
            *re.findall(r"`([a-zA-Z]+(?:_[a-zA-Z]+)+)`", first),
            *re.findall(r"`(--[a-z][\w.-]+)", f"{first} {others}"),
        )
    }
    assert len(named) > 40, "the notes are found"
    missing = named - known
    assert not missing, missing


def test_a_release_sets_the_version_everywhere(tmp_path: Path) -> None:
    for name in (*VERSION_FILES, "CHANGELOG.md", "docs/metrics.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "docs/releases").mkdir()
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- x\n\n## 9.9.8 / x\n")
    release(tmp_path, __version__, "9.9.9", dt.date(2030, 1, 2))
    for name in VERSION_FILES:
        assert __version__ not in (tmp_path / name).read_text()
        assert "9.9.9" in (tmp_path / name).read_text()
    assert (tmp_path / "CHANGELOG.md").read_text() == (
        "# Changelog\n\n## Unreleased\n\n## 9.9.9 / 2030-01-02\n\n- x\n\n## 9.9.8 / x\n"
    )
    assert json.loads((tmp_path / "docs/releases/9.9.9.json").read_text()) == NOW
    with pytest.raises(ValueError, match="nothing is unreleased"):
        release(tmp_path, "9.9.9", "9.9.10", dt.date(2030, 1, 3))
    with pytest.raises(ValueError, match=r"exporter/__init__.py: has the version 1\.2\.3 0 times"):
        release(tmp_path, "1.2.3", "9.9.10", dt.date(2030, 1, 3))
    assert "9.9.9" in (tmp_path / "Dockerfile").read_text(), "nothing is changed after an error"


def test_all_files_have_the_version() -> None:
    """Files for users; a test of tests/deploy reads the wheel's."""
    for name, count in VERSION_FILES.items():
        assert (ROOT / name).read_text().count(__version__) == count, name
