"""Every panel, variable and annotation on hours of made history in a real Prometheus."""

from __future__ import annotations

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
# Two whole periods of the waves, so that means over the range are exact.
TIME_RANGE = TimeRange(END - 2 * 3600, END, 60, SCRAPE_INTERVAL)
ONE, TWO = HOSTS[:2]
SELECTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "all": {},
    "several": {
        "job": ("inference", "edge"),
        "instance": (ONE.instance, TWO.instance),
        "model": ("wine", "speech (en+de)"),
        "gpu": (ONE.uuid(0), ONE.uuid(1), TWO.uuid(1)),
        "container": ("triton", "api"),
    },
    "one": {
        "job": ("inference",),
        "instance": (ONE.instance,),
        "model": ("wine",),
        "gpu": (ONE.uuid(0),),
        "container": ("api",),
    },
}


def querier_of(api: PrometheusApi, name: str, **chosen: tuple[str, ...]) -> DashboardQuerier:
    return DashboardQuerier(api, load_dashboard(name), TIME_RANGE, dict(chosen))


@pytest.mark.parametrize("choice", SELECTIONS)
@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_panel(past: PrometheusApi, name: str, choice: str) -> None:
    asks = querier_of(past, name, **SELECTIONS[choice])
    wrong: list[str] = []
    for panel in iter_panels(asks.dashboard):
        several = query_checks.query_repeated(asks, panel)
        for answers in several:
            wrong += query_checks.check_results(panel, answers)
        # Of models, one may be idle: some repetition must show something.
        lacking = set.intersection(
            *({*query_checks.empty_expressions(panel, answers)} for answers in several)
        )
        if choice == "all":
            wrong += [f"empty: {what}" for what in lacking]
            continue
        wrong += query_checks.unexplained_empty(asks, panel, several)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_variable_offers_what_there_is(past: PrometheusApi, name: str) -> None:
    asks = querier_of(past, name)
    there = {
        "job": {host.job for host in HOSTS},
        "instance": {host.instance for host in HOSTS},
        "model": {m.name for host in HOSTS for m in host.models if "triton" not in host.failing},
        "gpu": {h.uuid(i) for h in HOSTS for i in range(h.gpus) if "gpu" not in h.failing},
        "container": {name for host in HOSTS for name in host.containers},
    }
    for variable in asks.dashboard["templating"]["list"]:
        if variable["type"] == "query":
            options = asks.options(variable["name"])
            assert len(options) == len(set(options))
            assert set(options) == there[variable["name"]], variable["name"]
    one = querier_of(past, name, job=("inference",), instance=(TWO.instance,))
    assert one.options("instance") == [h.instance for h in HOSTS if h.job == "inference"]
    if "model" in {v["name"] for v in one.dashboard["templating"]["list"]}:
        assert set(one.options("model")) == {model.name for model in TWO.models}


def annotation_points(
    past: PrometheusApi, title: str
) -> list[tuple[str, tuple[tuple[float, float], ...]]]:
    asks = querier_of(past, "host", instance=(ONE.instance,))
    (annotation,) = (a for a in asks.dashboard["annotations"]["list"] if a["name"] == title)
    return [(series.name, series.points) for series in asks.annotation(annotation)]


def test_annotations_mark_the_moment(past: PrometheusApi) -> None:
    ((title, points),) = annotation_points(past, "Model loads")
    assert title == "digits/1 loaded"
    assert len(points) == 1, "one mark a load"
    assert points[0][0] == pytest.approx(UNREADY_RANGE[1], abs=60)
    ((title, points),) = annotation_points(past, "XIDs")
    assert title == "XID 31 on GPU 1"
    assert {value for _, value in points} == {XID_AT * 1000}
    ((title, points),) = annotation_points(past, "Exporter restarts")
    assert title == "exporter restarted"


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_annotation_gives_something(past: PrometheusApi, name: str) -> None:
    asks = DashboardQuerier(
        past, load_dashboard(name), TimeRange(END - 10_000, END, 60, SCRAPE_INTERVAL)
    )
    for annotation in asks.dashboard["annotations"]["list"]:
        if "expr" in annotation:
            assert asks.annotation(annotation), annotation["name"]


