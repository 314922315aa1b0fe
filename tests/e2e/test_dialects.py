"""Published dashboard queries, verbatim, on a real Prometheus that scrapes all dialects.

Job names and Grafana's variables are substituted, as in Grafana. The daemon polls twice per scrape,
so that `irate`, which uses two scrapes, gets two readings.
"""

from __future__ import annotations

import math
import platform
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter.catalog import catalog
from exporter.dialects import NAMES, active_dialects
from tests.daemon import Daemon, Samples, find
from tests.e2e.host import LOADED_MODEL, InferenceHost, monitoring
from tests.fakes.nvml import cards
from tests.prometheus import Prometheus, promtool_parse_errors, scraping
from tests.sources.containers.kernel_values import cpu_seconds
from tests.sources.triton.load import send
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

COMPUTE_MS = 20.0  # milliseconds the model computes per request
NATIVE = catalog()
# prometheus_client's parser appends _total to a counter without it.
FOREIGN = {
    f"{metric.name}{suffix}"
    for metric in active_dialects(NAMES, NATIVE).family_rules
    if not metric.extends
    for suffix in ("", "_total")
}


@dataclass(frozen=True, slots=True)
class DialectHost:
    """A host with Triton under load and two daemons, the first with all dialects."""

    with_dialects: Daemon
    native: Daemon
    prometheus: Prometheus
    host: InferenceHost
    idle_pages: tuple[Samples, Samples]
    """Both daemons' pages before the load started."""


@pytest.fixture(scope="module")
def dialects(
    inference_host: InferenceHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DialectHost]:
    folders = [tmp_path_factory.mktemp(name) for name in ("with_dialects", "native")]
    with (
        monitoring(inference_host, folders[0], "--dialect=dcgm,cadvisor,triton") as with_dialects,
        monitoring(inference_host, folders[1]) as native,
        scraping(folders[0] / "prometheus", with_dialects.port) as prometheus,
    ):
        idle_pages = until(
            lambda: equal_pages(with_dialects, native),
            "the same series on both",
            seconds=30,
            every=0.3,
        )
        assert idle_pages is not None
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                send(inference_host.triton.url, LOADED_MODEL, good=5, milliseconds=COMPUTE_MS)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            yield DialectHost(with_dialects, native, prometheus, inference_host, idle_pages)
        finally:
            stop.set()
            thread.join()


def equal_pages(with_dialects: Daemon, native: Daemon) -> tuple[Samples, Samples] | None:
    """Returns both pages once they have the metrics of two polls, and equal native series."""
    pages = (with_dialects.samples(), native.samples())
    late = {"container_cpu_usage_seconds_total", "gpu_sm_active_ratio", "triton_requests_total"}
    assert late <= {metric.name for metric in NATIVE}
    first, second = (native_series(page) for page in pages)
    return pages if late <= set(second) and first == second else None


def native_series(page: Samples) -> Counter[str]:
    """Returns the number of series by name, without those that dialects add to native names."""
    return Counter(
        name
        for (name, labels), value in page.items()
        if name not in FOREIGN
        and ("id", "/") not in labels
        and not (name == "container_spec_memory_limit_bytes" and value == 0)
    )


JOB = '{job="inference"}'
RANGE = "[4s]"  # Grafana's $__rate_interval: four scrapes


def per_request(stage: str) -> str:
    return (
        f"(irate(nv_inference_{stage}_duration_us{JOB} {RANGE}) / 1000)"
        f" / irate(nv_inference_request_success{JOB} {RANGE})"
    )


def vector(dialects: DialectHost, query: str, label: str) -> dict[str, float]:
    """Returns the values of a query by a label, which must be unique."""
    result = dialects.prometheus.query(query)
    values = {series["metric"][label]: float(series["value"][1]) for series in result}
    assert len(values) == len(result)
    return values


def model_value(dialects: DialectHost, query: str, model: str = LOADED_MODEL) -> float:
    """Waits for a model's value of a query, skipping NaN (no requests), and returns it."""

    def value() -> float | None:
        result = vector(dialects, query, "model").get(model)
        return None if result is None or math.isnan(result) else result

    result = until(lambda: (now := value()) is not None and (now,), query, seconds=20, every=0.2)
    assert result
    return result[0]


