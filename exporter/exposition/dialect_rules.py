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


GatherSamples = Callable[[Iterable[tuple[dict[str, str], Any]]], Iterable[tuple[LabelPairs, Any]]]


@dataclass(frozen=True, slots=True)
class FamilyRule:
    """A family derived from the samples of a native metric. Rules of the same name form one family.

    source_metric: name of the native metric. map_labels: takes a sample's labels and those of its
    info metric (empty without a match), returns the foreign labels in the order of the page, or
    None to leave the sample out. convert: takes the native value, returns the foreign value or
    None to leave the sample out. info_metric: name of the info metric; join_labels: the labels to
    join it on. unless_info_metric: name of an info metric; samples that match a series of it are
    left out. gather: in place of `convert`, takes all mapped samples and returns the family's.
    """

    name: str
    type: Type
    help: str
    source_metric: str
    map_labels: Callable[[LabelMap, LabelMap], LabelPairs | None]
    convert: Callable[[Any], Any]
    info_metric: str = ""
    join_labels: tuple[str, ...] = ()
    unless_info_metric: str = ""
    gather: GatherSamples | None = None

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
