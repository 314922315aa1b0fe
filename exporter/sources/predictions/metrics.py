"""The metrics of reference distributions: the other half of prometheus/rules/drift.yml."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, gauges, histogram, up
from exporter.sources.predictions.reading import ReferenceRow

UP = up(
    "model_prediction_reference_up",
    "1 if the file of the model's reference distribution (--predictions.reference) was read, 0 if"
    " it is missing or invalid.",
    ("model",),
)

METRICS: tuple[Metric[Any], ...] = (
    UP,
    histogram(
        "model_prediction_reference",
        "Reference distribution of the model's predictions (bounds, buckets, count, sum of the file"
        " of --predictions.reference); constant, so no rate: the rules of drift.yml compare its"
        " shares with those of a window.",
        ReferenceRow,
        lambda row: row.histogram,
    ),
    gauges(
        "model_prediction_reference_width",
        "Width of the reference's bucket between two bounds (bounds of the file); 0 for the one"
        " above the last bound: a distance counts what is in it as if it were at that bound.",
        ReferenceRow,
        ("lower", "upper"),
        lambda row: (((lower, upper), width) for lower, upper, width in row.widths),
    ),
    gauges(
        "model_prediction_reference_labels",
        "Predictions of the reference by category (labels of the file).",
        ReferenceRow,
        ("label",),
        lambda row: (((label,), count) for label, count in row.categories),
    ),
)
