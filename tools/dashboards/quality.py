"""The dashboard of a model's predictions: drift, accuracy, inputs, requests by status and size."""

from __future__ import annotations

from tools.dashboards.common import DATASOURCE_VARIABLE, HOST, INSTANCE_VARIABLE, JOB_VARIABLE
from tools.dashboards.panels import (
    Column,
    Dashboard,
    Panel,
    PanelRow,
    Query,
    Variable,
    heatmap,
    rising,
    stat,
    table,
    time_series,
)

# Of all replicas: the recording rules add them up, so these series have no instance.
MODEL = 'model="$predicted_model"'
_BY = "{{window}} {{baseline}}"
_NO_BASELINE = "No predictions, or no baseline"
_NO_TRUTH = "No truth known"
_NO_FEATURES = "No features observed"
_NO_PROXY = "No page of a proxy merged"
_RUNBOOK = "Runbooks: PredictionDrift, PredictionBucketsUnmatched."

MODEL_VARIABLE = Variable(
    "predicted_model", "Model", "label_values(model:predictions:count, model)", single=True
)


def _drift(name: str) -> str:
    return f"model:prediction_drift:{name}{{{MODEL}}}"


def _drift_panel(title: str, name: str, description: str, action: str, unit: str) -> Panel:
    """Returns a distance and its noise, by window and baseline."""
    return time_series(
        title,
        (Query(_drift(name), _BY), Query(_drift(f"{name}_noise"), f"noise {_BY}")),
        f"{description} Dashed: what the samples alone give, in one window of 1,000.",
        action,
        unit=unit,
        limit_pattern="noise .*",
        no_value=_NO_BASELINE,
        width=8,
    )


def _overview_row() -> PanelRow:
    return PanelRow(
        "Has the model drifted, since when, and did accuracy fall?",
        (
            stat(
                "Largest PSI now",
                f"max by (model) ({_drift('psi')})",
                "The largest population stability index of all windows and baselines.",
                f"Above 0.2, with 1,000 predictions: see Drift from the baselines. {_RUNBOOK}",
                thresholds=rising(0.1, 0.2),
                unit="none",
                decimals=3,
                no_value=_NO_BASELINE,
                width=5,
            ),
            stat(
                "Drift alarm since",
                "min by (alertname)"
                f' (ALERTS_FOR_STATE{{alertname="PredictionDrift",{MODEL}}} * 1000)',
                "Time since which the condition of the alert is true.",
                f"What changed then: a release, an input, the season? {_RUNBOOK}",
                unit="dateTimeFromNow",
                empty_reason="no alarm",
                no_value="No alarm",
                width=5,
            ),
            stat(
                "Accuracy, last day",
                f"model:accuracy:ratio1d{{{MODEL}}}",
                "Share of right predictions among those whose truth is known.",
                "Read it with Coverage of truths: early truths may be easier cases. Runbooks:"
                " ModelAccuracyFell.",
                decimals=1,
                unit="percentunit",
                no_value=_NO_TRUTH,
                width=5,
            ),
            stat(
                "Absolute error, last day",
                f"model:absolute_error:mean1d{{{MODEL}}}",
                "Mean absolute error of the predictions whose truth is known, in their unit.",
                "Compare with the error of the training's test data.",
                decimals=3,
                unit="none",
                no_value=_NO_TRUTH,
                width=5,
            ),
            stat(
                "Coverage of truths",
                f"model:truth_coverage:ratio1d{{{MODEL}}}",
                "Share of the predictions of the last day whose truth is known.",
                "Low: accuracy and error are those of few, perhaps of other cases than the rest.",
                decimals=1,
                unit="percentunit",
                no_value=_NO_TRUTH,
                width=4,
            ),
            time_series(
                "Drift from the baselines (PSI)",
                (Query(_drift("psi"), _BY), Query(_drift("psi_noise"), f"noise {_BY}")),
                "Population stability index of the last hour and day, against the reference and"
                " last week. Dashed: what the samples alone give, in one window of 1,000.",
                "Above 0.2 and the noise: drift. Only against the reference: slow change, or a"
                f" season; against both: a sudden change. {_RUNBOOK}",
                unit="none",
                limit_pattern="noise .*",
                no_value=_NO_BASELINE,
                width=12,
            ),
            time_series(
                "Accuracy and coverage",
                (
                    Query(f"model:accuracy:ratio1d{{{MODEL}}}", "accuracy"),
                    Query(f"model:truth_coverage:ratio1d{{{MODEL}}}", "coverage"),
                ),
                "Share of right predictions among those whose truth is known, and the share of"
                " those whose truth is known, over a day.",
                "Accuracy that falls with the coverage is a matter of the truths; alone, of the"
                " model. Runbooks: ModelAccuracyFell.",
                unit="percentunit",
                maximum=1,
                no_value=_NO_TRUTH,
                width=12,
            ),
            heatmap(
                "Predictions of the last hour",
                Query(
                    f'sum by (le) (model:predictions_bucket:increase{{{MODEL},window="1h"}})',
                    "{{le}}",
                ),
                "How often each value was predicted, by the buckets of the histogram.",
                "One value alone: a default for a missing input. All moved: the inputs or the"
                " model changed.",
                unit="none",
                no_value="No histogram of predictions",
                width=12,
            ),
            time_series(
                "Predictions in the window",
                Query(f'model:predictions:count{{{MODEL},baseline=""}}', "{{window}}"),
                "Predictions of the last hour and day, over all replicas.",
                "Below 1,000 no drift is alarmed: the distances are noise.",
                unit="none",
                no_value="No predictions",
                width=12,
            ),
        ),
    )


