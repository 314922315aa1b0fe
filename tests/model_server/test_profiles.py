"""Profiles of the settings: the form, and the errors of a wrong one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from exporter.config import load
from exporter.errors import ConfigError
from exporter.model_server.profile import parse_expression, parse_profile
from exporter.model_server.settings import Settings
from tests.fakes.triton import FakeTriton, http_response
from tests.model_server.serving import exported, source
from tests.paths import ROOT
from tools.model_servers import page

METRICS = {"requests_running": "acme_running"}


def documented() -> str:
    """Returns the example of docs/model-servers.md."""
    text = (ROOT / "docs/model-servers.md").read_text()
    return text.partition("```yaml\n")[2].partition("```")[0]


def test_the_documented_example_reads_its_engine(tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_text(documented())
    assert len(documented().splitlines()) <= 20
    settings = load(str(file), {}, {}).sources["model_server"]
    assert isinstance(settings, Settings)

    async def scenario() -> None:
        async with (
            FakeTriton() as fake,
            source(url=(f"a=http://{fake.url}",), profiles=settings.profiles) as servers,
        ):
            fake.responses["/metrics"] = http_response(
                'acme_active{model="m"} 3\nacme_in_tokens_total{model="m"} 70\n'
                'acme_requests_total{model="m",code="200"} 5\n'
                'acme_requests_total{model="m",code="503"} 2\n'
                'acme_latency_ms_bucket{model="m",le="500"} 4\n'
                'acme_latency_ms_bucket{model="m",le="+Inf"} 5\n'
                'acme_latency_ms_count{model="m"} 5\nacme_latency_ms_sum{model="m"} 1500\n'
            )
            (target,) = await servers.discover()
            values = exported(await target.read())
            assert values["model_server_requests_running", "m"] == 3
            assert values["model_server_prompt_tokens_total", "m"] == 70
            assert values["model_server_requests_total", "m", "ok"] == 5
            assert values["model_server_requests_total", "m", "error"] == 2
            assert values["model_server_request_duration_seconds_bucket", "0.5", "m"] == 4
            assert values["model_server_request_duration_seconds_sum", "m"] == 1.5
            assert target.up_labels == ("a", "acme")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ({"Acme": {}}, "Acme: an engine's name"),
        ({"acme": "x"}, "acme: must be a mapping"),
        ({"acme": {"metrics": METRICS}}, "acme.detect: must name a family"),
        ({"acme": {"detect": "a b-c", "metrics": METRICS}}, "acme.detect: 'b-c' is not a name"),
        ({"acme": {"detect": "a"}}, "acme.metrics: must be a mapping"),
        ({"acme": {"detect": "a", "metrics": {"x": "y"}}}, "acme.metrics.x: unknown"),
        ({"acme": {"detect": "a", "metrik": "y"}}, "acme.metrik: unknown"),
        (
            {"acme": {"detect": "a", "metrics": {"requests_running": "a * 2"}}},
            "acme.metrics.requests_running: 'a * 2' is not an expression",
        ),
        (
            {"acme": {"detect": "a", "metrics": {"requests_running": 'a{b="("}'}}},
            "acme.metrics.requests_running: '(' is not a valid regular expression",
        ),
        (
            {"acme": {"detect": "a", "metrics": {"request_duration_seconds": "a + b"}}},
            "acme.metrics.request_duration_seconds: a histogram is a single family",
        ),
        ({"acme": {"detect": "a", "port": "0", "metrics": METRICS}}, "acme.port: is not a port"),
        ({"acme": {"detect": "a", "path": "m", "metrics": METRICS}}, "acme.path: must start"),
        ({"acme": {"detect": "a", "version": "v", "metrics": METRICS}}, "acme.version: must be"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_place(profiles: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^profiles: ") as caught:
        Settings(profiles=profiles)
    assert str(caught.value).startswith(f"profiles: {message}")


def test_profiles_are_set_in_the_file_only() -> None:
    with pytest.raises(ConfigError, match="must be a mapping, in the settings file"):
        load(None, {}, {"model_server.profiles": ["acme"]})


def test_expressions() -> None:
    expression = parse_expression('a_total{b="x|y", c!="z"} / 1000 + d - e since 0.9.2 until 0.11')
    assert [(t.family, t.divisor, t.negative) for t in expression.terms] == [
        ("a_total", 1000, False),
        ("d", 1, False),
        ("e", 1, True),
    ]
    assert (expression.since, expression.until) == ("0.9.2", "0.11")
    first = expression.terms[0]
    assert [m.matches({"b": "y"}) for m in first.matchers] == [True, True]
    assert [m.matches({"b": "yy", "c": "z"}) for m in first.matchers] == [False, False]


def test_a_profile_of_the_settings_replaces_a_built_in_one() -> None:
    own = {"detect": "own_family", "metrics": METRICS}
    settings = Settings(profiles={"vllm": own})
    (vllm,) = (p for p in settings.engine_profiles if p.name == "vllm")
    assert vllm == parse_profile("vllm", own)
    assert settings.engine_profiles[0] is not None
    assert settings.engine_profiles[0].name == "vllm"


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("a=http://h/metrics?model=x", "/metrics?model=x&autoload=false"),
        ("a=http://h/metrics?model=x&autoload=false", "/metrics?model=x&autoload=false"),
        ("a=http://h/metrics?x=1", "/metrics?x=1"),
    ],
)
def test_a_router_of_llamacpp_loads_no_model(url: str, sent: str) -> None:
    async def scenario() -> None:
        async with source(url=(url,), discover="off") as servers:
            (target,) = await servers.discover()
            assert target.page.url == f"http://h:80{sent}"  # type: ignore[attr-defined]

    asyncio.run(scenario())
    with pytest.raises(ValueError, match="url: autoload loads the model"):
        Settings(url=("a=http://h/metrics?model=x&autoload=true",))


def test_the_reference_of_engines_is_current() -> None:
    assert (ROOT / "docs/model-servers.md").read_text() == page(), "outdated: run `make docs`"
