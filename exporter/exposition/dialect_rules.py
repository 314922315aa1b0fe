"""Dialect rules: families derived from native metrics, and labels added to native series.

Both can join the labels of an `_info` metric of the same source (a GPU's model, a container's id)
on the labels it shares with the sample, as `group_left` does in PromQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.model import LabelPairs, Type

LabelMap = Mapping[str, str]


MappedSamples = Iterable[tuple[dict[str, str], Any]]
"""Samples of a native metric: the mapped labels, and the native value."""
GatherSamples = Callable[..., Iterable[tuple[LabelPairs, Any]]]
"""Takes the MappedSamples of each native metric of a rule; returns the family's samples."""


@dataclass(frozen=True, slots=True)
class FamilyRule:
    """A family derived from the samples of a native metric. Rules of the same name form one family.

    source_metric: name of the native metric. map_labels: takes a sample's labels and those of its
    info metric (empty without a match), returns the foreign labels in the order of the page, or
    None to leave the sample out. convert: takes the native value, returns the foreign value or
    None to leave the sample out. info_metric: name of the info metric; join_labels: the labels to
    join it on. unless_metrics: names of native metrics; samples that match a series of one of them
    are left out. gather: in place of `convert`, called once for each target, returns the function
    that makes the family's samples from those of source_metric and of each of added_metrics.
    added_labels: returns labels that another source knows, by the values of added_join_labels; they
    follow the others. The same object while unchanged. extends: whether the family is a native
    metric, to which the rule adds series. dialect: its name.
    """

    name: str
    type: Type
    help: str
    source_metric: str
    map_labels: Callable[[LabelMap, LabelMap], LabelPairs | None]
    convert: Callable[[Any], Any]
    info_metric: str = ""
    join_labels: tuple[str, ...] = ()
    unless_metrics: tuple[str, ...] = ()
    gather: Callable[[], GatherSamples] | None = None
    added_metrics: tuple[str, ...] = ()
    added_labels: Callable[[], Mapping[Any, Iterable[tuple[str, str]]]] | None = None
    added_join_labels: tuple[str, ...] = ()
    extends: bool = False
    dialect: str = ""

    @property
    def family(self) -> str:
        """The name of the family in OpenMetrics."""
        return self.name.removesuffix("_total") if self.type is Type.COUNTER else self.name

    unit = ""


@dataclass(frozen=True, slots=True)
class LabelRule:
    """Labels added to the series of a native metric; fields as in FamilyRule."""

    source_metric: str
    map_labels: Callable[[LabelMap, LabelMap], LabelPairs]
    info_metric: str = ""
    join_labels: tuple[str, ...] = ()
