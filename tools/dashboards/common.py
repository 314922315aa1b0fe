"""What all dashboards share: matchers, variables, annotations, links."""

from __future__ import annotations

from tools.dashboards.panels import Annotation, Variable

HOST = 'job=~"$job",instance=~"$instance"'
MODEL = HOST + ',model=~"$model"'
GPU = HOST + ',uuid=~"$gpu"'
CONTAINER = HOST + ',name=~"$container"'

BY_HOST = "job, instance"
BY_MODEL = "job, instance, server, model, version"
BY_GPU = "job, instance, gpu, uuid"
BY_CONTAINER = "job, instance, name"

MODEL_LEGEND = "{{model}}/{{version}} {{server}} {{instance}}"
GPU_LEGEND = "GPU {{gpu}} {{instance}}"
CONTAINER_LEGEND = "{{name}} {{instance}}"

DATASOURCE = Variable("datasource", "Data source")
JOB = Variable("job", "Job", "label_values(inference_exporter_build_info, job)")
INSTANCE = Variable(
    "instance", "Instance", 'label_values(inference_exporter_build_info{job=~"$job"}, instance)'
)
MODELS = Variable("model", "Model", f"label_values(triton_requests_total{{{HOST}}}, model)")
GPUS = Variable(
    "gpu",
    "GPU",
    "query_result(count by (text, uuid) (label_join("
    f'last_over_time(gpu_info{{{HOST}}}[$__range]), "text", " ", "gpu", "name", "instance")))',
    regex='/text="(?<text>[^"]+)"|uuid="(?<value>[^"]+)"/g',
)
CONTAINERS = Variable(
    "container",
    "Container",
    f"label_values(container_info{{{HOST}}}, name)",
    # Everything, processes outside of any container (an empty name) among it.
    all_value=".*",
)
SLO = Variable(
    "slo",
    "Wanted success",
    values=("0.9", "0.95", "0.99", "0.995", "0.999", "0.9999"),
    chosen="0.99",
    description="The share of requests that should succeed; error budgets and burn rates use it.",
)

_LOADED = f"triton_model_ready{{{HOST}}} == 1 unless triton_model_ready{{{HOST}}} offset 1m == 1"
_GONE = f"triton_model_ready{{{HOST}}} offset 1m == 1 unless triton_model_ready{{{HOST}}} == 1"
LOADS = (
    Annotation("Model loads", _LOADED, "{{model}}/{{version}} loaded", "green"),
    Annotation("Model unloads", _GONE, "{{model}}/{{version}} unloaded", "orange"),
)
XIDS = Annotation(
    "XIDs",
    f"gpu_xid_last_timestamp_seconds{{{HOST}}} * 1000",
    "XID {{xid}} on GPU {{gpu}}",
    "red",
    at_value=True,
)
RESTARTS = Annotation(
    "Exporter restarts",
    f"process_start_time_seconds{{{HOST}}} * 1000",
    "exporter restarted",
    "purple",
    at_value=True,
)

_KEEP = "&${datasource:queryparam}&${job:queryparam}&${__url_time_range}"
_ROW = "var-instance=${__data.fields.Instance}"
TO_HOST = f"/d/inference-host/host?{_ROW}{_KEEP}"
TO_GPU = f"/d/inference-gpu/gpu?{_ROW}&var-gpu=${{__data.fields.UUID}}{_KEEP}"
TO_MODEL = f"/d/inference-model/model?{_ROW}&var-model=${{__data.fields.Model}}{_KEEP}"
TO_CONTAINER = (
    f"/d/inference-container/container?{_ROW}&var-container=${{__data.fields.Container}}{_KEEP}"
)
XID_CATALOGUE = ("NVIDIA's catalogue of XIDs", "https://docs.nvidia.com/deploy/xid-errors/")

UP = (("0", "down", "red"), ("1", "up", "green"))
READY = (("0", "not ready", "red"), ("1", "ready", "green"))
YES_NO = (("0", "no", "green"), ("1", "yes", "red"))


def rated(metric: str, matchers: str) -> str:
    """A counter's rate over the panel's own window."""
    return f"rate({metric}{{{matchers}}}[$__rate_interval])"


def share_of_time(metric: str, matchers: str, by: str = "") -> str:
    """The rate of a counter of seconds as a share of time.

    Polls are not in step with scrapes, so that a full second a second may come out a little more.
    """
    rate = total(by, metric, matchers) if by else rated(metric, matchers)
    return f"clamp_max({rate}, 1)"


def total(by: str, metric: str, matchers: str) -> str:
    """Counters' rates, summed to these labels."""
    return f"sum by ({by}) ({rated(metric, matchers)})"


def per(by: str, numerator: str, denominator: str, matchers: str) -> str:
    """A ratio of two counters' rates, each summed first; nothing where the denominator rests."""
    return f"{total(by, numerator, matchers)} / ({total(by, denominator, matchers)} > 0)"


def mean(by: str, metric: str, matchers: str) -> str:
    """The mean of a summary: its sum over its own count."""
    return per(by, f"{metric}_sum", f"{metric}_count", matchers)
