"""Who works where: models, the GPUs they run on, the containers they are in, the energy they take.

Energy is split between the models of a GPU by the time their executions ran, idle time with it;
where a model has a GPU to itself it is the GPU's own figure. Hence an estimate.
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
)
from tools.dashboards.panels import Column, Panel, PanelRow, Query, table, time_series

_BY_MODEL_AND_GPU = f"{BY_MODEL}, gpu, uuid"
_ON_GPU = 'kind="GPU",uuid!=""'


def model_instances(matchers: str = MODEL) -> str:
    """Instances by model and GPU, of those that run on a GPU which is known."""
    return f"sum by ({_BY_MODEL_AND_GPU}) (triton_model_instances{{{matchers},{_ON_GPU}}})"


def execution_time() -> str:
    """Seconds a second that a model's executions ran, by model and GPU: by its instances there.

    Of all models, whatever is chosen: a share is of all that ran on the GPU.
    """
    ran = sum_rate(BY_MODEL, "triton_execution_compute_infer_duration_seconds_sum", HOST)
    every = f"sum by ({BY_MODEL}) (triton_model_instances{{{HOST},{_ON_GPU}}})"
    return f"{model_instances(HOST)} * on ({BY_MODEL}) group_left () ({ran} / {every})"


def execution_share() -> str:
    """The part of what ran on a GPU that each model was, by model and GPU."""
    return f"({execution_time()}) / on ({BY_GPU}) group_left () (sum by ({BY_GPU}) ({execution_time()}) > 0)"


def gpu_watts() -> str:
    """Power of each GPU: from its energy, or from its momentary power where it counts none."""
    energy = f"max by ({BY_GPU}) (rate(gpu_energy_joules_total{{{HOST}}}[$__rate_interval]))"
    return f"({energy} or max by ({BY_GPU}) (gpu_power_watts{{{HOST}}}))"


def model_watts() -> str:
    """Power of each model, by model and GPU: its share of the GPU's."""
    return f"({execution_share()}) * on ({BY_GPU}) group_left () {gpu_watts()}"


def joules_per_thousand() -> str:
    """Joules for 1,000 inferences of each model, over all its GPUs."""
    made = f"({sum_rate(BY_MODEL, 'triton_inferences_total', MODEL)} > 0)"
    return f"1000 * sum by ({BY_MODEL}) ({model_watts()}) / {made}"


def _container_instances() -> str:
    """Instances by model, GPU and the container that the model's server is in."""
    named = f"max by (job, instance, server, name) (triton_server_container_info{{{HOST}}})"
    return f"{model_instances()} * on (job, instance, server) group_left (name) {named}"


def _container_value(metric: str) -> str:
    """What the model's container has of the GPU, by model and GPU."""
    used = f"max by ({BY_CONTAINER}, gpu, uuid) ({metric}{{{HOST}}})"
    return f"0 * ({_container_instances()}) + on ({BY_CONTAINER}, gpu, uuid) group_left () {used}"


def _gpu_value(metric: str) -> str:
    """What the GPU says, by model and GPU."""
    return f"0 * {model_instances()} + on ({BY_GPU}) group_left () max by ({BY_GPU}) ({metric}{{{HOST}}})"


def _table() -> Panel:
    return table(
        "Who works where",
        (
            Column("Model", label="model", link=MODEL_LINK),
            Column("Version", label="version", width=80),
            Column("Server", label="server"),
            Column("Container", label="name", link=CONTAINER_LINK),
            Column("contained", _container_instances(), hidden=True),
            Column("GPU", label="gpu", width=60),
            Column("UUID", label="uuid", link=GPU_LINK),
            Column("Instance", label="instance"),
            Column("Instances", model_instances(), "none", width=90),
            Column(
                "GPU utilization",
                _gpu_value("gpu_utilization_ratio"),
                "percentunit",
                gauge=True,
                steps=(("blue", None),),
            ),
            Column(
                "Share of what ran there",
                execution_share(),
                "percentunit",
                decimals=0,
                missing="No traffic",
            ),
            Column(
                "GPU memory of the container",
                _container_value("container_gpu_memory_used_bytes"),
                "bytes",
                decimals=1,
            ),
            Column(
                "Power (estimate)",
                model_watts(),
                "watt",
                decimals=0,
                missing="No traffic",
            ),
        ),
        "Every model on each GPU that it runs on: the container its server is in, the GPU memory"
        " that container has there (all its models together), the model's share of the time in"
        " which executions ran on the GPU, and that share of the GPU's power, an estimate.",
        "A GPU that one model fills starves its neighbours: move one. Memory taken by a container"
        " whose models are not asked can be had back by unloading them.",
        blank="No model on a GPU that is seen",
        sort="Power (estimate)",
        hidden_labels=("job",),
        height=9,
    )


def model_energy() -> Panel:
    return time_series(
        "Energy per 1,000 inferences (estimate)",
        Query(joules_per_thousand(), "{{model}}/{{version}} {{server}} {{instance}}"),
        "Energy that 1,000 inferences of a model took on its GPUs. Where models share a GPU, its"
        " energy, idle time included, is split by the time their executions ran: an estimate.",
        "A rise without a new version: smaller batches, or a GPU that idles between requests.",
        unit="joule",
        blank="No model on a GPU that is seen",
        width=12,
    )


def gpu_memory_by_container() -> Panel:
    return time_series(
        "GPU memory by container",
        Query(
            f"max by ({BY_CONTAINER}, gpu, uuid)"
            f' (container_gpu_memory_used_bytes{{{CONTAINER},uuid=~"$gpu"}})',
            "{{name}} GPU {{gpu}} {{instance}}",
        ),
        "GPU memory of each container's processes on each GPU; without a name are processes outside"
        " of any container.",
        "A container that is not asked for work and holds memory: unload its models.",
        unit="bytes",
        blank="No processes on a GPU that are seen",
    )


def gpu_share_by_container() -> Panel:
    return time_series(
        "GPU share by container",
        Query(
            f"max by ({BY_CONTAINER}, gpu, uuid)"
            f' (container_gpu_utilization_ratio{{{CONTAINER},uuid=~"$gpu"}})',
            "{{name}} GPU {{gpu}} {{instance}}",
        ),
        "The share of the SMs' time that each container's processes used on each GPU.",
        "More than one busy container on a GPU: their latencies depend on each other.",
        unit="percentunit",
        blank="Not told by this card",
    )


def placement_row() -> PanelRow:
    """The row on the host's screen."""
    memory, part = gpu_memory_by_container(), gpu_share_by_container()
    return PanelRow("Who works where", (_table(), model_energy(), narrow(memory), narrow(part)))


def narrow(panel: Panel) -> Panel:
    """The same panel, a quarter of the screen wide."""
    return replace(panel, width=6)