# -- numbers known beforehand --


def panel_of(asks: DashboardQuerier, title: str) -> Json:
    return next(panel for panel in iter_panels(asks.dashboard) if panel["title"] == title)


def stat_value(asks: DashboardQuerier, title: str) -> float:
    """What a stat shows."""
    (answer,) = asks.panel(panel_of(asks, title))
    (series,) = answer.series
    return series.last


def table_row(asks: DashboardQuerier, title: str, **where: str) -> dict[str, Any]:
    """The line of a table that has these texts."""
    panel = panel_of(asks, title)
    (found,) = (
        each for each in table_rows(panel, asks.panel(panel)) if where.items() <= each.items()
    )
    return found


@pytest.fixture
def first(past: PrometheusApi) -> DashboardQuerier:
    """The host's screen of the first host."""
    return querier_of(past, "host", instance=(ONE.instance,))


def test_numbers_of_the_service_level(first: DashboardQuerier) -> None:
    assert stat_value(first, "Success, worst model") == pytest.approx(0.95, abs=1e-6)
    assert stat_value(first, "Error budget left") == pytest.approx(1 - 0.05 / 0.01, abs=1e-4)
    first.chosen["slo"] = ("0.9",)
    assert stat_value(first, "Error budget left") == pytest.approx(1 - 0.05 / 0.1, abs=1e-4)
    assert stat_value(first, "Burn rate, 1h") == pytest.approx(0.5, abs=1e-4)
    assert stat_value(first, "Burn rate, 6h") == pytest.approx(0.5, abs=1e-4)
    assert stat_value(first, "Models not ready") == 0
    assert stat_value(first, "GPUs down") == 0
    assert stat_value(first, "Sources failing") == 0
    assert stat_value(first, "Alerts firing") == 1
    then = TimeRange(UNREADY_RANGE[0] - 3600, UNREADY_RANGE[0] + 600, 60, SCRAPE_INTERVAL)
    earlier = DashboardQuerier(first.api, first.dashboard, then, first.chosen)
    assert stat_value(earlier, "Models not ready") == 1


def test_windows_of_the_service_level(past: PrometheusApi) -> None:
    """A model that fails since half an hour, over windows of different lengths."""
    asks = querier_of(past, "host", instance=(TWO.instance,), model=("speech (en+de)",))

    def share(seconds: float) -> float:
        return FAILING_SHARE * wave_integral(END, FAILING_SINCE) / wave_integral(END, END - seconds)

    assert stat_value(asks, "Success, worst model") == pytest.approx(1 - share(7200), rel=1e-3)
    assert stat_value(asks, "Error budget left") == pytest.approx(1 - share(7200) / 0.01, rel=1e-2)
    assert stat_value(asks, "Burn rate, 1h") == pytest.approx(share(3600) / 0.01, rel=1e-2)
    whole = END - START
    assert stat_value(asks, "Burn rate, 6h") == pytest.approx(share(whole) / 0.01, rel=1e-2)


def test_numbers_of_models(first: DashboardQuerier) -> None:
    wine = table_row(first, "Models", Model="wine")
    assert wine["Success"] == pytest.approx(0.95, abs=1e-6)
    assert wine["Mean latency"] == pytest.approx(0.04, rel=1e-6)
    assert wine["Queue share"] == pytest.approx(0.5, abs=1e-6)
    assert wine["Items/execution"] == pytest.approx(4 * 0.95, rel=1e-6)
    assert wine["Cache hits"] == pytest.approx(0.1 * 0.95, rel=1e-6)
    idle = table_row(first, "Models", Model="idle")
    assert idle["Requests/s"] == 0
    assert "Success" not in idle, "no traffic, no ratio"
    assert {table_row(first, "Models", Model="digits", Version=v)["Ready"] for v in "12"} == {1}
    time_goes = table_row(first, "Where a request's time goes", Model="wine")
    stages = [time_goes[name] for name in ("Queue", "Input", "Inference", "Output")]
    assert stages == pytest.approx([0.02, 0.002, 0.016, 0.002], rel=1e-6)
    assert sum(stages) == pytest.approx(0.04), "the stages add up to the mean latency"


