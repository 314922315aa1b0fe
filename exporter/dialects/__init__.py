"""Dialects: the metrics under the names of dcgm-exporter, cAdvisor and Triton's metrics port.

A dialect is a table with one line per family: native metric, foreign name, its labels, unit and
type. It reads nothing itself: its families are rendered together with the native metrics, from
the same values.

Family names are unique: a native metric wins over a dialect's family, and of two dialects the
first in the settings wins; the other family is left out completely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from exporter.exposition.dialect_rules import FamilyRule, LabelRule
from exporter.model import Metric

if TYPE_CHECKING:
    from exporter.dialects.dcgm import PodTable


@dataclass(frozen=True, slots=True)
class ActiveDialects:
    """The rules of the dialects in the settings.

    name_conflicts: families left out because their name is taken.
    """

    family_rules: tuple[FamilyRule, ...] = ()
    label_rules: tuple[LabelRule, ...] = ()
    name_conflicts: tuple[str, ...] = ()

    @property
    def shared_names(self) -> dict[str, frozenset[str]]:
        """By dialect, the native metrics that have its names."""
        names = frozenset(rule.source_metric for rule in self.label_rules)
        return {"cadvisor": names} if names else {}

    @property
    def names(self) -> frozenset[str]:
        """The names of the families that only dialects have."""
        return frozenset(rule.name for rule in self.family_rules if not rule.extends)

    def families(self, metrics: Iterable[Metric[Any]]) -> tuple[FamilyRule, ...]:
        """Returns the new families derived from these metrics, each name once, in table order."""
        names = {metric.name for metric in metrics}
        rules: dict[str, FamilyRule] = {}
        for rule in self.family_rules:
            if rule.source_metric in names and not rule.extends:
                rules.setdefault(rule.name, rule)
        return tuple(rules.values())

    def extend(self, metrics: Iterable[Metric[Any]], others: Iterable[Metric[Any]]) -> bool:
        """Returns whether some of `others` add series to one of `metrics`."""
        names = {metric.name for metric in metrics}
        sources = {metric.name for metric in others}
        return any(
            rule.extends and rule.name in names and rule.source_metric in sources
            for rule in self.family_rules
        )


NAMES = ("dcgm", "cadvisor", "triton")


@dataclass(frozen=True, slots=True)
class DialectOptions:
    """The settings of the dialects.

    host: the name of the host. machine_labels: cAdvisor's labels of it. dcgm_host_label: dcgm's
    label of its name; `auto` for that of the version, empty for none. dcgm_versions: whose names
    are exported, None for all. dcgm_pods: returns dcgm's labels of pods; None for none.
    """

    host: str = ""
    machine_labels: tuple[tuple[str, str], ...] = ()
    dcgm_host_label: str = "auto"
    dcgm_versions: tuple[str, ...] | None = None
    dcgm_pods: Callable[[], PodTable] | None = None


def active_dialects(
    dialects: Iterable[str],
    native: Iterable[Metric[Any]],
    options: DialectOptions = DialectOptions(),
) -> ActiveDialects:
    """Returns the rules of the dialects."""
    if not (names := tuple(dict.fromkeys(dialects))):
        return ActiveDialects()
    from exporter.dialects import cadvisor, dcgm, triton  # noqa: PLC0415 - their tables, not in memory without a dialect

    tables: dict[str, Callable[[], tuple[FamilyRule, ...]]] = {
        "dcgm": lambda: dcgm.families(
            options.dcgm_host_label,
            options.host,
            dcgm.BOTH if options.dcgm_versions is None else options.dcgm_versions,
            options.dcgm_pods,
        ),
        "cadvisor": lambda: cadvisor.families(options.machine_labels),
        "triton": lambda: triton.FAMILIES,
    }
    owners = {name: "native" for metric in native for name in (metric.name, metric.family)}
    family_rules: list[FamilyRule] = []
    name_conflicts: list[str] = []
    for name in names:
        for rule in tables[name]():
            if rule.extends or owners.setdefault(rule.name, name) == name:
                family_rules.append(replace(rule, dialect=name))
            elif rule.name not in name_conflicts:
                name_conflicts.append(rule.name)
    label_rules = cadvisor.LABEL_RULES if "cadvisor" in names else ()
    return ActiveDialects(tuple(family_rules), label_rules, tuple(name_conflicts))
