"""prometheus/rules/drift.yml through promtool: the values, and no false alarm without drift."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.reference_builder import main
from exporter.sources.predictions.reference_file import ReferenceFile
from tests.paths import ROOT
from tests.prometheus import RARE_COLLECTIONS, promtools
from tests.sources.predictions import distances
from tests.yaml_files import rule_groups

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

RULES = ROOT / "prometheus" / "rules"
BOUNDS = tuple(step / 2 for step in range(21))
Counts = Sequence[float]
# The histogram of 2,000 predictions of a reference, and that of a window whose values are higher
# and wider: counts of the buckets up to 0, 0.5, …, 10, and above. No difference changes its sign
# within a bucket, so that the trapezoidal rule is exact.
BEFORE = (0, 0, 0, 0, 4, 16, 40, 90, 150, 240, 330, 360, 310, 220, 130, 70, 30, 8, 2, 0, 0, 0)
SHIFTED = (0, 0, 0, 0, 0, 6, 18, 42, 90, 150, 210, 270, 300, 300, 240, 168, 114, 60, 24, 6, 2, 0)


def histogram(counts: Counts) -> list[tuple[str, float]]:
    """Returns the cumulative counts by the text of their bound."""
    bounds = [*map(str, BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(counts)), strict=True))


def series(name: str, value: float | str, **labels: str) -> dict[str, str]:
    pairs = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return {"series": f"{name}{{{pairs}}}", "values": str(value)}


def window_series(
    model: str, counts: Counts, then: str = "", **labels: str
) -> list[dict[str, str]]:
    return [
        series(
            "model:predictions_bucket:increase",
            f"{value}{then}",
            **{"model": model, "window": "1h", "le": bound} | labels,
        )
        for bound, value in histogram(counts)
    ]


def reference_series(model: str, counts: Counts, then: str = "") -> list[dict[str, str]]:
    """Returns what the exporter exposes of a reference file."""
    cumulative = tuple(map(float, accumulate(counts)))
    row = ReferenceFile("", BOUNDS, cumulative[:-1], cumulative[-1]).row(model)
    found = [
        series("model_prediction_reference_bucket", f"{value}{then}", model=model, le=bound)
        for bound, value in histogram(counts)
    ]
    return found + [
        series(
            "model_prediction_reference_width", f"{width}{then}", model=model, lower=low, upper=up
        )
        for low, up, width in row.widths
    ]


def shares(counts: Counts) -> list[float]:
    return [count / sum(counts) for count in counts]


def check(
    folder: Path,
    inputs: Iterable[dict[str, str]],
    expected: list[dict[str, Any]],
    *,
    interval: str = "1d",
    rules: Sequence[str] = ("drift.yml",),
    groups: Sequence[str] = ("inference-drift",),
) -> None:
    """Fails if a query has another result than expected. groups: in the order of evaluation."""
    test = {
        "rule_files": [str(RULES / rule) for rule in rules],
        "group_eval_order": [*groups],
        "evaluation_interval": interval,
        "tests": [{"interval": interval, "input_series": [*inputs], "promql_expr_test": expected}],
    }
    file = folder / "test.yml"
    file.write_text(yaml.dump(test, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    for promtool in promtools():
        done = subprocess.run(
            [promtool, "test", "rules", file],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=RARE_COLLECTIONS,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def near(expr: str, value: float, time: str = "0", tolerance: float = 1e-6) -> dict[str, Any]:
    """Expects one series near the value: promtool compares exactly."""
    return {
        "expr": f"abs(({expr}) - {value!r}) < bool {tolerance!r}",
        "eval_time": time,
        "exp_samples": [{"labels": "{" + LABELS + "}", "value": 1}],
    }


def drift(distance: str, baseline: str) -> str:
    return f'model:prediction_drift:{distance}{{baseline="{baseline}",window="1h"}}'


LABELS = 'model="wine",window="1h",baseline="reference"'


def alert_expression() -> str:
    groups = rule_groups(RULES / "alerts.yml")
    (expr,) = (
        rule["expr"]
        for group in groups
        for rule in group["rules"]
        if rule["alert"] == "PredictionDrift"
    )
    return str(expr)


def test_a_known_shift_has_the_distances_computed_by_hand(tmp_path: Path) -> None:
    now, before = shares(SHIFTED), shares(BEFORE)
    # Known beforehand, so that the oracle is checked, too.
    assert distances.psi([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.274653, abs=1e-6)
    assert distances.ks([0.5, 0.5, 0], [0.1, 0.5, 0.4]) == pytest.approx(0.4)
    assert distances.js([1, 0], [0, 1]) == 1
    assert distances.wasserstein([0, 1, 0], [0, 0, 1], (0, 2)) == pytest.approx(1)
    n, m = sum(SHIFTED), sum(BEFORE)
    check(
        tmp_path,
        [*window_series("wine", SHIFTED), *reference_series("wine", BEFORE)],
        [
            near(drift("psi", "reference"), distances.psi(now, before)),
            near(drift("ks", "reference"), distances.ks(now, before)),
            near(drift("js", "reference"), distances.js(now, before)),
            near(
                drift("wasserstein", "reference"),
                distances.wasserstein(now, before, BOUNDS),
                tolerance=1e-5,
            ),
            near(drift("ks_noise", "reference"), 1.949 * (1 / n + 1 / m) ** 0.5),
            # The 0.1 % point of chi-squared with 21 degrees of freedom, from a table.
            near(
                drift("psi_noise", "reference"),
                46.797 * (1 / n + 1 / m),
                tolerance=46.797 * (1 / n + 1 / m) / 200,
            ),
            {
                "expr": f"count by (model, window, baseline) ({alert_expression()})",
                "eval_time": "0",
                "exp_samples": [{"labels": "{" + LABELS + "}", "value": 1}],
            },
        ],
    )


def drawn(choice: random.Random, count: int) -> list[int]:
    """Returns the histogram of this many draws of the reference's own distribution."""
    counts = [0] * len(BEFORE)
    for bucket in choice.choices(range(len(BEFORE)), BEFORE, k=count):
        counts[bucket] += 1
    return counts


