"""Label matchers, variables, annotations, links and expressions that dashboards share."""

from __future__ import annotations

from dataclasses import replace

from tools.dashboards.panels import Annotation, Variable

# Label matchers of the selected host (the fleet's: hosts), models, GPUs, containers.
HOST = 'job=~"$job",instance="$instance"'
HOSTS = 'job=~"$job",instance=~"$instance"'
MODEL = HOST + ',model=~"$model"'
GPU = HOST + ',uuid=~"$gpu"'
CONTAINER = HOST + ',name=~"$container"'
# Without processes outside of containers, and cAdvisor's root cgroup.
NAMED_CONTAINER = CONTAINER + ',name!=""'

BY_HOST = "job, instance"
BY_MODEL = "job, instance, server, model, version"
BY_GPU = "job, instance, gpu, uuid"
BY_CONTAINER = "job, instance, name"

MODEL_LEGEND = "{{model}}/{{version}} {{server}}"
GPU_LEGEND = "GPU {{gpu}}"
CONTAINER_LEGEND = "{{name}}"
NO_CONTAINER = "no container"
"""Name of what belongs to no container, in legends."""

DATASOURCE_VARIABLE = Variable("datasource", "Data source")
JOB_VARIABLE = Variable("job", "Job", "label_values(inference_exporter_build_info, job)")
INSTANCES_VARIABLE = Variable(
    "instance", "Instance", 'label_values(inference_exporter_build_info{job=~"$job"}, instance)'
)
INSTANCE_VARIABLE = replace(INSTANCES_VARIABLE, single=True)
MODEL_VARIABLE = Variable("model", "Model", f"label_values(triton_requests_total{{{HOST}}}, model)")
GPU_VARIABLE = Variable(
    "gpu",
    "GPU",
    "query_result(count by (text, uuid) (label_join("
    f'last_over_time(gpu_info{{{HOST}}}[$__range]), "text", " ", "gpu", "name")))',
    regex='/text="(?<text>[^"]+)"|uuid="(?<value>[^"]+)"/g',
)
CONTAINER_VARIABLE = Variable(
    "container",
    "Container",
    f"label_values(container_info{{{HOST}}}, name)",
    # Also matches the empty name: processes outside any container.
    all_value=".*",
)
SLO_VARIABLE = Variable(
    "slo",
    "Success target",
    values=("0.9", "0.95", "0.99", "0.995", "0.999", "0.9999"),
    default="0.99",
    description="Target share of successful requests; error budgets and burn rates use it.",
)

# Only where the exporter was scraped a minute ago: the first sample of a model is not its load.
_LOADED = (
    f"(triton_model_ready{{{HOST}}} == 1 unless triton_model_ready{{{HOST}}} offset 1m == 1)"
    f" and on (job, instance) inference_exporter_build_info{{{HOST}}} offset 1m"
)
_UNLOADED = (
    f"(triton_model_ready{{{HOST}}} offset 1m == 1 unless triton_model_ready{{{HOST}}} == 1)"
    f" and on (job, instance) inference_exporter_build_info{{{HOST}}}"
)
MODEL_LOADS = (
    Annotation("Model loads", _LOADED, "{{model}}/{{version}} loaded", "green"),
    Annotation("Model unloads", _UNLOADED, "{{model}}/{{version}} unloaded", "orange"),
)
XIDS = Annotation(
    "XIDs",
    f"gpu_xid_last_timestamp_seconds{{{HOST}}} * 1000",
    "XID {{xid}} on GPU {{gpu}}",
    "red",
    use_value_for_time=True,
)
RESTARTS = Annotation(
    "Exporter restarts",
    f"process_start_time_seconds{{{HOST}}} * 1000",
    "exporter restarted",
    "purple",
    use_value_for_time=True,
)


