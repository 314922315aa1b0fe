"""The queries people have today, verbatim, on a real Prometheus that scrapes all dialects.

Job names and Grafana's variables are substituted, as Grafana would. The daemon polls twice a
scrape, so that `irate`, which looks at two scrapes, sees two readings.
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
from tests.e2e.host import ASKED as MODEL
from tests.e2e.host import Parts, watching
from tests.fakes.nvml import cards
from tests.prometheus import Prometheus, scraping
from tests.sources.containers.kernel_values import cpu_seconds
from tests.sources.triton.load import send
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

WORK = 20.0  # milliseconds the model works for each request
NATIVE = catalog()
# The client library's parser hangs a _total to every counter that has none.
FOREIGN = {
    f"{each.name}{suffix}"
    for each in active_dialects(NAMES, NATIVE, "", "").family_rules
    for suffix in ("", "_total")
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Two daemons on one host, one of which speaks all dialects; a load runs on Triton."""

    spoken: Daemon
    plain: Daemon
    prometheus: Prometheus
    parts: Parts
    idle: tuple[Samples, Samples]
    """Pages of both while nothing was asked of Triton."""


@pytest.fixture(scope="module")
def loaded(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folders = [tmp_path_factory.mktemp(name) for name in ("spoken", "plain")]
    with (
        watching(parts, folders[0], "--dialect=dcgm,cadvisor,triton") as spoken,
        watching(parts, folders[1]) as plain,
        scraping(folders[0] / "prometheus", spoken.port) as prometheus,
    ):
        idle = until(lambda: alike(spoken, plain), "the same series on both", seconds=30, every=0.3)
        assert idle is not None
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                send(parts.triton.url, MODEL, good=5, milliseconds=WORK)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            yield Loaded(spoken, plain, prometheus, parts, idle)
        finally:
            stop.set()
            thread.join()


def alike(spoken: Daemon, plain: Daemon) -> tuple[Samples, Samples] | None:
    """Pages of both, once each shows what takes two polls, and the same native series."""
    pages = (spoken.samples(), plain.samples())
    late = {"container_cpu_usage_seconds_total", "gpu_sm_active_ratio", "triton_requests_total"}
    assert late <= {metric.name for metric in NATIVE}
    ours, theirs = (Counter(name for name, _ in page if name not in FOREIGN) for page in pages)
    return pages if late <= set(theirs) and ours == theirs else None


J = '{job="inference"}'
R = "[4s]"  # Grafana's $__rate_interval: four scrapes


def per_request(stage: str) -> str:
    return (
        f"(irate(nv_inference_{stage}_duration_us{J} {R}) / 1000)"
        f" / irate(nv_inference_request_success{J} {R})"
    )


def vector(loaded: Loaded, query: str, label: str) -> dict[str, float]:
    """What a query gives, by one of its labels."""
    result = loaded.prometheus.query(query)
    found = {each["metric"][label]: float(each["value"][1]) for each in result}
    assert len(found) == len(result)
    return found


def asked(loaded: Loaded, query: str, model: str = MODEL) -> float:
    """The value of one model, once the query has one. Others, without requests, are NaN."""

    def value() -> float | None:
        result = vector(loaded, query, "model").get(model)
        return None if result is None or math.isnan(result) else result

    found = until(lambda: (now := value()) is not None and (now,), query, seconds=20, every=0.2)
    assert found
    return found[0]


def test_inference_time_per_request(loaded: Loaded) -> None:
    assert WORK <= asked(loaded, per_request("compute_infer")) < 1.5 * WORK


@pytest.mark.parametrize("stage", ["compute_input", "compute_output"])
def test_input_and_output_time_per_request(loaded: Loaded, stage: str) -> None:
    milliseconds = asked(loaded, per_request(stage))
    assert 0 < milliseconds < WORK / 2
    native = stage.replace("compute", "triton_compute") + "_duration_seconds"
    ours = asked(loaded, f"1000 * rate({native}_sum{R}) / rate({native}_count{R})")
    assert milliseconds == pytest.approx(ours, rel=1), "of the order of what we say ourselves"


def test_queue_time_per_request(loaded: Loaded) -> None:
    milliseconds = asked(
        loaded,
        f"sum by (model,version) ((irate(nv_inference_queue_duration_us{J} {R}) / 1000)"
        f" / irate(nv_inference_request_success{J} {R}))",
    )
    assert 0 < milliseconds < WORK, "requests come one after the other: hardly any queue"


def test_requests_per_execution(loaded: Loaded) -> None:
    query = (
        f"sum by (model,version) (rate(nv_inference_request_success{J} {R})"
        f"/rate(nv_inference_exec_count{J} {R}))"
    )
    assert asked(loaded, query) == pytest.approx(1), "nothing is batched"


@pytest.mark.parametrize(("stage", "least"), [("input", 0.0), ("infer", 500.0), ("output", 0.0)])
def test_busy_milliseconds_a_second(loaded: Loaded, stage: str, least: float) -> None:
    query = f"rate(nv_inference_compute_{stage}_duration_us{J} {R}) / 1000"
    until(lambda: asked(loaded, query) > least, query, seconds=20, every=0.2)
    assert asked(loaded, query) < 1000


def of_gpus(loaded: Loaded, query: str, label: str) -> dict[str, float]:
    until(lambda: len(loaded.prometheus.query(query)) == 8, query, seconds=20, every=0.2)
    return vector(loaded, query, label)


def test_gpu_memory_and_utilization_as_triton_has_them(loaded: Loaded) -> None:
    share = of_gpus(
        loaded, f"nv_gpu_memory_used_bytes{J} / nv_gpu_memory_total_bytes{J}", "gpu_uuid"
    )
    busy = of_gpus(loaded, f"nv_gpu_utilization{J}", "gpu_uuid")
    for index in range(8):
        card, uuid = cards.h100(index), cards.uuid(index)
        used = float(card["nvmlDeviceGetMemoryInfo_v2", "used"])
        total = float(card["nvmlDeviceGetMemoryInfo_v2", "total"])
        assert share[uuid] == pytest.approx(used / total)
        assert busy[uuid] == pytest.approx((100 - index) / 100)


def test_gpus_as_dcgm_has_them(loaded: Loaded) -> None:
    busy = of_gpus(loaded, "DCGM_FI_DEV_GPU_UTIL", "gpu")
    gibibytes = of_gpus(loaded, "DCGM_FI_DEV_FB_USED / 1024", "gpu")
    for index in range(8):
        used = float(cards.h100(index)["nvmlDeviceGetMemoryInfo_v2", "used"])
        assert busy[str(index)] == 100 - index
        assert gibibytes[str(index)] == pytest.approx(used / 2**30)
    (labels,) = [
        each["metric"] for each in loaded.prometheus.query('DCGM_FI_DEV_GPU_UTIL{gpu="3"}')
    ]
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


def test_dcgm_in_its_units(loaded: Loaded) -> None:
    samples = loaded.spoken.samples()
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


def test_container_memory(loaded: Loaded) -> None:
    query = 'sum(container_memory_usage_bytes{image!=""}) by (name) / 1024 / 1024'

    names = {"busy", "idle", "restarted"}
    until(lambda: vector(loaded, query, "name").keys() >= names, query)
    found = vector(loaded, query, "name")
    bytes_ = loaded.plain.value("container_memory_usage_bytes", name="idle")
    assert bytes_ is not None
    assert found["idle"] == pytest.approx(bytes_ / 2**20, rel=0.2)


def test_container_cpu(loaded: Loaded) -> None:
    query = 'sum(rate(container_cpu_usage_seconds_total{image!=""}[5m])) by (name)'

    def busy() -> float:
        return vector(loaded, query, "name").get("busy", 0)

    until(lambda: busy() > 0, query, seconds=20, every=0.5)
    # Over five minutes there is not yet so much: what was used meanwhile, divided by all of them.
    counter = 'container_cpu_usage_seconds_total{name="busy"}[5m]'
    used = f"max_over_time({counter}) - min_over_time({counter})"
    until(
        lambda: busy() * 300 == pytest.approx(loaded.prometheus.scalar(used) or 0, rel=0.2),
        "what was used, as Prometheus extrapolates it",
        seconds=30,
        every=0.5,
    )
    recent = vector(loaded, query.replace("5m", "10s"), "name")["busy"]
    assert 0.02 < recent < 0.25, "its quota is 0.2; a busy machine may give it less"


def test_container_cpu_is_the_kernels(loaded: Loaded) -> None:
    """Each value that Prometheus holds is one that the kernel's counter had a moment before."""
    busy = loaded.parts.three.busy
    query = 'container_cpu_usage_seconds_total{name="busy",cpu="total"}'

    def value() -> float:
        return loaded.prometheus.scalar(query) or 0.0

    bounds = []
    for _ in range(3):
        low = cpu_seconds(busy)
        # Scraped, and before that read, after the kernel was asked: within two seconds or so.
        until(lambda low=low: value() >= low, "a later reading", seconds=20, every=0.1)  # type: ignore[misc]  # a default binds the loop's value
        shown, high = value(), cpu_seconds(busy)
        assert low <= shown <= high
        assert high - low < 3, "or the bounds would say nothing"
        bounds.append((low, high))
        used = high + 0.2
        until(lambda used=used: cpu_seconds(busy) > used, "more was used", seconds=30)  # type: ignore[misc]  # as above
    assert bounds[-1][0] > bounds[0][1], "it was not one value"


def test_cadvisors_labels_are_on_the_very_same_series(loaded: Loaded) -> None:
    samples = loaded.spoken.samples()
    name = "container_cpu_usage_seconds_total"
    key = loaded.parts.three.busy.id
    assert find(samples, name, name="busy", cpu="total", id=f"/docker/{key}") is not None
    assert (
        find(samples, "container_memory_usage_bytes", name="busy", id=f"/docker/{key}") is not None
    )
    assert find(samples, "container_info", name="busy", id=str(key)) == 1, "ours as it was"


def test_each_name_has_as_many_series_with_and_without_dialects(loaded: Loaded) -> None:
    spoken, plain = loaded.idle
    ours, theirs = (Counter(name for name, _ in samples) for samples in (spoken, plain))
    assert {name: count for name, count in ours.items() if name not in FOREIGN} == theirs
    assert {name for name in FOREIGN if name.startswith(("DCGM", "nv_", "machine"))} & set(ours)


def test_sums_are_the_same_with_and_without_dialects(loaded: Loaded) -> None:
    """Of what stands still meanwhile: the stand-in's GPUs, a Triton that nobody asks."""
    spoken, plain = loaded.idle
    compared = 0
    for name in {name for name, _ in plain if name.startswith(("gpu_", "triton_"))}:
        with_, without = (
            sum(value for (each, _), value in samples.items() if each == name)
            for samples in (spoken, plain)
        )
        assert with_ == without, name
        compared += 1
    assert compared > 50


def test_openmetrics_takes_it_and_each_family_stands_once(loaded: Loaded) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    page = loaded.spoken.get("/metrics", accept)[2].decode()
    families = list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]  # the library has no types
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    types = {family.name: family.type for family in families}
    assert types["nv_inference_request_success"] == "unknown", "a counter without _total"
    assert types["DCGM_FI_DEV_GPU_UTIL"] == "gauge"
    text = loaded.spoken.get("/metrics")[2].decode()
    heads = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    assert "# TYPE nv_inference_request_success counter\n" in text
    assert loaded.prometheus.scalar("min_over_time(up[1m])") == 1, "a real one takes it too"


def test_a_part_of_the_page(loaded: Loaded) -> None:
    status, _, body = loaded.spoken.get("/metrics?collect[]=gpu&collect[]=host")
    assert status == 200
    assert b"DCGM_FI_DEV_GPU_UTIL{" in body
    assert b"machine_cpu_cores " in body
    assert b"container_" not in body
    status, _, body = loaded.spoken.get("/metrics?name[]=DCGM_FI_DEV_GPU_UTIL")
    assert body.count(b"\n") == 2 + 8
    for query in ("collect[]=gpus", "collect[]=gpu&exclude[]=host", "name[]=nothing"):
        status, _, body = loaded.spoken.get(f"/metrics?{query}")
        assert status == 400, query
        assert body


def test_counts_are_those_of_the_native_metrics(loaded: Loaded) -> None:
    def same() -> bool:
        samples = loaded.spoken.samples()
        ours = find(samples, "triton_request_duration_seconds_count", model=MODEL)
        theirs = find(samples, "nv_inference_request_success_total", model=MODEL, server="main")
        assert ours == theirs, "one page is one reading"
        return (ours or 0) > 50

    until(same, "fifty requests", seconds=20)