def test_no_false_alarm_in_1000_windows_without_drift(tmp_path: Path) -> None:
    """20 models of 50 windows each, at successive minutes: 1,000 predictions, of 5,000 before."""
    choice = random.Random(23)  # noqa: S311 - the same windows in every run
    significance = 1.358 * (1 / 1000 + 1 / 5000) ** 0.5
    inputs: list[dict[str, str]] = []
    significant = 0
    for number in range(20):
        model = f"m{number}"
        before = drawn(choice, 5000)
        windows = [drawn(choice, 1000) for _ in range(50)]
        significant += sum(
            distances.ks(shares(now), shares(before)) > significance for now in windows
        )
        # The last window has drifted: the same expression alarms.
        cumulative = zip(*(accumulate(now) for now in (*windows, SHIFTED)), strict=True)
        inputs += [
            window | {"values": " ".join(map(str, values))}
            for window, values in zip(window_series(model, before), cumulative, strict=True)
        ]
        inputs += reference_series(model, before, "x50")
    assert significant, "a test of significance at 5 % alarms without drift"
    alarms = {"record": "alarm", "expr": f"count({alert_expression()}) or vector(0)"}
    extra = tmp_path / "alarms.yml"
    extra.write_text(yaml.safe_dump({"groups": [{"name": "alarms", "rules": [alarms]}]}))
    check(
        tmp_path,
        inputs,
        [
            {"expr": expr, "eval_time": time, "exp_samples": [{"labels": "{}", "value": value}]}
            for expr, time, value in (
                ("sum_over_time(alarm[49m1s])", "49m", 0),
                ("sum_over_time(alarm[50m])", "50m", 20),
                ("sum(count_over_time(model:prediction_drift:psi[49m1s]))", "49m", 1000),
            )
        ],
        interval="1m",
        rules=("drift.yml", str(extra)),
        groups=("inference-drift", "alarms"),
    )


def test_significance_alone_and_samples_alone_are_no_drift(tmp_path: Path) -> None:
    # A million predictions: significant, and too small to matter.
    huge = [500 * count for count in BEFORE]
    moved = [*huge[:10], huge[10] - 6000, huge[11] + 6000, *huge[12:]]
    # Too few: the distance of samples alone is above the limit of PSI.
    few = (0, 0, 0, 0, 0, 0, 2, 0, 0, 5, 1, 9, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0)
    inputs = [
        *(*window_series("huge", moved), *reference_series("huge", huge)),
        *(*window_series("few", few), *reference_series("few", BEFORE)),
    ]
    significant = "model:prediction_drift:ks > model:prediction_drift:ks_noise"
    check(
        tmp_path,
        inputs,
        [
            {
                "expr": expr,
                "eval_time": "0",
                "exp_samples": [{"labels": f'{{model="{model}"}}', "value": 1}] if model else [],
            }
            for expr, model in (
                (alert_expression(), ""),
                ("count by (model) (model:prediction_drift:psi > 0.2)", "few"),
                (f"count by (model) ({significant})", "huge"),
            )
        ],
    )


def test_last_week_is_a_baseline(tmp_path: Path) -> None:
    """The window changes after the seventh day; a reference gives the widths, as always."""
    before = [2 * count for count in BEFORE]
    later = [
        window | {"values": f"{a}x7 {b}x7"}
        for window, (_, a), (_, b) in zip(
            window_series("wine", before), histogram(before), histogram(SHIFTED), strict=True
        )
    ]
    now, then = shares(SHIFTED), shares(before)
    labels = LABELS.replace("reference", "last_week")
    expected = [
        near(drift("psi", "last_week"), distances.psi(now, then), "8d"),
        near(drift("ks", "last_week"), distances.ks(now, then), "8d"),
        near(
            drift("wasserstein", "last_week"), distances.wasserstein(now, then, BOUNDS), "8d", 1e-5
        ),
        near('model:predictions:count{baseline="last_week"}', 4000.0, "8d"),
        near(drift("psi", "last_week"), 0.0, "7d"),
    ]
    for check_ in expected:
        check_["exp_samples"][0]["labels"] = "{" + labels + "}"
    none = {"expr": drift("psi", "last_week"), "eval_time": "6d", "exp_samples": []}
    check(tmp_path, [*later, *reference_series("wine", BEFORE, "x14")], [*expected, none])


