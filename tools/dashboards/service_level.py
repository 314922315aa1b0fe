"""The first row of the host dashboard: service level, states, and what is wrong."""

from __future__ import annotations

from tools.dashboards.common import BY_MODEL, GPU, HOST, MODEL
from tools.dashboards.containers import container_cells
from tools.dashboards.gpu_health import gpu_cells
from tools.dashboards.panels import (
    RED_ABOVE_0,
    Column,
    Panel,
    PanelRow,
    ThresholdSteps,
    falling,
    rising,
    stat,
    table,
)

_BUDGET_STEPS: ThresholdSteps = falling(0, 0.5)
_BURN_STEPS = rising(1, 6)
BLIND = (
    " An upper bound: Triton does not count requests that it rejects as malformed, and counts error"
    " responses of Python models (`InferenceResponse(error=…)`, Triton 2.51) as successes; see the"
    " status codes of a proxy."
)
"""Failures that Triton's counters do not have."""


def failure_ratio(window: str) -> str:
    """Returns each model's failure ratio; no series for a model without requests."""
    failures = f"sum by ({BY_MODEL}) (increase(triton_request_failures_total{{{MODEL}}}[{window}]))"
    requests = f"sum by ({BY_MODEL}) (increase(triton_requests_total{{{MODEL}}}[{window}]))"
    return f"{failures} / ({requests} > 0)"


def _burn_rate(window: str) -> Panel:
    return stat(
        f"Burn rate, {window}",
        f"max({failure_ratio(window)}) / (1 - $slo)",
        f"Burn rate of the worst model's error budget over {window}: at 1 the budget is used up"
        " exactly at the end of its period; at 14.4, 2 % of a month's budget in an hour.",
        "Above 6, check Failures by reason on the model dashboard. Runbook: TritonErrorBudgetBurn.",
        thresholds=_BURN_STEPS,
        decimals=1,
        no_value="No requests seen",
        width=3,
    )


def service_level_row() -> PanelRow:
    """Returns the first row: service level, the state of GPUs and containers, firing alerts."""
    return PanelRow(
        "Is this host well, and if not, what is wrong?",
        (
            stat(
                "Worst success ratio",
                f"min(1 - {failure_ratio('$__range')})",
                "Ratio of successful requests in the time range, of the worst model." + BLIND,
                "Sort the table Models by Success; the model dashboard has the failures by reason.",
                unit="percentunit",
                decimals=3,
                no_value="No requests seen",
                width=4,
            ),
            stat(
                "Error budget left",
                f"min(1 - ({failure_ratio('$__range')}) / (1 - $slo))",
                "Remaining error budget of the worst model in the time range; below 0 it is"
                " exceeded. The variable Success target sets the target.",
                "Below 50 %, postpone rollouts; below 0, fix the failures first.",
                unit="percentunit",
                decimals=1,
                no_value="No requests seen",
                thresholds=_BUDGET_STEPS,
                width=4,
            ),
            stat(
                "Models not ready",
                f"sum(1 - triton_model_ready{{{MODEL}}})",
                "Models that were loaded before and are not ready now.",
                "The table Models has the names. Runbook: TritonModelNotReady.",
                thresholds=RED_ABOVE_0,
                no_value="No models read",
                width=4,
            ),
            _burn_rate("1h"),
            _burn_rate("6h"),
            stat(
                "GPUs down",
                f"sum(1 - gpu_up{{{GPU}}})",
                "GPUs that do not respond to the driver: hung, fallen off the bus, or in need of"
                " a reset.",
                "The cells below have the indexes. Runbook: GpuDown.",
                thresholds=RED_ABOVE_0,
                no_value="No GPU",
                width=3,
            ),
            stat(
                "Sources down",
                f"sum(1 - inference_exporter_source_up{{{HOST}}}) + sum(1 - up{{{HOST}}})",
                "Sources that are down (driver, container engine, Triton), and exporters that"
                " Prometheus cannot scrape. Their metrics are missing on this dashboard.",
                "See the row Can these values be trusted?; the exporter's landing page reports the"
                " remedy.",
                thresholds=RED_ABOVE_0,
                no_value="Not scraped",
                width=3,
            ),
            gpu_cells(),
            container_cells(),
            firing(),
        ),
    )


# Labels that name the object of an alert, with the word before each.
_OBJECT_LABELS = (
    ("model", "model"),
    ("version", "version"),
    ("gpu", "GPU"),
    ("xid", "XID"),
    ("name", "container"),
    ("source", "source"),
    ("server", "server"),
    ("mountpoint", "on"),
    ("upstream", "upstream"),
)
# The page of docs/runbooks by the start of an alert's name.
RUNBOOK_PAGES = {
    "triton": "Triton.*",
    "model-servers": "ModelServer.*",
    "predictions": "(Prediction|ModelAccuracy).*",
    "gpu": "Gpu.*",
    "containers": "Container.*",
    "host": "Host.*",
    "exporter": "(Exporter|Upstream).*",
}
RUNBOOKS = "https://github.com/inference-exporter/inference-exporter/blob/main/docs/runbooks"
RULES_LOADED = "inference:slo_minimum_requests:count"
"""A series of the project's rules that exists whether an alert fires or not."""


def _firing_since() -> str:
    """Returns the times since which alerts fire or waited to, with object and runbook page."""
    expr = (
        f"1000 * ALERTS_FOR_STATE{{{HOST}}}"
        f' and ignoring (alertstate) ALERTS{{{HOST},alertstate="firing"}}'
    )
    for label, word in _OBJECT_LABELS:
        expr = f'label_replace({expr}, "object_{label}", "{word} $1, ", "{label}", "(.+)")'
    for page, names in RUNBOOK_PAGES.items():
        expr = f'label_replace({expr}, "page", "{page}", "alertname", "{names}")'
    labels = ", ".join(f'"object_{label}"' for label, _ in _OBJECT_LABELS)
    expr = f'label_join({expr}, "object", "", {labels})'
    expr = f'label_replace({expr}, "object", "$1", "object", "(.*), ")'
    since = f"min by (alertname, severity, object, page) ({expr})"
    rules = f"NaN * count({RULES_LOADED})"
    nothing = f'label_replace({rules}, "alertname", "No alert of the rules fires", "job", "")'
    return f"{since} or on () {nothing}"


def firing() -> Panel:
    return table(
        "What is wrong now",
        (
            Column(
                "Condition",
                label="alertname",
                link=f"{RUNBOOKS}/${{__data.fields.Page:percentencode}}.md"
                "#${__data.fields.Condition:percentencode}",
                width=240,
                wrap=True,
            ),
            Column("Severity", label="severity", width=90),
            Column("Object", label="object", wrap=True),
            Column("Since", _firing_since(), "dateTimeFromNow", width=140),
            Column("Page", label="page", for_links=True),
        ),
        "Conditions of the rules in prometheus/rules that are true now, each with its object and"
        " since when.",
        "Click a condition to open its runbook: meaning, impact, diagnosis, mitigation.",
        no_value="No rules are loaded: see prometheus/README.md",
        sort_by="Since",
        hidden_labels=("job", "instance"),
    )