def test_inference_time_per_request(dialects: DialectHost) -> None:
    query = per_request("compute_infer")
    until(lambda: COMPUTE_MS <= model_value(dialects, query) < 1.5 * COMPUTE_MS, query, seconds=60)


@pytest.mark.parametrize("stage", ["compute_input", "compute_output"])
def test_input_and_output_time_per_request(dialects: DialectHost, stage: str) -> None:
    native = stage.replace("compute", "triton_compute") + "_duration_seconds"

    def close() -> bool:
        milliseconds = model_value(dialects, per_request(stage))
        expected = model_value(
            dialects, f"1000 * rate({native}_sum{RANGE}) / rate({native}_count{RANGE})"
        )
        return 0 < milliseconds < COMPUTE_MS / 2 and milliseconds == pytest.approx(expected, rel=1)

    # Again, if a request waited for a CPU: each value is of the requests of about a second.
    until(close, "a time within a factor of two of the native metric", seconds=60)


def test_queue_time_per_request(dialects: DialectHost) -> None:
    query = (
        f"sum by (model,version) ((irate(nv_inference_queue_duration_us{JOB} {RANGE}) / 1000)"
        f" / irate(nv_inference_request_success{JOB} {RANGE}))"
    )
    until(
        lambda: 0 < model_value(dialects, query) < COMPUTE_MS,
        "requests are sequential: hardly any queue",
        seconds=60,
    )


def test_requests_per_execution(dialects: DialectHost) -> None:
    query = (
        f"sum by (model,version) (rate(nv_inference_request_success{JOB} {RANGE})"
        f"/rate(nv_inference_exec_count{JOB} {RANGE}))"
    )
    until(
        lambda: model_value(dialects, query) == pytest.approx(1), "nothing is batched", seconds=60
    )


@pytest.mark.parametrize(
    ("stage", "least"), [("input", 0.0), ("infer", COMPUTE_MS), ("output", 0.0)]
)
def test_busy_milliseconds_a_second(dialects: DialectHost, stage: str, least: float) -> None:
    """least: milliseconds of each execution; how many a second depends on the machine."""
    query = f"rate(nv_inference_compute_{stage}_duration_us{JOB} {RANGE}) / 1000"
    executions = f"rate(nv_inference_exec_count{JOB} {RANGE})"
    assert model_value(dialects, f"({query} > {least} * {executions}) < 1000")


def gpu_values(dialects: DialectHost, query: str, label: str) -> dict[str, float]:
    """Waits for the values of all eight GPUs and returns them by a label."""

    def values() -> dict[str, float]:
        found = vector(dialects, query, label)
        return found if len(found) == 8 else {}

    return until(values, query, seconds=20, every=0.2)


def test_gpu_memory_and_utilization_in_tritons_metrics(dialects: DialectHost) -> None:
    share = gpu_values(
        dialects, f"nv_gpu_memory_used_bytes{JOB} / nv_gpu_memory_total_bytes{JOB}", "gpu_uuid"
    )
    busy = gpu_values(dialects, f"nv_gpu_utilization{JOB}", "gpu_uuid")
    for index in range(8):
        card, uuid = cards.h100(index), cards.uuid(index)
        used = float(card["nvmlDeviceGetMemoryInfo_v2", "used"])
        total = float(card["nvmlDeviceGetMemoryInfo_v2", "total"])
        assert share[uuid] == pytest.approx(used / total)
        assert busy[uuid] == pytest.approx((100 - index) / 100)


