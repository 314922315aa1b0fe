"""Placement of models on GPUs and in containers, and their energy.

The energy of a GPU, idle time included, is split between its models by execution time: an
estimate. If a model has a GPU for itself, it gets all of the GPU's energy.
"""

from __future__ import annotations

from dataclasses import replace

from tools.dashboards.common import (
    BY_CONTAINER,
    BY_GPU,
    BY_MODEL,
    CONTAINER,
    CONTAINER_LINK,
    GPU_LINK,
    HOST,
    MODEL,
    MODEL_LINK,
    sum_rate,
    with_container_name,
)
from tools.dashboards.panels import BLUE, Column, Panel, PanelRow, Query, table, time_series

_BY_MODEL_AND_GPU = f"{BY_MODEL}, gpu, uuid"
_ON_GPU = 'kind="GPU",uuid!=""'


def model_instances(matchers: str = MODEL) -> str:
    """Returns model instances by model and GPU, for instances on a known GPU."""
    return f"sum by ({_BY_MODEL_AND_GPU}) (triton_model_instances{{{matchers},{_ON_GPU}}})"


def execution_time() -> str:
    """Returns seconds of execution per second, by model and GPU, split by its instances there.

    Covers all models, not only the selected ones: a share refers to all executions on the GPU.
    """
    seconds = sum_rate(BY_MODEL, "triton_execution_compute_infer_duration_seconds_sum", HOST)
    instances = f"sum by ({BY_MODEL}) (triton_model_instances{{{HOST},{_ON_GPU}}})"
    return f"{model_instances(HOST)} * on ({BY_MODEL}) group_left () ({seconds} / {instances})"


def execution_share() -> str:
    """Returns the model's share of the execution time on each GPU, by model and GPU."""
    total = f"sum by ({BY_GPU}) ({execution_time()})"
    return f"({execution_time()}) / on ({BY_GPU}) group_left () ({total} > 0)"


def gpu_watts() -> str:
    """Returns the power of each GPU: the rate of its energy counter, else its power draw."""
    energy = f"max by ({BY_GPU}) (rate(gpu_energy_joules_total{{{HOST}}}[$__rate_interval]))"
    return f"({energy} or max by ({BY_GPU}) (gpu_power_watts{{{HOST}}}))"


def model_watts() -> str:
    """Returns the power of each model, by model and GPU: its share of the GPU's power."""
    return f"({execution_share()}) * on ({BY_GPU}) group_left () {gpu_watts()}"


def joules_per_thousand() -> str:
    """Returns the joules of each model per 1,000 inferences, over all its GPUs."""
    inferences = f"({sum_rate(BY_MODEL, 'triton_inferences_total', MODEL)} > 0)"
    return f"1000 * sum by ({BY_MODEL}) ({model_watts()}) / {inferences}"


def _container_instances() -> str:
    """Returns model instances by model, GPU and container of the model's server."""
    containers = f"max by (job, instance, server, name) (triton_server_container_info{{{HOST}}})"
    return f"{model_instances()} * on (job, instance, server) group_left (name) {containers}"


def _container_value(metric: str) -> str:
    """Returns the GPU metric of the model's container, by model and GPU."""
    used = f"max by ({BY_CONTAINER}, gpu, uuid) ({metric}{{{HOST}}})"
    return f"0 * ({_container_instances()}) + on ({BY_CONTAINER}, gpu, uuid) group_left () {used}"


def _gpu_value(metric: str) -> str:
    """Returns the metric of the GPU, by model and GPU."""
    value = f"max by ({BY_GPU}) ({metric}{{{HOST}}})"
    return f"0 * {model_instances()} + on ({BY_GPU}) group_left () {value}"


def _table() -> Panel:
    return table(
        "Placement",
        (
            Column("Model", label="model", link=MODEL_LINK, width=150, wrap=True),
            Column("Version", label="version"),
            Column("Instances", model_instances(), "none"),
            Column("Server", label="server", width=90, wrap=True),
            Column("Container", label="name", link=CONTAINER_LINK, width=120, wrap=True),
            Column("container info", _container_instances(), hidden=True),
            Column("GPU", label="gpu", link=GPU_LINK),
            Column("UUID", label="uuid", for_links=True),
            Column(
                "GPU busy",
                _gpu_value("gpu_utilization_ratio"),
                "percentunit",
                gauge=True,
                thresholds=BLUE,
            ),
            Column(
                "Share",
                execution_share(),
                "percentunit",
                decimals=0,
                no_value="No traffic",
            ),
            Column(
                "GPU mem",
                _container_value("container_gpu_memory_used_bytes"),
                "bytes",
                decimals=1,
            ),
            Column(
                "Power",
                model_watts(),
                "watt",
                decimals=1,
                no_value="No traffic",
            ),
        ),
        "Every model by GPU: the container of its server, that container's GPU memory (for all"
        " its models), the model's share of the execution time on the GPU, and the same share of"
        " the GPU's power, an estimate.",
        "One model fills a GPU and slows the others down: move a model. A container's models"
        " receive no requests: unload them to free its GPU memory.",
        no_value="No model on a known GPU",
        sort_by="Power",
    )


def model_energy() -> Panel:
    return time_series(
        "Energy per 1,000 inferences (estimate)",
        Query(joules_per_thousand(), "{{model}}/{{version}} {{server}}"),
        "Energy per 1,000 inferences of a model on its GPUs. If models share a GPU, its energy,"
        " idle time included, is split by their execution time: an estimate.",
        "A rise without a new version: smaller batches, or a GPU that idles between requests.",
        unit="joule",
        no_value="No model on a known GPU",
        width=12,
    )


def gpu_memory_by_container() -> Panel:
    return time_series(
        "GPU memory by container",
        Query(
            with_container_name(
                f"max by ({BY_CONTAINER}, gpu, uuid)"
                f' (container_gpu_memory_used_bytes{{{CONTAINER},uuid=~"$gpu"}})'
            ),
            "{{name}} GPU {{gpu}}",
        ),
        "GPU memory of each container's processes, by GPU. No container: processes outside of"
        " containers.",
        "A container without requests that holds GPU memory: unload its models.",
        unit="bytes",
        no_value="No visible GPU processes",
    )


def gpu_share_by_container() -> Panel:
    return time_series(
        "GPU utilization by container",
        Query(
            with_container_name(
                f"max by ({BY_CONTAINER}, gpu, uuid)"
                f' (container_gpu_utilization_ratio{{{CONTAINER},uuid=~"$gpu"}})'
            ),
            "{{name}} GPU {{gpu}}",
        ),
        "SM utilization by each container's processes, by GPU.",
        "Several busy containers on a GPU affect each other's latency.",
        unit="percentunit",
        no_value="Not reported by the GPU",
    )


def placement_row() -> PanelRow:
    """Returns the row of the host dashboard."""
    memory, part = gpu_memory_by_container(), gpu_share_by_container()
    return PanelRow(
        "Which model and container works on which GPU, and at what energy?",
        (_table(), model_energy(), narrow(memory), narrow(part)),
    )


def narrow(panel: Panel) -> Panel:
    """Returns the panel at a quarter of the dashboard's width."""
    return replace(panel, width=6)