def test_numbers_of_gpus(past: PrometheusApi, first: DashboardQuerier) -> None:
    gpu = table_row(first, "GPUs", GPU="0")
    assert gpu["UUID"] == ONE.uuid(0)
    assert gpu["Card"] == "NVIDIA H100 80GB HBM3"
    assert gpu["Memory"] == pytest.approx(35 / 80)
    assert gpu["Power of limit"] == pytest.approx(gpu["Power"] / POWER_LIMITS["enforced"])
    assert gpu["To slowdown"] == pytest.approx(86 - gpu["Temperature"])
    assert (gpu["Throttled"], table_row(first, "GPUs", GPU="1")["Throttled"]) == (1, 0)
    assert table_row(first, "XIDs", XID="31")["Last"] == XID_AT * 1000
    detail = querier_of(past, "gpu", gpu=(ONE.uuid(0),))
    energy = stat_value(detail, "Energy in the chosen time")
    assert energy == pytest.approx(2 * 3600 * POWER, rel=1e-4)
    assert stat_value(detail, "Power now") == pytest.approx(POWER, rel=0.01)
    (whole,) = detail.panel(panel_of(detail, "Energy"))
    (parts,) = detail.panel(panel_of(detail, "Energy by container (estimate)"))
    assert len(parts.series) == len(ENERGY_SHARES)
    (of_gpu,) = whole.series
    assert sum(part.last for part in parts.series) == pytest.approx(of_gpu.last, rel=1e-6)


def test_numbers_of_containers(first: DashboardQuerier) -> None:
    api = table_row(first, "Containers", Container="api")
    assert api["CPU"] == pytest.approx(CPU_CORES["api"], rel=0.31), "the wave is 30 %"
    assert api["CPU of quota"] == pytest.approx(api["CPU"] / QUOTA_CORES["api"])
    assert api["Throttled"] == pytest.approx(THROTTLED_SHARE)
    assert api["Memory of limit"] == pytest.approx(WORKING_SETS["api"] / MEMORY_LIMITS["api"])
    assert api["OOM kills"] == pytest.approx(1, rel=0.05)
    assert api["State"] == "running"
    cache = table_row(first, "Containers", Container="cache")
    assert not {"CPU of quota", "Throttled", "Memory of limit"} & set(cache), "no limit, no share"
    assert table_row(first, "Containers", Container="migrate")["State"] == "exited"
    assert api["GPU memory"] == ONE.gpus * GPU_MEMORY_USED["api"]


def execution_seconds(name: str, version: str = "1") -> float:
    """Seconds a second that executions of a model of the first host ran, on each of its GPUs."""
    (model,) = (m for m in ONE.models if (m.name, m.version) == (name, version))
    executions = model.requests / model.batch
    return executions * model.mean * (1 - model.queue) * 0.8 / len(model.gpus)


def test_numbers_of_who_works_where(first: DashboardQuerier) -> None:
    whole = (
        execution_seconds("wine")
        + execution_seconds("digits", "1")
        + execution_seconds("digits", "2")
    )
    wine = table_row(first, "Who works where", Model="wine")
    assert wine["Share of what ran there"] == pytest.approx(
        execution_seconds("wine") / whole, rel=1e-6
    )
    assert (wine["Container"], wine["GPU"], wine["UUID"]) == ("triton", "0", ONE.uuid(0))
    assert wine["GPU memory of the container"] == GPU_MEMORY_USED["triton"]
    watts = POWER * execution_seconds("wine") / whole
    joules = 1000 * watts / (20 * 0.95)
    found = table_row(first, "Models", Model="wine")["Energy/1,000 (estimate)"]
    assert found == pytest.approx(joules, rel=1e-6)
    alone = table_row(first, "Who works where", Model="digits", Version="2", GPU="1")
    assert alone["Share of what ran there"] == pytest.approx(1), "it has that GPU to itself"
    both = POWER * execution_seconds("digits", "2") / whole + POWER
    found = table_row(first, "Models", Model="digits", Version="2")["Energy/1,000 (estimate)"]
    assert found == pytest.approx(1000 * both / (15 * 0.999), rel=1e-6)
    assert "Energy/1,000 (estimate)" not in table_row(first, "Models", Model="idle")


