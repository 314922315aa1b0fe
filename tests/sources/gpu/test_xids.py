"""The XIDs' actions: in docs/xids.md and the alerts, and the same as in the catalogue."""

from __future__ import annotations

import re

import pytest

from exporter.sources.gpu import xids
from exporter.sources.gpu.xid_counts import WATCHED_XIDS
from tests import yaml_files
from tests.paths import ROOT

ALERTS = yaml_files.load((ROOT / "prometheus/rules/alerts.yml").read_text())
RULES = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}


@pytest.mark.parametrize(
    ("xid", "action"),
    [
        (13, "restart_application"),
        (31, "restart_application"),
        (43, "ignore"),
        (45, "other_xid"),
        (48, "reset"),
        (54, "check_connection"),
        (63, "ignore"),
        (64, "reset"),
        (74, "check_connection"),
        (78, "update_driver"),
        (79, "reboot"),
        (92, "ignore"),
        (94, "restart_application"),
        (95, "reset"),
        (109, "reset"),
        (119, "reset"),
        (140, "reset"),
        (145, "check_nvlink"),
        (151, "reboot"),
        (154, "recovery_action"),
        (1, "report"),
        (9999, "report"),
    ],
)
def test_the_action_of_the_catalogue(xid: int, action: str) -> None:
    assert xids.action(xid) == action


def test_every_xid_has_one_action_and_every_action_a_remedy() -> None:
    listed = [xid for group in xids.XIDS.values() for xid in group]
    assert len(listed) == len(set(listed))
    assert xids.XIDS.keys() == xids.REMEDIES.keys()
    assert set(listed) >= set(WATCHED_XIDS)


def test_the_page_has_every_xid() -> None:
    page = (ROOT / "docs/xids.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| ([\d, ]+) \|$", page, re.MULTILINE)
    assert {name: remedy for name, remedy, _ in rows} == xids.REMEDIES
    assert {name: tuple(int(xid) for xid in numbers.split(",")) for name, _, numbers in rows} == {
        name: tuple(sorted(group)) for name, group in xids.XIDS.items()
    }


def test_the_alert_is_about_the_fatal_xids_and_has_their_action() -> None:
    rule = RULES["GpuXidCritical"]
    (pattern,) = re.findall(r'xid=~"([\d|]+)"', rule["expr"])
    assert {int(xid) for xid in pattern.split("|")} == xids.FATAL_XIDS
    template = rule["annotations"]["action"]
    branches = re.findall(r'match "([^"]+)" \$labels\.xid\s*}}(\w+)', template)
    (otherwise,) = re.findall(r"{{ else }}(\w+)", template)
    for xid in xids.FATAL_XIDS:
        matching = [action for regex, action in branches if re.search(regex, str(xid))]
        assert [*matching, otherwise][0] == xids.action(xid), xid
    assert RULES["GpuXidContained"]["annotations"]["action"] == xids.action(94)