def test_gpu_values_and_labels_in_dcgms_metrics(dialects: DialectHost) -> None:
    busy = gpu_values(dialects, "DCGM_FI_DEV_GPU_UTIL", "gpu")
    gibibytes = gpu_values(dialects, "DCGM_FI_DEV_FB_USED / 1024", "gpu")
    for index in range(8):
        used = float(cards.h100(index)["nvmlDeviceGetMemoryInfo_v2", "used"])
        assert busy[str(index)] == 100 - index
        assert gibibytes[str(index)] == pytest.approx(used / 2**30)
    (series,) = dialects.prometheus.answer('DCGM_FI_DEV_GPU_UTIL{gpu="3"}')
    labels = series["metric"]
    for name in ("__name__", "job", "instance"):
        labels.pop(name)
    assert labels == {
        "gpu": "3",
        "UUID": cards.uuid(3),
        "pci_bus_id": "00000000:00:0C.0",
        "device": "nvidia3",
        "modelName": "NVIDIA H100 80GB HBM3",
        "Hostname": platform.node(),
        "DCGM_FI_DRIVER_VERSION": "590.48.01",
    }


def test_promtool_parses_the_page(dialects: DialectHost) -> None:
    page = dialects.with_dialects.get("/metrics")[2].decode()
    assert "DCGM_FI_DEV_GPU_UTIL" in page
    assert promtool_parse_errors(page) == []


def test_dcgm_units(dialects: DialectHost) -> None:
    samples = dialects.with_dialects.samples()
    card = cards.h100(2)
    expected = {
        "DCGM_FI_DEV_POWER_USAGE": float(card["nvmlDeviceGetPowerUsage", "value"]) / 1000,
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION_total": float(
            card["nvmlDeviceGetTotalEnergyConsumption", "value"]
        ),
        "DCGM_FI_DEV_SM_CLOCK": float(card["nvmlDeviceGetClockInfo", "1"]),
        "DCGM_FI_DEV_MEM_CLOCK": float(card["nvmlDeviceGetClockInfo", "2"]),
        "DCGM_FI_DEV_GPU_TEMP": 61,
        "DCGM_FI_DEV_MEM_COPY_UTIL": 13,
    }
    for name, value in expected.items():
        assert find(samples, name, gpu="2") == pytest.approx(value), name


def test_container_memory(dialects: DialectHost) -> None:
    query = 'sum(container_memory_usage_bytes{image!=""}) by (name) / 1024 / 1024'

    names = {"busy", "idle", "restarted"}

    def containers() -> dict[str, float]:
        found = vector(dialects, query, "name")
        return found if found.keys() >= names else {}

    mebibytes = until(containers, query, seconds=30)["idle"]
    native = dialects.native.value("container_memory_usage_bytes", name="idle")
    assert native is not None
    assert mebibytes == pytest.approx(native / 2**20, rel=0.2)


def test_container_cpu(dialects: DialectHost) -> None:
    query = 'sum(rate(container_cpu_usage_seconds_total{image!=""}[5m])) by (name)'

    def busy() -> float:
        return vector(dialects, query, "name").get("busy", 0)

    until(lambda: busy() > 0, query, seconds=20, every=0.5)
    # The series is younger than five minutes: its increase divided by the whole range.
    counter = 'container_cpu_usage_seconds_total{name="busy"}[5m]'
    used = f"max_over_time({counter}) - min_over_time({counter})"
    until(
        lambda: busy() * 300 == pytest.approx(dialects.prometheus.scalar(used) or 0, rel=0.2),
        "the increase, as Prometheus extrapolates it",
        seconds=30,
        every=0.5,
    )
    recent = f"{query.replace('5m', '10s')} < 0.25 > 0.02"
    until(
        lambda: vector(dialects, recent, "name").get("busy"),
        "its quota is 0.2; a busy machine may give it less",
        seconds=30,
        every=0.5,
    )


def test_container_cpu_equals_the_kernels_counter(dialects: DialectHost) -> None:
    """Each value in Prometheus is a recent value of the kernel's counter."""
    busy = dialects.host.containers.busy
    query = 'container_cpu_usage_seconds_total{name="busy",cpu="total"}'

    scalar = dialects.prometheus.scalar
    bounds = []
    for _ in range(3):
        low = cpu_seconds(busy)
        # Read and scraped after this reading of the kernel's counter: within about two seconds.
        later = f"{query} >= {low}"
        scraped = until(lambda later=later: scalar(later), "a later reading", seconds=20, every=0.1)  # type: ignore[misc]  # a default binds the loop's value
        high = cpu_seconds(busy)
        assert scraped is not None
        assert low <= scraped <= high
        assert high - low < 3, "close enough to be meaningful"
        bounds.append((low, high))
        used = high + 0.2
        until(lambda used=used: cpu_seconds(busy) > used, "more CPU time", seconds=30)  # type: ignore[misc]  # as above
    assert bounds[-1][0] > bounds[0][1], "the value changed"


