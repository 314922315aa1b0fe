"""Synthetic history of every declared metric over hours, in OpenMetrics for promtool.

Six hosts: two complete ones, one of them with a GPU in MIG mode; one without a GPU, one without
Triton, one without containers, one with a failing driver and a failing Triton. Counters rise at
known rates, so that tests can compute the expected values.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from exporter.model import Metric, Type, Up
from exporter.registry import SOURCES
from exporter.traces.reading import TRACED_STAGES
from tests.dashboards.hosts import (
    ASSISTANT,
    CHAT_SERVER,
    END,
    HOSTS,
    START,
    Host,
    Model,
    ValueAt,
    constant,
    counter_value,
    wave,
)
from tests.dashboards.predictions import MODEL, model_samples, proxy_samples
from tests.dashboards.values import HISTOGRAM_UNITS, NO_SERIES, metric_value
from tools.dashboards.service_level import RULES_LOADED

Labels = tuple[tuple[str, str], ...]

# Label values by (metric, label), or by label.
LABEL_VALUES: dict[tuple[str, str] | str, tuple[str, ...]] = {
    ("gpu_power_limit_watts", "limit"): ("enforced", "set", "default", "min", "max"),
    ("gpu_temperature_limit_celsius", "limit"): ("shutdown", "slowdown", "gpu_max"),
    ("gpu_temperature_margin_limit_celsius", "limit"): ("shutdown", "slowdown"),
    ("gpu_ecc_errors_total", "error"): ("corrected", "uncorrected"),
    ("gpu_nvlink_errors_total", "error"): ("crc_flit", "replay"),
    ("gpu_remapped_rows_total", "error"): ("correctable", "uncorrectable"),
    ("triton_model_state", "state"): ("READY",),
    ("triton_model_memory_bytes", "kind"): ("GPU",),
    ("triton_model_memory_bytes", "device"): ("0",),
    ("triton_model_info", "kind"): ("model",),
    ("triton_request_failures_by_reason_total", "reason"): ("REJECTED", "BACKEND"),
    ("triton_server_container_info", "name"): ("triton",),
    ("triton_server_container_info", "image"): ("triton:1",),
    ("inference_exporter_source_failures_total", "kind"): ("timeout", "unreachable"),
    ("triton_responses_total", "outcome"): ("success", "fail"),
    ("container_disk_usage_bytes", "kind"): ("images", "volumes"),
    ("gpu_clock_event_seconds_total", "reason"): ("sw_power_cap", "hw_thermal_slowdown"),
    ("model_server_requests_total", "outcome"): ("ok", "error", "rejected", "aborted"),
    ("model_server_tokens_per_second", "kind"): ("prompt", "generated"),
    ("model_server_latency_seconds", "stage"): ("time_to_first_token", "queue", "request"),
    ("model_server_stage_duration_seconds_total", "stage"): ("queue", "request"),
    ("model_server_omissions_total", "reason"): ("models",),
    ("model_server_stalled", "reason"): ("no_progress", "page_timeout"),
    "availability": ("max", "none"),
    "clock": ("graphics", "sm", "memory"),
    "counter": ("volatile", "aggregate"),
    "fan": ("0",),
    "failure_type": ("pgfault",),
    "interface": ("eth0",),
    "location": ("dram", "sram"),
    "mode": ("user", "system", "iowait", "idle", "steal"),
    "reason": ("gpu_idle", "sw_power_cap", "hw_thermal_slowdown"),
    "verdict": ("ok", "degraded"),
    "scope": ("container",),
    "state": ("running", "exited"),
    "mountpoint": ("/models",),
    "resource": ("cpu", "memory", "io"),
    "stage": ("queue", "compute_input", "compute_infer", "compute_output", "cache", "overhead"),
    "xid": ("31", "79"),
    "device": ("nvme0n1",),
    # Labels of info metrics have a single value.
    "name": ("NVIDIA H100 80GB HBM3",),
    "driver_version": ("590.48.01",),
    "cuda_version": ("13.1",),
    "version": ("0.1.0",),
    "python": ("3.11.2",),
}


def _metric_label_sets(metric: Metric[Any]) -> Iterator[Labels]:
    """Yields label sets of the metric's own labels."""
    choices = []
    for label in metric.labels:
        fallback = (f"some {label}",) if metric.type is Type.INFO else ("one", "two")
        values = LABEL_VALUES.get((metric.name, label), LABEL_VALUES.get(label, fallback))
        choices.append(values[:1] if metric.type is Type.INFO else values)
    for combination in itertools.product(*choices):
        yield tuple(zip(metric.labels, combination, strict=True))


