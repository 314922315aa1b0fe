"""Recorded series of a model's predictions, and of a proxy, for the synthetic history.

The rules that record them have tests of their own (prometheus/tests, tests/sources/predictions);
here each has a known value, so that the panels' queries can be checked.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import accumulate

from tests.dashboards.hosts import END, ValueAt, constant, wave

DRIFTED_AT = END - 2400.0
MODEL = (("model", "wine"),)
BOUNDS = [*(str(step / 2) for step in range(21)), "+Inf"]
BEFORE = (0, 0, 0, 0, 4, 16, 40, 90, 150, 240, 330, 360, 310, 220, 130, 70, 30, 8, 2, 0, 0, 0)
SHIFTED = (0, 0, 0, 0, 0, 6, 18, 42, 90, 150, 210, 270, 300, 300, 240, 168, 114, 60, 24, 6, 2, 0)
COUNTS = {"1h": 2000.0, "1d": 48_000.0}
REFERENCE_COUNT = 5000.0
# Distances after the drift, and their noise.
DISTANCES = {"psi": 0.35, "ks": 0.2, "js": 0.18, "wasserstein": 0.7}
NOISES = {"psi": 0.03, "ks": 0.05, "js": 0.06, "wasserstein": 0.1}
CALM = 0.2
"""Share of the distances before the drift."""
OF_A_DAY = 0.5
"""The same ones of the window of a day, in which the drift is younger."""
ACCURACY, COVERAGE, ABSOLUTE_ERROR = 0.81, 0.6, 0.45
BY_DELAY = {"1h": 0.9, "1d": 0.78}
PRECISION = {"good": 0.8, "poor": 0.83}
RECALL = {"good": 0.88, "poor": 0.71}
MISSING = {"alcohol": 0.05, "ph": 0.0}
OUT_OF_RANGE = {"alcohol": 0.2, "ph": 0.01}
MEANS = {"alcohol": 11.0, "ph": 3.4}
REQUESTS = {"200": 10.0, "400": 1.0, "404": 0.5, "500": 0.5}
REQUEST_BYTES, RESPONSE_BYTES = 340.0, 180.0
Sample = tuple[str, tuple[tuple[str, str], ...], ValueAt]


def _step(before: float, after: float) -> ValueAt:
    return lambda t: before if t < DRIFTED_AT else after


def _waving(mean: float, name: str) -> ValueAt:
    phase = zlib.crc32(name.encode()) % 7
    return lambda t: mean * (1 + 0.05 * wave(t, phase))


def model_samples() -> Iterator[Sample]:
    """Yields name, labels and values of the series of the model: of all replicas, so of no host."""
    for window, count in COUNTS.items():
        of_window = (*MODEL, ("window", window))
        yield "model:predictions:count", of_window, constant(count)
        pairs = zip(BOUNDS, accumulate(BEFORE), accumulate(SHIFTED), strict=True)
        for bound, before, after in pairs:
            scale = count / sum(BEFORE)
            labels = (*of_window, ("le", bound))
            yield "model:predictions_bucket:increase", labels, _step(before * scale, after * scale)
        for baseline in ("reference", "last_week"):
            labels = (*of_window, ("baseline", baseline))
            known = REFERENCE_COUNT if baseline == "reference" else count
            yield "model:predictions:count", labels, constant(known)
            yield "model:predictions_bucket:unmatched", labels, constant(0)
            part = 1.0 if window == "1h" else OF_A_DAY
            for name, value in DISTANCES.items():
                record = f"model:prediction_drift:{name}"
                yield record, labels, _step(CALM * part * value, part * value)
                yield f"{record}_noise", labels, constant(NOISES[name])
    for name, value in (
        ("model:accuracy:ratio1d", ACCURACY),
        ("model:truth_coverage:ratio1d", COVERAGE),
        ("model:absolute_error:mean1d", ABSOLUTE_ERROR),
    ):
        yield name, MODEL, constant(value)
    for name, label, values in (
        ("model:accuracy_by_delay:ratio1d", "delay", BY_DELAY),
        ("model:precision:ratio1d", "class", PRECISION),
        ("model:recall:ratio1d", "class", RECALL),
        ("model_feature:missing_per_values:ratio1h", "feature", MISSING),
        ("model_feature:out_of_range_per_values:ratio1h", "feature", OUT_OF_RANGE),
        ("model_feature:value:mean1h", "feature", MEANS),
    ):
        for key, value in values.items():
            yield name, (*MODEL, (label, key)), constant(value)
    alert = (("alertname", "PredictionDrift"), *MODEL, ("window", "1h"), ("baseline", "reference"))
    yield "ALERTS_FOR_STATE", (*alert, ("severity", "warning")), constant(DRIFTED_AT)


def proxy_samples() -> Iterator[Sample]:
    """Yields the series of a host's merged proxy."""
    upstream = (("upstream", "triton-http"),)
    for code, rate in REQUESTS.items():
        name = "upstream:http_requests_by_code:rate5m"
        yield name, (*upstream, ("code", code)), _waving(rate, code)
    total = sum(REQUESTS.values())
    refused = REQUESTS["400"] + REQUESTS["404"]
    for name, value in (
        ("upstream:http_requests_ok_per_requests:ratio_rate5m", REQUESTS["200"] / total),
        ("upstream:http_requests_client_errors_per_requests:ratio_rate5m", refused / total),
        ("upstream:http_request_size_bytes:mean5m", REQUEST_BYTES),
        ("upstream:http_response_size_bytes:mean5m", RESPONSE_BYTES),
    ):
        yield name, upstream, constant(value)