def test_cadvisors_labels_are_on_the_native_series(dialects: DialectHost) -> None:
    samples = dialects.with_dialects.samples()
    name = "container_cpu_usage_seconds_total"
    container_id = str(dialects.host.containers.busy.id)
    labels = {"name": "busy", "id": f"/docker/{container_id}"}
    assert find(samples, name, cpu="total", **labels) is not None
    assert find(samples, "container_memory_usage_bytes", **labels) is not None
    assert find(samples, "container_info", name="busy", id=container_id) == 1, "unchanged"


def test_each_name_has_as_many_series_with_and_without_dialects(dialects: DialectHost) -> None:
    with_dialects, native = (native_series(page) for page in dialects.idle_pages)
    assert with_dialects == native
    foreign = {name for name in FOREIGN if name.startswith(("DCGM", "nv_", "machine"))}
    assert foreign & {name for name, _ in dialects.idle_pages[0]}


def test_sums_are_the_same_with_and_without_dialects(dialects: DialectHost) -> None:
    """Compares constant values: the stand-in's GPUs, and Triton without requests."""
    compared = 0
    _, native_page = dialects.idle_pages
    names = {name for name, _ in native_page if name.startswith(("gpu_", "triton_"))}
    # The two daemons start at different times.
    since_start = {m.name for m in catalog() if "since the exporter started" in m.help}
    for metric in names - since_start:
        with_dialects, native = (
            sum(value for (name, _), value in page.items() if name == metric)
            for page in dialects.idle_pages
        )
        assert with_dialects == native, metric
        compared += 1
    assert compared > 50


def test_openmetrics_and_text_pages_have_each_family_once(dialects: DialectHost) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    page = dialects.with_dialects.get("/metrics", accept)[2].decode()
    families = list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]  # the library has no types
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    types = {family.name: family.type for family in families}
    assert types["nv_inference_request_success"] == "unknown", "a counter without _total"
    assert types["DCGM_FI_DEV_GPU_UTIL"] == "gauge"
    text = dialects.with_dialects.get("/metrics")[2].decode()
    heads = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    assert "# TYPE nv_inference_request_success counter\n" in text
    dialects.prometheus.answer("up == 1")
    assert dialects.prometheus.refused_scrapes() == [], "a real Prometheus parses it"


def test_collect_exclude_and_name_select_dialect_metrics(dialects: DialectHost) -> None:
    status, _, body = dialects.with_dialects.get("/metrics?collect[]=gpu&collect[]=dcgm")
    assert status == 200
    assert b"DCGM_FI_DEV_GPU_UTIL{" in body
    assert b"gpu_utilization_ratio{" in body
    assert b"container_" not in body
    assert b"DCGM" not in dialects.with_dialects.get("/metrics?collect[]=gpu")[2]
    status, _, body = dialects.with_dialects.get("/metrics?name[]=DCGM_FI_DEV_GPU_UTIL")
    assert body.count(b"\n") == 2 + 8
    for query in ("collect[]=gpus", "collect[]=gpu&exclude[]=host", "name[]=nothing"):
        status, _, body = dialects.with_dialects.get(f"/metrics?{query}")
        assert status == 400, query
        assert body


def test_counts_equal_the_native_metrics(dialects: DialectHost) -> None:
    def same() -> bool:
        samples = dialects.with_dialects.samples()
        native = find(samples, "triton_request_duration_seconds_count", model=LOADED_MODEL)
        name = "nv_inference_request_success_total"
        foreign = find(samples, name, model=LOADED_MODEL, upstream="main")
        assert native == foreign, "a page is a single reading"
        return (native or 0) > 50

    until(same, "fifty requests", seconds=20)