def _distances_row() -> PanelRow:
    key = "max by (model, window, baseline)"
    return PanelRow(
        "Which distances are above their noise?",
        (
            table(
                "Windows and baselines",
                (
                    Column("Baseline", label="baseline", width=222),
                    Column("Window", label="window", width=80),
                    Column(
                        "Its predictions",
                        f'{key} (model:predictions:count{{{MODEL},baseline!=""}})',
                        "none",
                        decimals=0,
                    ),
                    Column(
                        "PSI",
                        f"{key} ({_drift('psi')})",
                        "none",
                        decimals=3,
                        thresholds=rising(0.1, 0.2),
                    ),
                    Column("PSI noise", f"{key} ({_drift('psi_noise')})", "none", decimals=3),
                    Column("KS", f"{key} ({_drift('ks')})", "percentunit", decimals=1),
                    Column("KS noise", f"{key} ({_drift('ks_noise')})", "percentunit", decimals=1),
                    Column("JS", f"{key} ({_drift('js')})", "percentunit", decimals=1),
                    Column("Wasserstein", f"{key} ({_drift('wasserstein')})", "none", decimals=3),
                    Column(
                        "Unmatched",
                        f"{key} (model:predictions_bucket:unmatched{{{MODEL}}})",
                        "none",
                        thresholds=rising(0.5, 1),
                    ),
                ),
                "Distances of each window from each baseline, and what samples alone give.",
                "Unmatched bounds: no distance is computed; make a reference with the histogram's"
                f" bounds. {_RUNBOOK}",
                hidden_labels=("model",),
                no_value=_NO_BASELINE,
            ),
            _drift_panel(
                "Kolmogorov-Smirnov distance",
                "ks",
                "Largest difference of the cumulative shares, at the buckets' bounds: 10 % are"
                " a tenth of the predictions that moved past one value.",
                f"Large with a small PSI: a shift of all values by a little. {_RUNBOOK}",
                "percentunit",
            ),
            _drift_panel(
                "Jensen-Shannon distance",
                "js",
                "Distance from the mean of both distributions, 0 to 1, of histograms and"
                " categories.",
                f"Above 0.1 is much. {_RUNBOOK}",
                "percentunit",
            ),
            _drift_panel(
                "Wasserstein distance",
                "wasserstein",
                "How far the values moved on average, in the unit of the predictions.",
                f"Is that much for those who use the prediction? {_RUNBOOK}",
                "none",
            ),
        ),
    )


def _truth_row() -> PanelRow:
    return PanelRow(
        "Which classes are wrong, and how late is the truth?",
        (
            time_series(
                "Accuracy by delay of the truth",
                Query(f"model:accuracy_by_delay:ratio1d{{{MODEL}}}", "within {{delay}}"),
                "Share of right predictions, by the time until their truth was known.",
                "Compare equal delays: quick truths are often the easy cases. Runbooks:"
                " ModelAccuracyFell.",
                unit="percentunit",
                maximum=1,
                no_value=_NO_TRUTH,
                width=6,
            ),
            time_series(
                "Precision",
                Query(f"model:precision:ratio1d{{{MODEL}}}", "{{class}}"),
                "Share of right ones among the predictions of a class.",
                "It falls alone: the class is predicted too often. Runbooks: ModelAccuracyFell.",
                unit="percentunit",
                maximum=1,
                no_value=_NO_TRUTH,
                width=6,
            ),
            time_series(
                "Recall",
                Query(f"model:recall:ratio1d{{{MODEL}}}", "{{class}}"),
                "Share of a class that was predicted as such.",
                "It falls alone: the class is missed. Runbooks: ModelAccuracyFell.",
                unit="percentunit",
                maximum=1,
                no_value=_NO_TRUTH,
                width=6,
            ),
            time_series(
                "Mean absolute error",
                Query(f"model:absolute_error:mean1d{{{MODEL}}}", "error"),
                "Mean absolute error over a day, in the unit of the predictions.",
                "It rises: drift of the inputs, or a world that changed.",
                unit="none",
                no_value=_NO_TRUTH,
                width=6,
            ),
        ),
    )