def test_numbers_of_the_fleet(past: PrometheusApi) -> None:
    asks = querier_of(past, "fleet")
    assert stat_value(asks, "Hosts scraped") == len(HOSTS)
    assert stat_value(asks, "GPUs") == sum(host.gpus for host in HOSTS)
    power = sum(host.gpus for host in HOSTS if "gpu" not in host.failing) * POWER
    assert stat_value(asks, "GPU power") == pytest.approx(power, rel=0.01)
    sick = table_row(asks, "Hosts", Instance="sick-1:10400")
    assert sick["GPUs down"] == 2
    assert sick["Sources failing"] == 2
    assert "GPU power" not in sick


# -- hosts that lack something --


def no_value_text(asks: DashboardQuerier, title: str) -> str:
    """What a panel says that has no data."""
    panel = panel_of(asks, title)
    assert not any(answer.series for answer in asks.panel(panel)), f"{title} has data"
    return str(panel["fieldConfig"]["defaults"]["noValue"])


@pytest.mark.parametrize("host", HOSTS[2:], ids=lambda host: host.instance.split(":")[0])
@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_a_host_that_lacks_something(past: PrometheusApi, name: str, host: Any) -> None:
    """What is there is right, what is not there is blank; nothing breaks."""
    asks = querier_of(past, name, instance=(host.instance,))
    lacking = {*host.without, *host.failing}
    wrong: list[str] = []
    for panel in iter_panels(asks.dashboard):
        several = query_checks.query_repeated(asks, panel)
        for answers in several:
            wrong += query_checks.check_results(panel, answers)
        wrong += query_checks.unexplained_empty(asks, panel, several)
    assert not wrong, "\n".join(wrong)
    assert lacking <= {source.name for source in SOURCES}


def test_what_is_lacking_is_said(past: PrometheusApi) -> None:
    no_gpu = querier_of(past, "host", instance=("cpu-1:10400",))
    for title in ("GPUs", "GPUs down", "GPU utilization", "Power beside its limit"):
        assert no_value_text(no_gpu, title) == "No GPU"
    assert stat_value(no_gpu, "Models not ready") == 0
    no_triton = querier_of(past, "host", instance=("train-1:10400",))
    assert no_value_text(no_triton, "Models not ready") == "No Triton"
    assert no_value_text(no_triton, "Models") == "No Triton"
    assert no_value_text(no_triton, "Success, worst model") == "No traffic"
    assert no_value_text(no_triton, "Error budget left") == "No traffic"
    assert stat_value(no_triton, "GPUs down") == 0
    bare = querier_of(past, "host", instance=("bare-1:10400",))
    assert no_value_text(bare, "Containers") == "No containers"
    assert no_value_text(bare, "Alerts firing") == "None"
    sick = querier_of(past, "host", instance=("sick-1:10400",))
    assert stat_value(sick, "GPUs down") == 2
    assert stat_value(sick, "Sources failing") == 2
    assert no_value_text(sick, "GPU utilization") == "No GPU"


def test_a_model_that_nobody_asks(past: PrometheusApi) -> None:
    asks = querier_of(past, "model", instance=(ONE.instance,), model=("idle",))
    assert no_value_text(asks, "Success in the chosen time") == "No traffic"
    assert no_value_text(asks, "Mean latency by server") == "No traffic"
    (answer,) = asks.panel(panel_of(asks, "Requests by server"))
    assert {value for series in answer.series for _, value in series.points} == {0}