def _entities(host: Host) -> Mapping[tuple[str, ...], list[tuple[tuple[str, ...], Any]]]:
    """Returns the entities of a host by identifying labels: (label values, entity)."""
    gpus: list[tuple[tuple[str, ...], Any]] = [
        ((str(i), host.uuid(i)), i) for i in range(host.gpus)
    ]
    mig_devices: list[tuple[tuple[str, ...], Any]] = [
        ((*gpus[1][0], str(i), "0", "3g.40gb"), i) for i in (1, 2) if host.mig
    ]
    users = (("triton", "triton:1"), ("api", "api:1"), ("", ""))
    servers = dict.fromkeys(model.server for model in host.models)
    return {
        (): [((), None)],
        ("gpu", "uuid"): gpus,
        ("gpu", "uuid", "gpu_instance", "compute_instance", "profile"): mig_devices,
        ("name", "image", "gpu", "uuid"): [
            ((*user, *labels), (user[0], gpu)) for user in users for labels, gpu in gpus
        ],
        ("name", "image"): [((name, f"{name}:1"), name) for name in host.containers],
        ("server",): [((server,), server) for server in servers],
        # Model servers of any engine: Triton, and one with tokens.
        ("server", "engine"): [
            *(((server, "triton"), server) for server in servers),
            *(((CHAT_SERVER, "vllm"), CHAT_SERVER) for _ in list(servers)[:1]),
        ],
        ("server", "engine", "model"): [
            *(((m.server, "triton", m.name), m) for m in host.models if m.version == "1"),
            *(((CHAT_SERVER, "vllm", ASSISTANT.name), ASSISTANT) for _ in list(servers)[:1]),
        ],
        ("server", "model", "version"): [(model.labels, model) for model in host.models],
        ("server", "model", "version", "kind", "gpu", "uuid"): [
            ((*model.labels, *_gpu_labels(host, gpu)), model)
            for model in host.models
            for gpu in model.gpus
        ],
        ("server", "model", "version", "stage"): [
            ((*model.labels, stage), model)
            for model in host.models
            for stage in TRACED_STAGES
            if stage != "first_response"
        ],
        ("source",): [((name,), name) for name in host.sources],
    }


def _gpu_labels(host: Host, gpu: int) -> tuple[str, str, str]:
    """Returns kind, GPU index and UUID of a model instance."""
    return ("GPU", str(gpu), host.uuid(gpu)) if host.gpus else ("CPU", "", "")


def _entity_label_sets(metric: Metric[Any], host: Host) -> Iterator[tuple[Labels, Any]]:
    """Yields the host's rows of the metric: their labels and the entity."""
    names = metric.labels if _is_up_metric(metric) else metric.row_labels
    entities = _entities(host)
    # The longest prefix of labels that identifies an entity; the labels after it get any value.
    known = next(n for n in range(len(names), -1, -1) if names[:n] in entities)
    rest = tuple((label, LABEL_VALUES.get(label, (f"some {label}",))[0]) for label in names[known:])
    for values, entity in entities[names[:known]]:
        yield (*zip(names[:known], values, strict=True), *rest), entity


def _is_up_metric(metric: Metric[Any]) -> bool:
    return metric.row is Up


def metric_series(
    metric: Metric[Any], source: str, host: Host
) -> Iterator[tuple[str, Labels, ValueAt]]:
    """Yields every series of the metric on the host: sample name, labels, value at a time."""
    if source in host.without:
        return
    # A failing source has only its `up`; joins and upstreams of it have no series.
    failing = source in host.failing or (source in ("joins", "upstream") and bool(host.failing))
    if failing and not metric.name.endswith("_up"):
        return
    label_sets = [()] if _is_up_metric(metric) else list(_metric_label_sets(metric))
    for row, entity in _entity_label_sets(metric, host):
        for labels in label_sets:
            all_labels = (*row, *labels)
            if metric.type in (Type.SUMMARY, Type.HISTOGRAM):
                yield from _summary_series(metric, all_labels, entity, host)
            else:
                value = series_value(metric, dict(all_labels), entity, host)
                if value is not None:
                    yield metric.name, all_labels, value


# Upper bounds and cumulative shares.
BUCKETS = {
    "": ((1, 0.25), (2, 0.5), (4, 1.0), (math.inf, 1.0)),
    "triton_request_latency_seconds": (
        (0.0256, 0.25),
        (0.0512, 0.9),
        (0.1024, 0.998),
        (0.2048, 1.0),
        (math.inf, 1.0),
    ),
}


def _summary_series(
    metric: Metric[Any], labels: Labels, entity: Any, host: Host
) -> Iterator[tuple[str, Labels, ValueAt]]:
    """Yields the series of a summary or histogram of a model."""
    if metric_value(metric.name, dict(labels), entity, host) is NO_SERIES:
        return
    model = entity if isinstance(entity, Model) else Model("", "")
    count, total = summary_rates(metric.name, model)
    yield f"{metric.name}_count", labels, counter_value(count, model, host)
    yield f"{metric.name}_sum", labels, counter_value(total, model, host)
    if metric.type is Type.HISTOGRAM:
        unit = HISTOGRAM_UNITS.get(metric.name, 1.0)
        for bound, share in BUCKETS.get(metric.name, BUCKETS[""]):
            bucket = counter_value(count * share, model, host)
            le = "+Inf" if bound == math.inf else f"{bound * unit:g}"
            yield f"{metric.name}_bucket", (*labels, ("le", le)), bucket