def _features_row() -> PanelRow:
    return PanelRow(
        "Which input changed?",
        (
            time_series(
                "Features missing",
                Query(f"model_feature:missing_per_values:ratio1h{{{MODEL}}}", "{{feature}}"),
                "Share of the values that are missing or no number, over an hour.",
                "A step is a broken source of the feature.",
                unit="percentunit",
                maximum=1,
                no_value=_NO_FEATURES,
                width=8,
            ),
            time_series(
                "Features out of range",
                Query(f"model_feature:out_of_range_per_values:ratio1h{{{MODEL}}}", "{{feature}}"),
                "Share of the values that are out of the range declared in the service.",
                "A change of unit, or inputs that the model was not trained with.",
                unit="percentunit",
                maximum=1,
                no_value=_NO_FEATURES,
                width=8,
            ),
            time_series(
                "Mean of features",
                Query(f"model_feature:value:mean1h{{{MODEL}}}", "{{feature}}"),
                "Mean of the values in range, over an hour.",
                "The feature that moved with the predictions is the one to look at.",
                unit="none",
                no_value=_NO_FEATURES,
                width=8,
            ),
        ),
    )


def _requests_row() -> PanelRow:
    return PanelRow(
        "Which requests are refused, and how large are they?",
        (
            time_series(
                "Requests by status",
                Query(
                    f"sum by (upstream, code) (upstream:http_requests_by_code:rate5m{{{HOST}}})",
                    "{{code}} {{upstream}}",
                ),
                "Requests per second by HTTP status, from the merged page of a proxy or of the"
                " service.",
                "400, 404 and 422 are clients' mistakes, which a model server counts nowhere; 5xx"
                " are its own.",
                unit="reqps",
                stack=True,
                no_value=_NO_PROXY,
                width=12,
            ),
            time_series(
                "Served requests",
                (
                    Query(
                        f"upstream:http_requests_ok_per_requests:ratio_rate5m{{{HOST}}}",
                        "served {{upstream}}",
                    ),
                    Query(
                        f"upstream:http_requests_client_errors_per_requests:ratio_rate5m{{{HOST}}}",
                        "client errors {{upstream}}",
                    ),
                ),
                "Share of requests with a status of 2xx or 3xx, and of those with 4xx, as their"
                " clients see them.",
                "Lower than the success ratio of the model server: requests that it refuses, or"
                " cannot take.",
                unit="percentunit",
                maximum=1,
                no_value=_NO_PROXY,
                width=12,
            ),
            time_series(
                "Request size",
                Query(f"upstream:http_request_size_bytes:mean5m{{{HOST}}}", "{{upstream}}"),
                "Mean size of the bodies of requests.",
                "A change explains a change of latency without a change of load.",
                unit="bytes",
                soft_maximum=1000,
                no_value=_NO_PROXY,
                width=12,
            ),
            time_series(
                "Response size",
                Query(f"upstream:http_response_size_bytes:mean5m{{{HOST}}}", "{{upstream}}"),
                "Mean size of the bodies of responses.",
                "Small ones are often errors: see Requests by status.",
                unit="bytes",
                soft_maximum=1000,
                no_value=_NO_PROXY,
                width=12,
            ),
        ),
    )


def quality_dashboard() -> Dashboard:
    return Dashboard(
        "quality",
        "inference-quality",
        "Model quality",
        "Is the model still right: drift of its predictions, accuracy, inputs, and requests. Needs"
        " the recording rules of prometheus/rules.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCE_VARIABLE, MODEL_VARIABLE),
        (),
        (_overview_row(), _distances_row(), _truth_row(), _features_row(), _requests_row()),
        time_from="now-2d",
        refresh="1m",
    )
