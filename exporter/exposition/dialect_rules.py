"""What a dialect may ask for: families derived from native ones, and labels added to those.

Both can look up the labels of an `_info` metric of the same reading (a GPU's model, a container's
id) by the labels that it shares with the sample, as `group_left` does in a query.
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
    """A family made of the samples of a native metric, under another name.

    of: the native metric. describe: takes a sample's labels and those of its info metric (empty
    where it has none), gives the foreign labels in the order of the page, or None where the
    sample has no place in this family. value: takes the native value, gives the foreign one or
    None where there is none. about: the info metric; on: the labels it is looked up by.
    unless: an info metric; samples for which it has a series are left out.
    gather: in place of `value`, makes the samples of all that `describe` gave.
    Several with one name are one family.
    """

    name: str
    type: Type
    help: str
    of: str
    describe: Callable[[LabelMap, LabelMap], LabelPairs | None]
    value: Callable[[Any], Any]
    about: str = ""
    on: tuple[str, ...] = ()
    unless: str = ""
    gather: GatherSamples | None = None

    @property
    def family(self) -> str:
        """The name of the family in OpenMetrics."""
        return self.name.removesuffix("_total") if self.type is Type.COUNTER else self.name

    unit = ""


@dataclass(frozen=True, slots=True)
class LabelRule:
    """Labels added to the very series of a native metric."""

    of: str
    describe: Callable[[LabelMap, LabelMap], LabelPairs]
    about: str = ""
    on: tuple[str, ...] = ()
