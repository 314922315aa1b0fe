"""The first row of the operator's screen: is everybody served, and what is broken."""

from __future__ import annotations

from tools.dashboards.common import BY_GPU, BY_MODEL, GPU, HOST, MODEL
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
    """The failed share of each model's requests; nothing for a model nobody asked."""
    failures = f"sum by ({BY_MODEL}) (increase(triton_request_failures_total{{{MODEL}}}[{window}]))"
    requests = f"sum by ({BY_MODEL}) (increase(triton_requests_total{{{MODEL}}}[{window}]))"
    return f"{failures} / ({requests} > 0)"


def _burn_rate(window: str) -> Panel:
    return stat(
        f"Burn rate, {window}",
        f"max({failure_ratio(window)}) / (1 - $slo)",
        f"How fast the model that fares worst uses up its error budget, over {window}: 1 uses it"
        " up exactly by its end, 14.4 uses 2 % of a month's budget in an hour.",
        "Above 6, look at failures by reason below and at the runbook of TritonErrorBudgetBurn.",
        steps=_BURN_STEPS,
        decimals=1,
        blank="No traffic",
        width=3,
    )


def service_level_row() -> PanelRow:
    """Success, error budget, burn rates; what is down or lost."""
    return PanelRow(
        "Service level",
        (
            stat(
                "Success, worst model",
                f"min(1 - {failure_ratio('$__range')})",
                "The share of requests that succeeded in the chosen time, for the model that fares"
                " worst. An upper bound: requests turned away as malformed are counted nowhere by"
                " Triton.",
                "Sort the table of models by Success; open the model for its failures by reason.",
                unit="percentunit",
                decimals=3,
                blank="No traffic",
                steps=(("text", None),),
                width=3,
            ),
            stat(
                "Error budget left",
                f"min(1 - ({failure_ratio('$__range')}) / (1 - $slo))",
                "What is left of the error budget of the worst model in the chosen time; below 0"
                " it is overdrawn. The wanted success is chosen at the top.",
                "Below 50 %, hold back changes; overdrawn, mend what fails first.",
                unit="percentunit",
                decimals=1,
                blank="No traffic",
                steps=_BUDGET_STEPS,
                width=3,
            ),
            _burn_rate("1h"),
            _burn_rate("6h"),
            stat(
                "Models not ready",
                f"sum(1 - triton_model_ready{{{MODEL}}})",
                "Models that were loaded once and cannot be asked now.",
                "See which in the table of models; runbook of TritonModelNotReady.",
                steps=RED_ABOVE_0,
                blank="No Triton",
                width=3,
            ),
            stat(
                "GPUs down",
                f"sum(1 - gpu_up{{{GPU}}})",
                "GPUs that do not answer the driver: hung, fallen off the bus, or in need of a"
                " reset.",
                "See which in the table of GPUs; runbook of GpuDown.",
                steps=RED_ABOVE_0,
                blank="No GPU",
                width=3,
            ),
            stat(
                "Sources failing",
                f"sum(1 - inference_exporter_source_up{{{HOST}}}) + sum(1 - up{{{HOST}}})",
                "Sources of the exporter that do not answer (driver, container engine, Triton), and"
                " exporters that do not answer Prometheus. What they tell is missing here.",
                "See the row Exporter below; the exporter's landing page says what to do.",
                steps=RED_ABOVE_0,
                blank="Not scraped",
                width=3,
            ),
            stat(
                "Alerts firing",
                f'count(ALERTS{{alertstate="firing",{HOST}}})',
                "Alerts of these hosts that fire now; needs the rules of prometheus/rules loaded.",
                "Each alert's runbook says what it means and what to do.",
                steps=ORANGE_ABOVE_0,
                blank="None",
                empty="no alert fires",
                width=3,
            ),
        ),
    )


def worst_gpu_share(metric: str, of: str) -> str:
    """The highest share among the GPUs."""
    return f"max(max by ({BY_GPU}) ({metric}) / max by ({BY_GPU}) ({of}))"