def summary_rates(name: str, model: Model) -> tuple[float, float]:
    """Returns the rates of a model's summary: (count per second, sum per second)."""
    good = model.requests * (1 - model.failed)
    computing = model.mean * (1 - model.queue)
    shares = {"compute_input": 0.1, "compute_infer": 0.8, "compute_output": 0.1}
    stage = next((key for key in shares if key in name), "")
    if name == "triton_batch_size":
        return model.requests / model.batch, model.requests
    if "execution_" in name:
        count = model.requests / model.batch
        return count, count * computing * shares[stage]
    if name == "triton_queue_duration_seconds":
        return good, good * model.mean * model.queue
    if stage:
        return good, good * computing * shares[stage]
    if name.startswith("triton_cache"):
        return 0.1 * good, 0.1 * good * 1e-4
    return good, good * (2 * HISTOGRAM_UNITS[name] if name in HISTOGRAM_UNITS else model.mean)


def series_value(
    metric: Metric[Any], labels: Mapping[str, str], entity: Any, host: Host
) -> ValueAt | None:
    """Returns the value of a series at a time; None if the host does not have the series."""
    value = metric_value(metric.name, labels, entity, host)
    if value is not None:
        return value if callable(value) else None
    return default_value(metric, entity, host)


def default_value(metric: Metric[Any], entity: Any, host: Host) -> ValueAt:
    """Returns a plausible value for the metric's type and unit."""
    phase = zlib.crc32(f"{metric.name}{entity!r}".encode()) % 7
    if metric.type is Type.INFO:
        return constant(1)
    if metric.type is Type.COUNTER:
        rate = {"bytes": 2e6, "seconds": 0.05, "joules": 400.0}.get(metric.unit, 0.2)
        return counter_value(rate, entity if isinstance(entity, Model) else None, host)
    if metric.name.endswith("_timestamp_seconds"):
        return constant(END - 600.0)
    scale = {
        "bytes": 2e9,
        "celsius": 50.0,
        "hertz": 1.5e9,
        "ratio": 0.5,
        "seconds": 0.01,
        "watts": 400.0,
    }.get(metric.unit)
    if scale is None:
        return constant(1)
    return lambda t: scale * (1 + 0.3 * wave(t, phase))


def host_samples(host: Host) -> Iterator[tuple[str, str, Labels, ValueAt]]:
    """Yields all series of a host: (family, sample name, labels, value at a time)."""
    for source in SOURCES:
        for metric in source.metrics:
            for name, labels, value in metric_series(metric, source.name, host):
                yield metric.family, name, labels, value
    for name, number in (("up", 1.0), ("scrape_duration_seconds", 0.004)):
        yield name, name, (), constant(number)
    yield from _recorded_samples(host)
    if host.number == 1:
        alert = (("alertname", "ContainerCpuThrottled"), ("severity", "warning"), ("name", "api"))
        yield "ALERTS", "ALERTS", (*alert, ("alertstate", "firing")), constant(1)
        yield "ALERTS_FOR_STATE", "ALERTS_FOR_STATE", alert, constant(END - 900.0)
        yield RULES_LOADED, RULES_LOADED, (), constant(100)
    if host.failing:
        for name, labels in (
            ("GpuDown", (("gpu", "0"), ("uuid", host.uuid(0)))),
            ("ExporterSourceFailing", (("source", "triton"),)),
        ):
            alert = (("alertname", name), ("severity", "critical"), *labels)
            yield "ALERTS", "ALERTS", (*alert, ("alertstate", "firing")), constant(1)
            yield "ALERTS_FOR_STATE", "ALERTS_FOR_STATE", alert, constant(END - 3600.0)


def _recorded_samples(host: Host) -> Iterator[tuple[str, str, Labels, ValueAt]]:
    """Yields the series of recording rules: of the first host's proxy, and of a model, once."""
    proxy = proxy_samples() if host.number == 1 else ()
    model = model_samples() if host.instance == HOSTS[0].instance else ()
    for name, labels, value in (*proxy, *model):
        yield name, name, labels, value


def _target_labels(labels: Labels, host: Host) -> Labels:
    """Returns job and instance; none for the series of a model over all hosts."""
    if labels[: len(MODEL)] == MODEL or ("alertname", "PredictionDrift") in labels:
        return ()
    return (("job", host.job), ("instance", host.instance))


HostSamples = Callable[[Host], Iterable[tuple[str, str, Labels, ValueAt]]]


def openmetrics(
    hosts: tuple[Host, ...] = HOSTS, samples: HostSamples = host_samples, start: int = START
) -> Iterator[str]:
    """Yields the input of `promtool tsdb create-blocks-from openmetrics`, ordered by time."""
    all_series = [
        (
            f"{name}{{{_joined((*labels, *_target_labels(labels, host)))}}} ",
            value,
            host.scrape_interval,
        )
        for host in hosts
        for _, name, labels, value in samples(host)
    ]
    step = math.gcd(*(host.scrape_interval for host in hosts))
    for t in range(start, END + 1, step):
        end = f" {t}\n"
        for series, value, interval in all_series:
            if t % interval:
                continue
            number = value(t)
            if number == number:  # noqa: PLR0124 - not NaN, without a call: two million samples
                yield f"{series}{number:.10g}{end}"
    yield "# EOF\n"


def _joined(labels: Labels) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels)
