"""Metric families and their HELP, TYPE and UNIT lines, in each exposition format."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from exporter.model import Type


class Format(Enum):
    """An exposition format; the value is its Content-Type.

    Names have legacy characters only, whichever escaping scheme a scraper prefers: dashboards need
    one name. A text format of version 1.0.0 must name its scheme (Prometheus' content negotiation).
    """

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"


class Family(Protocol):
    """A declared metric, or a family that a dialect derives from a metric."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str:
        """The name in OpenMetrics: without the suffix of the type."""

    @property
    def type(self) -> Type: ...
    @property
    def help(self) -> str: ...
    @property
    def unit(self) -> str: ...


def comments(family: Family, format: Format) -> bytes:
    """Returns the HELP, TYPE and (OpenMetrics) UNIT lines, as prometheus_client writes them.

    In OpenMetrics a counter without `_total`, of which dialects have many, gets type `unknown`.
    """
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    name, type_ = family.name, str(family.type)
    if format is Format.TEXT:
        type_ = "gauge" if family.type is Type.INFO else type_
        return f"# HELP {name} {text}\n# TYPE {name} {type_}\n".encode()
    text = text.replace('"', r"\"")
    if family.type is Type.COUNTER and not name.endswith("_total"):
        type_ = "unknown"
    name = family.family
    unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
    return f"# HELP {name} {text}\n# TYPE {name} {type_}\n{unit}".encode()