def _link(page: str, variable: str, field: str, *kept: str) -> str:
    """Returns the URL of another dashboard with the row's field as the value of a variable.

    Grafana inserts fields as they are: without `percentencode` a name with "+", "&" or "#" breaks.
    """
    selection = "".join(f"&${{{name}:queryparam}}" for name in ("datasource", "job", *kept))
    value = f"${{__data.fields.{field}:percentencode}}"
    return f"/d/inference-{page}/{page}?var-{variable}={value}{selection}&${{__url_time_range}}"


HOST_LINK = _link("host", "instance", "Instance")
GPU_LINK = _link("gpu", "gpu", "UUID", "instance")
MODEL_LINK = _link("model", "model", "Model", "instance")
SERVER_LINK = _link("model-servers", "server", "Server", "instance")
CONTAINER_LINK = _link("container", "container", "Container", "instance")
XID_CATALOGUE = ("NVIDIA's catalogue of XIDs", "https://docs.nvidia.com/deploy/xid-errors/")

UP_MAPPING = (("0", "down", "red"), ("1", "up", "green"))
READY_MAPPING = (("0", "not ready", "red"), ("1", "ready", "green"))
YES_NO_MAPPING = (("0", "no", "green"), ("1", "yes", "red"))


def rate(metric: str, matchers: str) -> str:
    """Returns a counter's rate over `$__rate_interval`."""
    return f"rate({metric}{{{matchers}}}[$__rate_interval])"


def time_ratio(metric: str, matchers: str, by: str = "") -> str:
    """Returns the rate of a counter of seconds as a ratio of time, 0 to 1.

    Polls and scrapes are not synchronized: a rate of 1 may measure slightly above 1, so it is
    clamped.
    """
    expression = sum_rate(by, metric, matchers) if by else rate(metric, matchers)
    return f"clamp_max({expression}, 1)"


def gpu_busy_ratio(matchers: str) -> str:
    """Returns the utilization of GPUs without gaps between polls, else the last sample.

    Both without a name: otherwise a GPU has two series in a range in which its counter begins.
    """
    busy = time_ratio("gpu_busy_seconds_total", matchers)
    return f"({busy} or clamp_max(gpu_utilization_ratio{{{matchers}}}, 1))"


def sum_rate(by: str, metric: str, matchers: str) -> str:
    """Returns a counter's rate, summed by these labels."""
    return f"sum by ({by}) ({rate(metric, matchers)})"


def rate_ratio(by: str, numerator: str, denominator: str, matchers: str) -> str:
    """Returns the ratio of two summed rates; no series if the denominator's rate is 0."""
    return f"{sum_rate(by, numerator, matchers)} / ({sum_rate(by, denominator, matchers)} > 0)"


def summary_mean(by: str, metric: str, matchers: str) -> str:
    """Returns the mean of a summary: the rate of its sum over the rate of its count."""
    return rate_ratio(by, f"{metric}_sum", f"{metric}_count", matchers)


def with_container_name(expr: str, name: str = NO_CONTAINER) -> str:
    """Returns the expression with a name for series with an empty label `name`."""
    return f'label_replace({expr}, "name", "{name}", "name", "")'


def _traced(by: str, stage: str, matchers: str) -> str:
    """Returns the traced requests per second, where there are any."""
    stage_matchers = f'{matchers},stage="{stage}"'
    return f"({sum_rate(by, 'triton_request_latency_seconds_count', stage_matchers)} > 0)"


def latency_percentile(quantile: float, by: str, matchers: str, stage: str = "request") -> str:
    """Returns a percentile of Triton's latencies, of the models whose requests are traced."""
    buckets = sum_rate(
        f"{by}, le", "triton_request_latency_seconds_bucket", f'{matchers},stage="{stage}"'
    )
    return f"histogram_quantile({quantile}, {buckets}) and on ({by}) {_traced(by, stage, matchers)}"


def latency_mean(by: str, matchers: str, summary: str, stage: str = "request") -> str:
    """Returns the mean of a summary, of the models whose requests are not traced."""
    return f"{summary_mean(by, summary, matchers)} unless on ({by}) {_traced(by, stage, matchers)}"
