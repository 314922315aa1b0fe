"""The first row of the host dashboard: service level, and what is down."""

from __future__ import annotations

from tools.dashboards.common import BY_MODEL, GPU, HOST, MODEL
from tools.dashboards.panels import (
    ORANGE_ABOVE_0,
    RED_ABOVE_0,
    Panel,
    PanelRow,
    ThresholdSteps,
    falling,
    rising,
    stat,
)

_BUDGET_STEPS: ThresholdSteps = falling(0, 0.5)
_BURN_STEPS = rising(1, 6)


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
        no_value="No traffic",
        width=3,
    )


def service_level_row() -> PanelRow:
    """Returns the row: success ratio, error budget, burn rates, and what is down."""
    return PanelRow(
        "Service level",
        (
            stat(
                "Success ratio, worst model",
                f"min(1 - {failure_ratio('$__range')})",
                "Ratio of successful requests in the time range, of the worst model. An upper"
                " bound: Triton does not count malformed requests.",
                "Sort the table Models by Success ratio; the model dashboard has the failures by"
                " reason.",
                unit="percentunit",
                decimals=3,
                no_value="No traffic",
                thresholds=(("text", None),),
                width=3,
            ),
            stat(
                "Error budget left",
                f"min(1 - ({failure_ratio('$__range')}) / (1 - $slo))",
                "Remaining error budget of the worst model in the time range; below 0 it is"
                " exceeded. The variable Success target sets the target.",
                "Below 50 %, postpone rollouts; below 0, fix the failures first.",
                unit="percentunit",
                decimals=1,
                no_value="No traffic",
                thresholds=_BUDGET_STEPS,
                width=3,
            ),
            _burn_rate("1h"),
            _burn_rate("6h"),
            stat(
                "Models not ready",
                f"sum(1 - triton_model_ready{{{MODEL}}})",
                "Models that were loaded before and are not ready now.",
                "The table Models has the names. Runbook: TritonModelNotReady.",
                thresholds=RED_ABOVE_0,
                no_value="No Triton",
                width=3,
            ),
            stat(
                "GPUs down",
                f"sum(1 - gpu_up{{{GPU}}})",
                "GPUs that do not respond to the driver: hung, fallen off the bus, or in need of"
                " a reset.",
                "The table GPUs has the indexes. Runbook: GpuDown.",
                thresholds=RED_ABOVE_0,
                no_value="No GPU",
                width=3,
            ),
            stat(
                "Sources failing",
                f"sum(1 - inference_exporter_source_up{{{HOST}}}) + sum(1 - up{{{HOST}}})",
                "Sources that are down (driver, container engine, Triton), and exporters that"
                " Prometheus cannot scrape. Their metrics are missing on this dashboard.",
                "See the row Exporter; the exporter's landing page reports the remedy.",
                thresholds=RED_ABOVE_0,
                no_value="Not scraped",
                width=3,
            ),
            stat(
                "Alerts firing",
                f'count(ALERTS{{alertstate="firing",{HOST}}})',
                "Firing alerts of the selected hosts. Needs the rules in prometheus/rules.",
                "Each alert links to its runbook.",
                thresholds=ORANGE_ABOVE_0,
                no_value="None",
                empty_reason="no alert fires",
                width=3,
            ),
        ),
    )
