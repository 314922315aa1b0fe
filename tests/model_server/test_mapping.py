"""Pages that change, repeat or break: ranks, upgrades, ceilings, wrong numbers, differences."""

from __future__ import annotations

from exporter.model_server.engines import built_in_profiles
from exporter.model_server.mapping import ModelValues, PageMapping, detected, sample_names
from exporter.model_server.page_samples import PageSamples, SampleReader
from exporter.model_server.profile import Profile, parse_profile
from tests.model_server.serving import PAGES

PROFILE = parse_profile(
    "acme",
    {
        "detect": "acme_running",
        "model": "model",
        "repeated": "rank",
        "metrics": {
            "requests_running": ["acme_running", "acme_old_running"],
            "requests_total{outcome=ok}": "acme_total - acme_failed",
            "request_duration_seconds": "acme_latency_ms / 1000",
        },
    },
)


class Engine:
    """Reads pages one after the other, as one server's."""

    def __init__(self, profile: Profile = PROFILE, max_models: int = 10) -> None:
        self.reader = SampleReader(sample_names(profile), 1000)
        self.mapping = PageMapping(profile, max_models)
        self.page: PageSamples | None = None

    def read(self, text: str) -> dict[str, ModelValues]:
        page = self.reader.begin()
        for start in range(0, len(text), 7):  # pieces end anywhere
            page.feed(text.encode()[start : start + 7])
        self.page = page.finish()
        return self.mapping.models(self.page)

    @property
    def omissions(self) -> dict[str, int]:
        assert self.page is not None
        return dict(self.page.omissions)


def running(text: str) -> float | None:
    return Engine().read(text)["m"].values.get("requests_running")


def test_ranks_repeat_a_value_and_are_not_added_up() -> None:
    text = 'acme_running{model="m",rank="%d",pool="%s"} %d\n'
    ranks = text % (1, "a", 5) + text % (0, "a", 4) + text % (10, "a", 6) + text % (0, "b", 30)
    assert running(ranks) == 4 + 30


def test_of_two_names_the_first_on_the_page_counts() -> None:
    old, new = 'acme_old_running{model="m"} 7\n', 'acme_running{model="m"} 3\n'
    engine = Engine()
    for text, expected in ((old, 7), (old + new, 3), (new, 3), (old, 7)):
        assert engine.read(text)["m"].values == {"requests_running": expected}


def test_a_model_that_disappears_has_no_values() -> None:
    engine = Engine()
    both = 'acme_running{model="a"} 1\nacme_running{model="b"} 2\n'
    assert set(engine.read(both)) == {"a", "b"}
    assert set(engine.read('acme_running{model="b"} 2\n')) == {"b"}
    assert set(engine.read(both)) == {"a", "b"}


def test_models_have_a_ceiling() -> None:
    engine = Engine(max_models=2)
    names = ["a", "b", "c", "d"]
    models = engine.read("".join(f'acme_running{{model="{name}"}} 1\n' for name in names))
    assert list(models) == ["a", "b"]
    assert engine.omissions == {"models": 2}
    # Known models keep their places, whatever the order of the page.
    models = engine.read("".join(f'acme_running{{model="{name}"}} 1\n' for name in names[::-1]))
    assert set(models) == {"a", "b"}
    long = "x" * 300
    assert not Engine().read(f'acme_running{{model="{long}"}} 1\n')


def test_a_wrong_number_costs_its_series() -> None:
    engine = Engine()
    for wrong in ("-1", "NaN", "+Inf", "1e300", "18446744073709551615", "1_0", "x"):
        models = engine.read(f'acme_running{{model="m"}} {wrong}\nacme_running{{model="n"}} 2\n')
        assert list(models) == ["n"], wrong
        assert sum(engine.omissions.values()) == 1, wrong
    assert engine.read('acme_running{model="m"} 1 1795692711000\n')["m"].values
    engine.read('acme_running{model="m"} 1\nacme_running{model="m"} 9\n')
    assert engine.omissions == {"duplicate": 1}


def test_labels_with_escapes_are_read() -> None:
    (model,) = Engine().read('acme_running{model="a\\"b\\\\c"} 1\n')
    assert model == 'a"b\\c'


def test_a_difference_never_decreases_while_its_minuend_grows() -> None:
    engine = Engine()

    def ok(total: int, failed: int) -> float:
        text = f'acme_total{{model="m"}} {total}\nacme_failed{{model="m"}} {failed}\n'
        return engine.read(text)["m"].outcomes["ok"]

    assert ok(10, 4) == 6
    # The total counts a request that the failures do not count yet: not exported at once.
    assert ok(11, 4) == 6
    assert ok(11, 5) == 6
    assert ok(13, 5) == 6
    assert ok(13, 5) == 8
    assert ok(2, 1) == 1, "a restart is a reset"


def test_histograms_that_do_not_fit_are_left_out() -> None:
    bucket = 'acme_latency_ms_bucket{model="m",pool="%s",le="%s"} %d\n'
    count = 'acme_latency_ms_count{model="m",pool="%s"} %d\n'
    total = 'acme_latency_ms_sum{model="m",pool="%s"} %d\n'
    one = bucket % ("a", "250", 2) + bucket % ("a", "+Inf", 5) + count % ("a", 5) + total % ("a", 9)
    histogram = Engine().read(one)["m"].histograms["request_duration_seconds"]
    assert (histogram.bounds, histogram.buckets) == ((0.25,), (2,))
    assert (histogram.sum, histogram.count) == (0.009, 5)
    two = one.replace('pool="a"', 'pool="b"')
    histogram = Engine().read(one + two)["m"].histograms["request_duration_seconds"]
    assert (histogram.buckets, histogram.count) == ((4,), 10)
    for broken in (
        one.replace('le="250"} 2', 'le="250"} 7'),  # a bucket above the count
        one + two.replace('le="250"', 'le="500"'),  # other bounds
    ):
        engine = Engine()
        assert not engine.read(broken)["m"].histograms
        assert engine.omissions == {"histogram": 1}


def test_lines_of_other_families_are_read_once() -> None:
    engine = Engine()
    other = "".join(f'other_{n}{{a="{n}"}} {n}.5\n' for n in range(100))
    engine.read(f'{other}acme_running{{model="m"}} 1\n')
    assert engine.page is not None
    assert [series.name for series in engine.page.series] == ["acme_running"]


def test_engines_are_recognized_by_their_own_families() -> None:
    profiles = built_in_profiles()
    for page in ("vllm", "fastapi", "mlserver"):
        names = {
            line.partition("{")[0].partition(" ")[0]
            for line in (PAGES / f"{page}.prom").read_text().splitlines()
            if not line.startswith("#")
        }
        profile = detected(profiles, names)
        assert profile is not None
        assert profile.name == page  # vLLM's page has the instrumentator's families, too
    assert detected(profiles, {"up", "python_info"}) is None
