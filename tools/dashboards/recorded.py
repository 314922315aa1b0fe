"""Metrics that no metrics.py declares: of the recording rules, and of other servers' pages."""

from __future__ import annotations

from dataclasses import dataclass

_HOST = ("job", "instance")
_DRIFT = ("model", "window", "baseline")


@dataclass(frozen=True, slots=True)
class RecordedMetric:
    """A series of prometheus/rules that a dashboard uses. unit: Grafana's."""

    help: str
    labels: tuple[str, ...]
    unit: str = ""


RECORDED = {
    "model:predictions_bucket:increase": RecordedMetric(
        "Predictions of a window by bucket, cumulative, over all replicas.",
        ("model", "window", "le"),
    ),
    "model:predictions:count": RecordedMetric(
        "Predictions of a window, or of its baseline.", _DRIFT, "none"
    ),
    "model:predictions:share": RecordedMetric(
        "Share of the predictions by bucket or category.", (*_DRIFT, "le", "label"), "percentunit"
    ),
    "model:predictions_bucket:unmatched": RecordedMetric(
        "Bounds that only the window or only its baseline has.", _DRIFT, "none"
    ),
    "model:prediction_drift:psi": RecordedMetric(
        "Population stability index of a window and its baseline.", _DRIFT, "none"
    ),
    "model:prediction_drift:psi_noise": RecordedMetric(
        "What the samples alone give, in one window of 1,000.", _DRIFT, "none"
    ),
    "model:prediction_drift:ks": RecordedMetric(
        "Kolmogorov-Smirnov distance at the bounds of the buckets.", _DRIFT, "percentunit"
    ),
    "model:prediction_drift:ks_noise": RecordedMetric(
        "What the samples alone give, in one window of 1,000.", _DRIFT, "percentunit"
    ),
    "model:prediction_drift:js": RecordedMetric(
        "Jensen-Shannon distance, base 2.", _DRIFT, "percentunit"
    ),
    "model:prediction_drift:js_noise": RecordedMetric(
        "What the samples alone give, in one window of 1,000.", _DRIFT, "percentunit"
    ),
    "model:prediction_drift:wasserstein": RecordedMetric(
        "Wasserstein distance, in the unit of the predictions.", _DRIFT, "none"
    ),
    "model:prediction_drift:wasserstein_noise": RecordedMetric(
        "What the samples alone give, in one window of 1,000.", _DRIFT, "none"
    ),
    "model:accuracy:ratio1d": RecordedMetric(
        "Share of right predictions among those with a known truth.", ("model",), "percentunit"
    ),
    "model:accuracy_by_delay:ratio1d": RecordedMetric(
        "The same by the delay of the truth.", ("model", "delay"), "percentunit"
    ),
    "model:precision:ratio1d": RecordedMetric(
        "Share of right ones among the predictions of a class.", ("model", "class"), "percentunit"
    ),
    "model:recall:ratio1d": RecordedMetric(
        "Share of a class that was predicted as such.", ("model", "class"), "percentunit"
    ),
    "model:absolute_error:mean1d": RecordedMetric(
        "Mean absolute error, in the unit of the predictions.", ("model",), "none"
    ),
    "model:truth_coverage:ratio1d": RecordedMetric(
        "Share of the predictions whose truth is known.", ("model",), "percentunit"
    ),
    "model_feature:missing_per_values:ratio1h": RecordedMetric(
        "Share of values that are missing.", ("model", "feature"), "percentunit"
    ),
    "model_feature:out_of_range_per_values:ratio1h": RecordedMetric(
        "Share of values out of the declared range.", ("model", "feature"), "percentunit"
    ),
    "model_feature:value:mean1h": RecordedMetric(
        "Mean of the values in range.", ("model", "feature"), "none"
    ),
    "upstream:http_requests_by_code:rate5m": RecordedMetric(
        "Requests per second by status.", (*_HOST, "upstream", "code"), "reqps"
    ),
    "upstream:http_requests_ok_per_requests:ratio_rate5m": RecordedMetric(
        "Share of requests with a status of 2xx or 3xx.", (*_HOST, "upstream"), "percentunit"
    ),
    "upstream:http_requests_client_errors_per_requests:ratio_rate5m": RecordedMetric(
        "Share of requests with a status of 4xx.", (*_HOST, "upstream"), "percentunit"
    ),
    "upstream:http_request_size_bytes:mean5m": RecordedMetric(
        "Mean size of a request's body.", (*_HOST, "upstream"), "bytes"
    ),
    "upstream:http_response_size_bytes:mean5m": RecordedMetric(
        "Mean size of a response's body.", (*_HOST, "upstream"), "bytes"
    ),
}

_UPSTREAM = (*_HOST, "upstream")
_ENVOY = (*_UPSTREAM, "envoy_cluster_name")
_CADDY = (*_UPSTREAM, "code", "handler", "method", "server")
_SIZES = tuple(
    f"http_{message}_size_bytes_{part}"
    for message in ("request", "response")
    for part in ("sum", "count")
)
_FEATURE = (*_HOST, "model", "feature")

OTHER_SERVERS: dict[str, tuple[str, ...]] = {
    "model:predictions_bucket:increase": ("model", "window", "le"),
    "model:predictions_by_label:increase": ("model", "window", "label"),
    "model_predictions_total": (*_HOST, "model"),
    "model_outcomes_total": (*_HOST, "model", "predicted", "actual", "correct", "delay"),
    "model_absolute_error_sum": (*_HOST, "model"),
    "model_absolute_error_count": (*_HOST, "model"),
    "model_feature_values_total": _FEATURE,
    "model_feature_missing_total": _FEATURE,
    "model_feature_out_of_range_total": _FEATURE,
    "model_feature_above_low_sum": _FEATURE,
    "model_feature_above_low_count": _FEATURE,
    "model_feature_low": _FEATURE,
    "envoy_cluster_upstream_rq": (*_ENVOY, "envoy_response_code"),
    **dict.fromkeys(
        (
            f"envoy_cluster_upstream_{message}_body_size_{part}"
            for message in ("rq", "rs")
            for part in ("sum", "count")
        ),
        _ENVOY,
    ),
    "caddy_http_request_duration_seconds_count": _CADDY,
    **dict.fromkeys((f"caddy_{name}" for name in _SIZES), _CADDY),
    "http_requests_total": (*_UPSTREAM, "handler", "method", "status"),
    **dict.fromkeys(_SIZES, (*_UPSTREAM, "handler", "method")),
    "nginx_http_requests_total": (*_UPSTREAM, "code", "prog"),
    **dict.fromkeys((f"nginx_{name}" for name in _SIZES), (*_UPSTREAM, "prog")),
}
"""Labels of the metrics that the rules take from merged pages and from the rules of a model."""