def test_unmatched_bounds_have_no_distance(tmp_path: Path) -> None:
    """le="1" beside "1.0": only +Inf is common, and every distance would be 0: no drift."""
    go = [
        each | {"series": each["series"].replace('.0"', '"')}
        for each in window_series("go", SHIFTED)
    ]
    # One bound is missing.
    lacking = [
        each for each in window_series("lacking", SHIFTED) if 'le="5.0"' not in each["series"]
    ]
    check(
        tmp_path,
        [
            *go,
            *lacking,
            *window_series("wine", BEFORE),
            *(
                each
                for name in ("go", "lacking", "wine")
                for each in reference_series(name, BEFORE)
            ),
        ],
        [
            {
                "expr": "model:predictions_bucket:unmatched",
                "eval_time": "0",
                "exp_samples": [
                    {
                        "labels": "model:predictions_bucket:unmatched"
                        f'{{model="{model}",window="1h",baseline="reference"}}',
                        "value": bounds,
                    }
                    # 0 to 10 without halves, on both sides.
                    for model, bounds in (("go", 22), ("lacking", 1), ("wine", 0))
                ],
            },
            *(
                {
                    "expr": f"count by (model) (model:prediction_drift:{distance})",
                    "eval_time": "0",
                    "exp_samples": [{"labels": '{model="wine"}', "value": 1}],
                }
                for distance in ("psi", "ks", "js", "wasserstein", "ks_noise", "psi_noise")
            ),
        ],
    )


def test_categories_have_distances_too(tmp_path: Path) -> None:
    """A new category and one that vanished count as 0 on the other side."""
    now = {"red": 600, "white": 300, "sparkling": 100}
    before = {"red": 1000, "white": 900, "rose": 100}
    names = sorted({*now, *before})
    p = [now.get(name, 0) / 1000 for name in names]
    q = [before.get(name, 0) / 2000 for name in names]
    inputs = [
        series("model:predictions_by_label:increase", f"{n}x14", model="wine", window="1h", label=k)
        for k, n in now.items()
    ] + [
        series("model_prediction_reference_labels", f"{n}x14", model="wine", label=k)
        for k, n in before.items()
    ]
    check(
        tmp_path,
        inputs,
        [
            near(drift("psi", "reference"), distances.psi(p, q)),
            near(drift("js", "reference"), distances.js(p, q)),
            # The 0.1 % point of chi-squared with 3 degrees of freedom, from a table.
            near(drift("psi_noise", "reference"), 16.266 * (1 / 1000 + 1 / 2000), "0", 5e-4),
            {"expr": drift("ks", "reference"), "eval_time": "0", "exp_samples": []},
            {
                "expr": f"count({alert_expression()})",
                "eval_time": "0",
                "exp_samples": [{"labels": "{}", "value": 1}],
            },
            {
                "expr": drift("psi", "last_week"),
                "eval_time": "8d",
                "exp_samples": [
                    {
                        "labels": "model:prediction_drift:psi{"
                        + LABELS.replace("reference", "last_week")
                        + "}",
                        "value": 0,
                    }
                ],
            },
        ],
    )


def test_the_written_rules_record_any_histogram(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two replicas, one of which writes the bounds as Go does; another model is left out."""
    assert main(("wine", "--rules", "--metric", "output", "--match", "model=wine")) == 0
    written = tmp_path / "wine.yml"
    written.write_text(capsys.readouterr().out)
    inputs = []
    for instance, counts in (("a", SHIFTED), ("b", BEFORE)):
        for bound, value in histogram(counts):
            le = bound.removesuffix(".0") if instance == "b" else bound
            for model, factor in (("wine", 1), ("other", 5)):
                labels = {"instance": instance, "model": model, "le": le}
                inputs.append(series("output_bucket", f"0+{factor * value}x90", **labels))
    inputs += reference_series("wine", BEFORE, "x90")
    both = [now + before for now, before in zip(SHIFTED, BEFORE, strict=True)]
    now, before = shares(both), shares(BEFORE)
    check(
        tmp_path,
        inputs,
        [
            # In 60 minutes.
            {
                "expr": 'round(model:predictions:count{baseline="",window="1h"})',
                "eval_time": "80m",
                "exp_samples": [{"labels": '{model="wine",window="1h"}', "value": 60 * sum(both)}],
            },
            near(drift("psi", "reference"), distances.psi(now, before), "80m"),
            near(drift("ks", "reference"), distances.ks(now, before), "80m"),
            near(
                drift("wasserstein", "reference"),
                distances.wasserstein(now, before, BOUNDS),
                "80m",
                1e-5,
            ),
        ],
        interval="1m",
        rules=(str(written), "drift.yml"),
    )
