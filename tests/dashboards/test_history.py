"""Every panel, variable and annotation with hours of synthetic history in a real Prometheus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exporter.registry import SOURCES
from tests.dashboards import query_checks
from tests.dashboards.hosts import (
    END,
    FAILING_SHARE,
    FAILING_SINCE,
    HOSTS,
    SCRAPE_INTERVAL,
    START,
    UNREADY_RANGE,
    XID_AT,
    wave_integral,
)
from tests.dashboards.predictions import (
    ABSOLUTE_ERROR,
    ACCURACY,
    BY_DELAY,
    CALM,
    COUNTS,
    COVERAGE,
    DISTANCES,
    DRIFTED_AT,
    MEANS,
    MISSING,
    NOISES,
    OF_A_DAY,
    OUT_OF_RANGE,
    PRECISION,
    RECALL,
    REFERENCE_COUNT,
    REQUEST_BYTES,
    REQUESTS,
    RESPONSE_BYTES,
    SHIFTED,
)
from tests.dashboards.query_checks import DASHBOARD_NAMES, load_dashboard
from tests.dashboards.values import (
    CPU_CORES,
    ENERGY_SHARES,
    GPU_MEMORY_USED,
    MEMORY_LIMITS,
    POWER,
    POWER_LIMITS,
    QUOTA_CORES,
    THROTTLED_SHARE,
    WORKING_SETS,
)
from tools.dashboards.prometheus_query import (
    DashboardQuerier,
    PrometheusApi,
    TimeRange,
    iter_panels,
    table_rows,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

Json = dict[str, Any]
# Two whole periods of the waves: means over the range are exact.
TIME_RANGE = TimeRange(END - 2 * 3600, END, 60, SCRAPE_INTERVAL)
FIRST_HOST, SECOND_HOST = HOSTS[:2]
SELECTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "all": {"instance": (FIRST_HOST.instance,)},
    "several": {
        "job": ("inference", "edge"),
        "instance": (FIRST_HOST.instance,),
        "model": ("wine", "digits"),
        "gpu": (FIRST_HOST.uuid(0), FIRST_HOST.uuid(1)),
        "container": ("triton", "api"),
    },
    "one": {
        "job": ("inference",),
        "instance": (FIRST_HOST.instance,),
        "model": ("wine",),
        "gpu": (FIRST_HOST.uuid(0),),
        "container": ("api",),
    },
}


def make_querier(api: PrometheusApi, name: str, **selected: tuple[str, ...]) -> DashboardQuerier:
    return DashboardQuerier(api, load_dashboard(name), TIME_RANGE, dict(selected))


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_panel(history_api: PrometheusApi, name: str, selection: str) -> None:
    querier = make_querier(history_api, name, **SELECTIONS[selection])
    problems: list[str] = []
    for panel in iter_panels(querier.dashboard):
        repetitions = query_checks.query_repeated(querier, panel)
        if selection == "all":  # MIG devices are on the second host
            second = replace(querier, selected={"instance": (SECOND_HOST.instance,)})
            repetitions += query_checks.query_repeated(second, panel)
        for results in repetitions:
            problems += query_checks.check_results(panel, results)
        # Some models may be idle: one repetition with data is enough.
        empty = set.intersection(
            *({*query_checks.empty_expressions(panel, results)} for results in repetitions)
        )
        if selection == "all":
            problems += [f"empty: {expression}" for expression in empty]
            continue
        problems += query_checks.unexplained_empty(querier, panel, repetitions)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_variables_offer_the_values_of_the_hosts(history_api: PrometheusApi, name: str) -> None:
    querier = make_querier(history_api, name)
    expected = {
        "job": {host.job for host in HOSTS},
        "instance": {host.instance for host in HOSTS},
        "model": {m.name for host in HOSTS for m in host.models if "triton" not in host.failing},
        "gpu": {h.uuid(i) for h in HOSTS for i in range(h.gpus) if "gpu" not in h.failing},
        "container": {name for host in HOSTS for name in host.containers},
        "engine": {"triton", "vllm"},
        "server": {"chat", *(model.server for host in HOSTS for model in host.models)},
        "predicted_model": {"wine"},
    }
    for variable in querier.dashboard["templating"]["list"]:
        if variable["type"] == "query":
            options: set[str] = set()
            for host in HOSTS:
                of_host = make_querier(history_api, name, instance=(host.instance,))
                listed = of_host.options(variable["name"])
                assert len(listed) == len(set(listed))
                options |= set(listed)
            assert options == expected[variable["name"]], variable["name"]
    second = make_querier(history_api, name, job=("inference",), instance=(SECOND_HOST.instance,))
    assert second.options("instance") == [h.instance for h in HOSTS if h.job == "inference"]
    if "model" in {v["name"] for v in second.dashboard["templating"]["list"]}:
        assert set(second.options("model")) == {model.name for model in SECOND_HOST.models}


def annotation_points(
    history_api: PrometheusApi, title: str
) -> list[tuple[str, tuple[tuple[float, float], ...]]]:
    querier = make_querier(history_api, "host", instance=(FIRST_HOST.instance,))
    (annotation,) = (a for a in querier.dashboard["annotations"]["list"] if a["name"] == title)
    return [(series.name, series.points) for series in querier.query_annotation(annotation)]


def test_annotations_have_the_right_times(history_api: PrometheusApi) -> None:
    ((title, points),) = annotation_points(history_api, "Model loads")
    assert title == "digits/1 loaded"
    assert len(points) == 1, "one annotation per load"
    assert points[0][0] == pytest.approx(UNREADY_RANGE[1], abs=60)
    ((title, points),) = annotation_points(history_api, "XIDs")
    assert title == "XID 31 on GPU 1"
    assert {value for _, value in points} == {XID_AT * 1000}
    ((title, points),) = annotation_points(history_api, "Exporter restarts")
    assert title == "exporter restarted"


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_annotation_has_data(history_api: PrometheusApi, name: str) -> None:
    querier = DashboardQuerier(
        history_api,
        load_dashboard(name),
        TimeRange(END - 10_000, END, 60, SCRAPE_INTERVAL),
        {"instance": (FIRST_HOST.instance,)},
    )
    for annotation in querier.dashboard["annotations"]["list"]:
        if "expr" in annotation:
            assert querier.query_annotation(annotation), annotation["name"]


# -- values computed from the history --


def panel_of(querier: DashboardQuerier, title: str) -> Json:
    return next(panel for panel in iter_panels(querier.dashboard) if panel["title"] == title)


def stat_value(querier: DashboardQuerier, title: str) -> float:
    """Returns the value of a stat."""
    (result,) = querier.query_panel(panel_of(querier, title))
    (series,) = result.series
    return series.last


def table_row(querier: DashboardQuerier, title: str, **cells: str) -> dict[str, Any]:
    """Returns the table row with these cells."""
    panel = panel_of(querier, title)
    rows = table_rows(panel, querier.query_panel(panel))
    (row,) = (row for row in rows if cells.items() <= row.items())
    return row


@pytest.fixture
def querier(history_api: PrometheusApi) -> DashboardQuerier:
    """Returns the querier of the host dashboard for the first host."""
    return make_querier(history_api, "host", instance=(FIRST_HOST.instance,))


def test_values_of_the_service_level(querier: DashboardQuerier) -> None:
    assert stat_value(querier, "Worst success ratio") == pytest.approx(0.95, abs=1e-6)
    assert stat_value(querier, "Error budget left") == pytest.approx(1 - 0.05 / 0.01, abs=1e-4)
    querier.selected["slo"] = ("0.9",)
    assert stat_value(querier, "Error budget left") == pytest.approx(1 - 0.05 / 0.1, abs=1e-4)
    assert stat_value(querier, "Burn rate, 1h") == pytest.approx(0.5, abs=1e-4)
    assert stat_value(querier, "Burn rate, 6h") == pytest.approx(0.5, abs=1e-4)
    assert stat_value(querier, "Models not ready") == 0
    assert stat_value(querier, "GPUs down") == 0
    assert stat_value(querier, "Sources down") == 0
    firing = table_row(querier, "What is wrong now", Condition="ContainerCpuThrottled")
    assert firing["Object"] == "container api"
    assert firing["Page"] == "containers"
    assert firing["Since"] == 1000 * (END - 900)
    then = TimeRange(UNREADY_RANGE[0] - 3600, UNREADY_RANGE[0] + 600, 60, SCRAPE_INTERVAL)
    earlier = DashboardQuerier(querier.api, querier.dashboard, then, querier.selected)
    assert stat_value(earlier, "Models not ready") == 1


def test_windows_of_the_service_level(history_api: PrometheusApi) -> None:
    """A model that has failed for half an hour, over windows of different lengths."""
    querier = make_querier(
        history_api, "host", instance=(SECOND_HOST.instance,), model=("speech (en+de)",)
    )

    def share(seconds: float) -> float:
        return FAILING_SHARE * wave_integral(END, FAILING_SINCE) / wave_integral(END, END - seconds)

    assert stat_value(querier, "Worst success ratio") == pytest.approx(1 - share(7200), rel=1e-3)
    assert stat_value(querier, "Error budget left") == pytest.approx(
        1 - share(7200) / 0.01, rel=1e-2
    )
    assert stat_value(querier, "Burn rate, 1h") == pytest.approx(share(3600) / 0.01, rel=1e-2)
    whole = END - START
    assert stat_value(querier, "Burn rate, 6h") == pytest.approx(share(whole) / 0.01, rel=1e-2)


def test_values_of_models(querier: DashboardQuerier) -> None:
    wine = table_row(querier, "Models", Model="wine")
    assert wine["Success"] == pytest.approx(0.95, abs=1e-6)
    assert wine["Latency"] == pytest.approx(0.04, rel=1e-6)
    assert wine["Queue"] == pytest.approx(0.5, abs=1e-6)
    assert wine["Batch"] == pytest.approx(4 * 0.95, rel=1e-6)
    assert wine["Cache hits"] == pytest.approx(0.1 * 0.95, rel=1e-6)
    idle = table_row(querier, "Models", Model="idle")
    assert idle["Req/s"] == 0
    assert "Success" not in idle, "no ratio without traffic"
    assert {table_row(querier, "Models", Model="digits", Version=v)["Ready"] for v in "12"} == {1}
    latency = table_row(querier, "Request latency by stage", Model="wine")
    stages = [latency[name] for name in ("Queue", "Input", "Inference", "Output")]
    assert stages == pytest.approx([0.02, 0.002, 0.016, 0.002], rel=1e-6)
    assert sum(stages) == pytest.approx(0.04), "the stages add up to the mean latency"


def test_values_of_gpus(history_api: PrometheusApi, querier: DashboardQuerier) -> None:
    gpu = table_row(querier, "GPUs now", GPU="0")
    assert gpu["UUID"] == FIRST_HOST.uuid(0)
    assert gpu["Product"] == "NVIDIA H100 80GB HBM3"
    assert gpu["Memory"] == pytest.approx(35 / 80)
    assert gpu["Pwr/limit"] == pytest.approx(gpu["Power"] / POWER_LIMITS["enforced"])
    assert gpu["To slowdown"] == pytest.approx(86 - gpu["Temp"])
    assert (gpu["Throttled"], table_row(querier, "GPUs now", GPU="1")["Throttled"]) == (1, 0)
    assert table_row(querier, "XIDs", XID="31")["Last seen"] == XID_AT * 1000
    detail = make_querier(
        history_api, "gpu", instance=(FIRST_HOST.instance,), gpu=(FIRST_HOST.uuid(0),)
    )
    energy = stat_value(detail, "Energy in range")
    assert energy == pytest.approx(2 * 3600 * POWER, rel=1e-4)
    assert stat_value(detail, "Current power") == pytest.approx(POWER, rel=0.01)
    whole, _ = detail.query_panel(panel_of(detail, "Energy"))
    parts, _ = detail.query_panel(panel_of(detail, "Energy by container (estimate)"))
    assert len(parts.series) == len(ENERGY_SHARES)
    (of_gpu,) = whole.series
    assert sum(part.last for part in parts.series) == pytest.approx(of_gpu.last, rel=1e-6)


def test_values_of_containers(querier: DashboardQuerier) -> None:
    api = table_row(querier, "Usage and limits", Container="api")
    assert api["CPU"] == pytest.approx(CPU_CORES["api"], rel=0.31), "the wave is 30 %"
    assert api["CPU/quota"] == pytest.approx(api["CPU"] / QUOTA_CORES["api"])
    assert api["Throttled"] == pytest.approx(THROTTLED_SHARE)
    assert api["Mem/limit"] == pytest.approx(WORKING_SETS["api"] / MEMORY_LIMITS["api"])
    assert api["OOM"] == pytest.approx(1, rel=0.05)
    assert api["State"] == "running"
    cache = table_row(querier, "Usage and limits", Container="cache")
    assert not {"CPU/quota", "Throttled", "Mem/limit"} & set(cache), "no ratio without a limit"
    assert table_row(querier, "Usage and limits", Container="migrate")["State"] == "exited"
    assert api["GPU mem"] == FIRST_HOST.gpus * GPU_MEMORY_USED["api"]


def execution_seconds(name: str, version: str = "1") -> float:
    """Returns seconds of execution per second of a model of the first host, on each of its GPUs."""
    (model,) = (m for m in FIRST_HOST.models if (m.name, m.version) == (name, version))
    executions = model.requests / model.batch
    return executions * model.mean * (1 - model.queue) * 0.8 / len(model.gpus)


def test_values_of_the_placement(querier: DashboardQuerier) -> None:
    whole = (
        execution_seconds("wine")
        + execution_seconds("digits", "1")
        + execution_seconds("digits", "2")
    )
    wine = table_row(querier, "Placement", Model="wine")
    assert wine["Share"] == pytest.approx(execution_seconds("wine") / whole, rel=1e-6)
    assert (wine["Container"], wine["GPU"], wine["UUID"]) == ("triton", "0", FIRST_HOST.uuid(0))
    assert wine["GPU mem"] == GPU_MEMORY_USED["triton"]
    watts = POWER * execution_seconds("wine") / whole
    joules = 1000 * watts / (20 * 0.95)
    energy = table_row(querier, "Models", Model="wine")["J/1,000"]
    assert energy == pytest.approx(joules, rel=1e-6)
    alone = table_row(querier, "Placement", Model="digits", Version="2", GPU="1")
    assert alone["Share"] == pytest.approx(1), "the only model on that GPU"
    both = POWER * execution_seconds("digits", "2") / whole + POWER
    energy = table_row(querier, "Models", Model="digits", Version="2")["J/1,000"]
    assert energy == pytest.approx(1000 * both / (15 * 0.999), rel=1e-6)
    assert "J/1,000" not in table_row(querier, "Models", Model="idle")


def last_values(querier: DashboardQuerier, title: str) -> dict[str, float]:
    """Returns the last value of each series of a panel by its name."""
    results = querier.query_panel(panel_of(querier, title))
    return {series.name: series.last for result in results for series in result.series}


def test_values_of_the_predictions(history_api: PrometheusApi) -> None:
    querier = make_querier(history_api, "quality", instance=(FIRST_HOST.instance,))
    assert stat_value(querier, "Largest PSI now") == DISTANCES["psi"]
    assert stat_value(querier, "Drift alarm since") == DRIFTED_AT * 1000
    assert stat_value(querier, "Accuracy, last day") == ACCURACY
    assert stat_value(querier, "Absolute error, last day") == ABSOLUTE_ERROR
    assert stat_value(querier, "Coverage of truths") == COVERAGE
    results = querier.query_panel(panel_of(querier, "Drift from the baselines (PSI)"))
    hour = next(s for s in results[0].series if s.name == "1h reference")
    before = [value for time, value in hour.points if time < DRIFTED_AT]
    after = [value for time, value in hour.points if time >= DRIFTED_AT + 60]
    calm = pytest.approx(CALM * DISTANCES["psi"])
    assert [min(before), max(before)] == [calm, calm]
    assert set(after) == {DISTANCES["psi"]}
    assert last_values(querier, "Accuracy and coverage") == {
        "accuracy": ACCURACY,
        "coverage": COVERAGE,
    }
    assert last_values(querier, "Predictions in the window") == COUNTS
    buckets = last_values(querier, "Predictions of the last hour")
    assert buckets["5.0"] == sum(SHIFTED[:11])
    assert buckets["+Inf"] == sum(SHIFTED)
    row = table_row(querier, "Windows and baselines", Window="1d", Baseline="reference")
    assert row["Its predictions"] == REFERENCE_COUNT
    assert row["Unmatched"] == 0
    names = {"PSI": "psi", "KS": "ks", "JS": "js", "Wasserstein": "wasserstein"}
    assert {title: row[title] for title in names} == {
        title: OF_A_DAY * DISTANCES[name] for title, name in names.items()
    }
    assert (row["PSI noise"], row["KS noise"]) == (NOISES["psi"], NOISES["ks"])
    for title, name in (
        ("Kolmogorov-Smirnov distance", "ks"),
        ("Jensen-Shannon distance", "js"),
        ("Wasserstein distance", "wasserstein"),
    ):
        values = last_values(querier, title)
        assert values["1h last_week"] == DISTANCES[name]
        assert values["noise 1d reference"] == NOISES[name]


def test_values_of_truths_features_and_requests(history_api: PrometheusApi) -> None:
    querier = make_querier(history_api, "quality", instance=(FIRST_HOST.instance,))
    assert last_values(querier, "Accuracy by delay of the truth") == {
        f"within {delay}": value for delay, value in BY_DELAY.items()
    }
    assert last_values(querier, "Precision") == PRECISION
    assert last_values(querier, "Recall") == RECALL
    assert last_values(querier, "Mean absolute error") == {"error": ABSOLUTE_ERROR}
    assert last_values(querier, "Features missing") == MISSING
    assert last_values(querier, "Features out of range") == OUT_OF_RANGE
    assert last_values(querier, "Mean of features") == MEANS
    by_status = last_values(querier, "Requests by status")
    assert by_status == {
        f"{code} triton-http": pytest.approx(rate, rel=0.06) for code, rate in REQUESTS.items()
    }
    assert last_values(querier, "Served requests") == {
        "served triton-http": pytest.approx(10 / 12),
        "client errors triton-http": pytest.approx(1.5 / 12),
    }
    assert last_values(querier, "Request size") == {"triton-http": REQUEST_BYTES}
    assert last_values(querier, "Response size") == {"triton-http": RESPONSE_BYTES}


def test_values_of_the_fleet(history_api: PrometheusApi) -> None:
    querier = make_querier(history_api, "fleet")
    assert stat_value(querier, "Hosts scraped") == len(HOSTS)
    assert stat_value(querier, "GPUs") == sum(host.gpus for host in HOSTS)
    power = sum(host.gpus for host in HOSTS if "gpu" not in host.failing) * POWER
    assert stat_value(querier, "GPU power") == pytest.approx(power, rel=0.01)
    sick = table_row(querier, "Which host needs attention", Instance="sick-1:10400")
    assert sick["Down"] == 2
    assert sick["Failing"] == 2
    assert "Power" not in sick


# -- hosts without GPU, Triton or containers, and a failing host --


def no_value_text(querier: DashboardQuerier, title: str) -> str:
    """Returns the text of a panel without data; fails if it has data."""
    panel = panel_of(querier, title)
    results = querier.query_panel(panel)
    if text := query_checks.text_row(panel, results):
        return text
    assert not any(result.series for result in results), f"{title} has data"
    return str(panel["fieldConfig"]["defaults"]["noValue"])


@pytest.mark.parametrize("host", HOSTS[2:], ids=lambda host: host.instance.split(":")[0])
@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_a_host_with_absent_or_failing_sources(
    history_api: PrometheusApi, name: str, host: Any
) -> None:
    """Panels of present sources are valid; panels of absent sources are empty."""
    querier = make_querier(history_api, name, instance=(host.instance,))
    absent = {*host.without, *host.failing}
    problems: list[str] = []
    for panel in iter_panels(querier.dashboard):
        repetitions = query_checks.query_repeated(querier, panel)
        for results in repetitions:
            problems += query_checks.check_results(panel, results)
        problems += query_checks.unexplained_empty(querier, panel, repetitions)
    assert not problems, "\n".join(problems)
    assert absent <= {source.name for source in SOURCES}


def test_panels_without_data_have_a_text(history_api: PrometheusApi) -> None:
    no_gpu = make_querier(history_api, "host", instance=("cpu-1:10400",))
    assert no_value_text(no_gpu, "GPUs") == "No GPU, or no verdict"
    for title in ("GPUs now", "GPUs down"):
        assert no_value_text(no_gpu, title) == "No GPU"
    for title in ("GPU utilization", "Power and power limit"):
        assert no_value_text(no_gpu, title) == "No GPU, or not reported"
    assert stat_value(no_gpu, "Models not ready") == 0
    no_triton = make_querier(history_api, "host", instance=("train-1:10400",))
    assert no_value_text(no_triton, "Models not ready") == "No models read"
    assert no_value_text(no_triton, "Models") == "No models read"
    assert no_value_text(no_triton, "Worst success ratio") == "No requests seen"
    assert no_value_text(no_triton, "Error budget left") == "No requests seen"
    assert stat_value(no_triton, "GPUs down") == 0
    bare = make_querier(history_api, "host", instance=("bare-1:10400",))
    assert no_value_text(bare, "Containers") == "No containers read"
    assert no_value_text(bare, "Usage and limits") == "No containers read"
    assert no_value_text(bare, "What is wrong now") == "No alert of the rules fires"
    sick = make_querier(history_api, "host", instance=("sick-1:10400",))
    assert stat_value(sick, "GPUs down") == 2
    assert stat_value(sick, "Sources down") == 2
    assert no_value_text(sick, "GPU utilization") == "No GPU, or not reported"
    now = panel_of(sick, "GPUs now")
    gpus = table_rows(now, sick.query_panel(now))
    assert [(row["GPU"], row.get("Product"), row["Up"]) for row in gpus] == [
        ("0", None, 0),
        ("1", None, 0),
    ]


def test_a_model_without_requests(history_api: PrometheusApi) -> None:
    querier = make_querier(history_api, "model", instance=(FIRST_HOST.instance,), model=("idle",))
    assert no_value_text(querier, "Worst success ratio") == "No requests seen"
    panel = "Latency by server: percentiles, or mean"
    assert no_value_text(querier, panel) == "No requests seen"
    result = querier.query_panel(panel_of(querier, "Requests by server"))[0]
    assert {value for series in result.series for _, value in series.points} == {0}
