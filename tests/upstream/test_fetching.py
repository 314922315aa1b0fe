"""Fetching pages: what is sent, what is refused, what each failure costs, what Triton tells."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exporter.context import Context
from exporter.errors import BadData, NotFound, SourceError
from exporter.model import Reading
from exporter.settings import Duration, Paths
from exporter.sources.triton.reading import ServerAddressRow
from exporter.upstream.metrics import METRICS
from exporter.upstream.reading import QueueRow, UpstreamErrors, UpstreamRow
from exporter.upstream.settings import Settings
from exporter.upstream.source import UpstreamSource, UpstreamTarget, build
from tests.fakes.triton import Answer, Fake, http
from tests.waiting import until_async

QUICK = Duration(0.5)
PAGE = "# TYPE a gauge\na 1\npython_info 1\na_created 5\n"


def context(*places: ServerAddressRow, taken: frozenset[str] = frozenset()) -> Context:
    readings = {"triton": {"here": Reading(places)}}
    return Context(
        Paths(), tuple, lambda: 0, lambda name: readings.get(name, {}), reserved_names=lambda: taken
    )


@contextlib.asynccontextmanager
async def source(within: Context | None = None, **settings: Any) -> AsyncIterator[UpstreamSource]:
    made = build(Settings(**settings), within or context())
    try:
        yield made
    finally:
        await made.close()


def test_a_page_is_merged() -> None:
    async def scenario() -> None:
        async with Fake() as fake, source(url=(f"app=http://{fake.url}/metrics?x=1",)) as made:
            fake.answers["/metrics?x=1"] = http(PAGE)
            (target,) = await made.discover()
            reading = await target.read()
            assert not reading.problems
            (family,) = reading.families
            assert (family.name, family.lines) == ("a", b'a{upstream="app"} 1\n')
            (row,) = reading.rows
            assert isinstance(row, UpstreamRow)
            assert (row.labels, row.samples, row.merged) == (("app",), 3, 1)
            assert row.bytes == len(PAGE)
            assert 0 < row.duration < 5
            headers = fake.requests[0][2]
            assert headers["accept"].startswith("text/plain;version=0.0.4")
            assert headers["x-inference-exporter-merge"] == "1"
            assert (await made.fetch("app")).body == PAGE.encode()
            with pytest.raises(NotFound):
                await made.fetch("other")
        await until_async(lambda: fake.open == 0, "connections closed")

    asyncio.run(scenario())


BAD: dict[str, tuple[Answer | str, str]] = {
    "refused": (http("", "403 Forbidden"), "forbidden"),
    "no such page": (http("", "404 Not Found"), "unsupported"),
    "an error": (http("", "500 Oh"), "unreachable"),
    "a redirect": (http("", "302 Found", "Location: /\r\n"), "unsupported"),
    "a web page": (http("<html>", headers="Content-Type: text/html\r\n"), "bad_data"),
    "64 MiB": (http(b"a 1\n" * (16 << 20)), "bad_data"),
    "many samples": (http("".join(f"a{i} 1\n" for i in range(101))), "bad_data"),
    "broken off": ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na 1\n", "unreachable"),
    "hangs": ("hang", "timeout"),
    "an exporter's": (http("inference_exporter_build_info 1\n"), "bad_data"),
}


@pytest.mark.parametrize("told", BAD)
def test_a_bad_page_is_one_typed_error_counted_and_the_next_good_one_heals(told: str) -> None:
    async def scenario() -> None:
        answer, kind = BAD[told]
        async with (
            Fake() as fake,
            source(
                url=(f"app={fake.url}",), timeout=QUICK, max_samples=100, max_bytes=65536
            ) as made,
        ):
            if isinstance(answer, str):
                answer = fake.stuck() if answer == "hang" else fake.first(answer.encode())
            fake.answers["/metrics"] = answer
            (target,) = await made.discover()
            with pytest.raises(SourceError) as caught:
                await target.read()
            assert caught.value.kind == kind
            assert isinstance(target, UpstreamTarget)
            assert target.counts() == (UpstreamErrors(("app",), {kind: 1}),)
            fake.answers["/metrics"] = http(PAGE)
            assert (await target.read()).families
            assert target.counts() == (UpstreamErrors(("app",), {kind: 1}),)

    asyncio.run(scenario())


def test_no_rule_hides_that_a_page_is_an_exporters() -> None:
    async def scenario() -> None:
        async with (
            Fake() as fake,
            source(url=(f"app={fake.url}",), drop=("inference_exporter_.*",)) as made,
        ):
            fake.answers["/metrics"] = http(PAGE + 'inference_exporter_build_info{a="b"} 1\n')
            (target,) = await made.discover()
            with pytest.raises(BadData):
                await target.read()

    asyncio.run(scenario())


def test_one_that_hangs_leaves_the_other_alone() -> None:
    async def scenario() -> None:
        async with (
            Fake() as well,
            Fake() as hung,
            source(url=(f"a={well.url}", f"b={hung.url}"), timeout=QUICK) as made,
        ):
            well.answers["/metrics"] = http(PAGE)
            hung.answers["/metrics"] = hung.stuck()
            one, two = await made.discover()
            waiting = asyncio.create_task(two.read())
            await until_async(lambda: bool(hung.requests))
            assert (await one.read()).families
            assert not waiting.done()
            with pytest.raises(SourceError):
                await waiting

    asyncio.run(scenario())


def test_names_that_are_taken_are_left_out_and_said() -> None:
    async def scenario() -> None:
        taken = frozenset({"ours", "ours_total"})
        async with Fake() as fake, source(context(taken=taken), url=(f"app={fake.url}",)) as made:
            fake.answers["/metrics"] = http("ours 1\nx 1\nx 2\nno sample\n")
            (target,) = await made.discover()
            reading = await target.read()
            assert [family.name for family in reading.families] == ["x"]
            (problem,) = reading.problems
            assert "1 malformed, 1 duplicate, 1 conflict (ours)" in problem.message or all(
                word in problem.message for word in ("1 malformed", "1 duplicate", "1 conflict")
            )

    asyncio.run(scenario())


def test_rules() -> None:
    async def scenario() -> None:
        rules: dict[str, Any] = {"keep": ("a=x.*", "y"), "drop": ("a=x_bad", "b=y")}
        async with Fake() as fake, source(url=(f"a={fake.url}",), **rules) as made:
            fake.answers["/metrics"] = http("x1 1\nx_bad 1\ny 1\nz 1\nxx_created 1\n")
            (target,) = await made.discover()
            families = (await target.read()).families
            assert [family.name for family in families] == ["x1", "y"]

    asyncio.run(scenario())


TRITON = (
    "# TYPE nv_inference_request_failure counter\n"
    'nv_inference_request_failure{model="wine",reason="BACKEND",version="1"} 6\n'
    'nv_inference_request_failure{model="wine",reason="REJECTED",version="1"} 2\n'
    "# TYPE nv_inference_pending_request_count gauge\n"
    'nv_inference_pending_request_count{model="wi\\"ne",version="1"} 3\n'
    'nv_inference_pending_request_count{model="bad",version="1"} NaN\n'
    'nv_inference_pending_request_count{model="unversioned"} 4\n'
    "# TYPE nv_inference_count counter\n"
    'nv_inference_count{model="wine",version="1"} 40\n'
    'nv_gpu_utilization{gpu_uuid="a"} 0.5\n'
    'my_own{model="wine"} 7\n'
)


def test_what_tritons_own_port_tells() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            fake.answers["/metrics"] = http(TRITON)
            place = ServerAddressRow(("here",), "127.0.0.1", 1, f"http://{fake.url}/metrics")
            async with source(context(place)) as made:
                (target,) = await made.discover()
                assert target.up_labels == ("here",)
                reading = await target.read()
                assert [family.name for family in reading.families] == [
                    "nv_inference_request_failure",
                    "nv_inference_pending_request_count",
                    "my_own",
                ]
                assert [row for row in reading.rows if isinstance(row, QueueRow)] == [
                    QueueRow(("here", 'wi"ne', "1"), 3.0),
                    QueueRow(("here", "wine", "1"), None, (("BACKEND", 6.0), ("REJECTED", 2.0))),
                ]
                (again,) = await made.discover()
                assert again is target

    asyncio.run(scenario())


def test_a_port_nobody_spoke_of_is_merged_only_where_it_is_tritons() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            url = f"http://{fake.url}/metrics"
            guess = ServerAddressRow(("here",), "127.0.0.1", 1, url)
            told = ServerAddressRow(("here",), "127.0.0.1", 1, url, metrics_told=True)
            for answer in (http("", "404 No"), http("other 1\n"), fake.first(b"")):
                fake.answers["/metrics"] = answer
                async with source(context(guess)) as made:
                    with pytest.raises(NotFound):
                        await made.discover()
                async with source(context(told)) as made:
                    assert len(await made.discover()) == 1
            async with source(context(told), triton=False) as made:
                with pytest.raises(NotFound):
                    await made.discover()
            # The same page by URL is one page; so is the same name.
            for given in (f"x={url}", "here=http://127.0.0.1:1/"):
                async with source(context(told), url=(given,)) as made:
                    (target,) = await made.discover()
                    assert target.name == given.partition("=")[0]

    asyncio.run(scenario())


def test_one_server_with_an_address_that_is_none_is_passed_over() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            fake.answers["/metrics"] = http(PAGE)
            places = [
                ServerAddressRow(
                    ("bad",), "127.0.0.1", 1, metrics_url="http://x:99999/", metrics_told=True
                ),
                ServerAddressRow(
                    ("good",),
                    "127.0.0.1",
                    1,
                    metrics_url=f"http://{fake.url}/metrics",
                    metrics_told=True,
                ),
            ]
            async with source(context(*places)) as made:
                assert [target.name for target in await made.discover()] == ["good"]

    asyncio.run(scenario())


def test_it_goes_with_its_server() -> None:
    async def scenario() -> None:
        places = [ServerAddressRow(("here",), "127.0.0.1", 1, "http://127.0.0.1:1/metrics", True)]
        within = Context(Paths(), tuple, lambda: 0, lambda _: {"here": Reading(tuple(places))})
        async with source(within, url=("a=127.0.0.1:2",)) as made:
            assert len(await made.discover()) == 2
            places.clear()
            assert len(await made.discover()) == 1

    asyncio.run(scenario())


def test_secrets_are_read_from_files_sent_and_never_said(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("Bearer sesame\n")

    async def scenario() -> None:
        async with Fake() as fake:
            fake.answers["/metrics"] = http(PAGE)
            given: dict[str, Any] = {
                "url": (f"a={fake.url}", f"b={fake.url}"),
                "header": (f"a=X-Token: @{secret}", "Y-Both: 1"),
                "basic_auth": ("b=me:open=sesame",),
            }
            async with source(**given) as made:
                one, two = await made.discover()
                await one.read()
                await two.read()
                first, second = (headers for _, _, headers in fake.requests)
                assert first["x-token"] == "Bearer sesame"
                assert "authorization" not in first
                assert second["authorization"] == "Basic bWU6b3Blbj1zZXNhbWU="
                assert "x-token" not in second
                assert first["y-both"] == second["y-both"] == "1"
                # A new secret is read once the old one is refused.
                secret.write_text("Bearer simsim")
                fake.answers["/metrics"] = http("", "401 Unauthorized")
                with pytest.raises(SourceError) as caught:
                    await one.read()
                assert "sesame" not in repr(caught.value)
                fake.answers["/metrics"] = http(PAGE)
                await one.read()
                assert fake.requests[-1][2]["x-token"] == "Bearer simsim"
            assert "sesame" not in repr(Settings(**given).headers)
            secret.unlink()
            async with source(**given) as made:
                target, _ = await made.discover()
                with pytest.raises(SourceError, match="cannot be read") as caught:
                    await target.read()
                assert caught.value.kind == "forbidden"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "given",
    [
        {"url": ("http://a b/",)},
        {"url": ("a=x:1", "a=y:1")},
        {"keep": ("a=(",)},
        {"drop": ("(",)},
        {"header": ("no colon sesame",)},
        {"header": ("Host: sesame",)},
        {"header": ("X: sesame\r\nY: 1",)},
        {"basic_auth": ("sesame",)},
    ],
)
def test_settings_that_cannot_be_are_refused_without_repeating_a_secret(given: Any) -> None:
    (key,) = given
    with pytest.raises(ValueError, match=rf"\A{key}: ") as caught:
        Settings(**given)
    assert "sesame" not in str(caught.value)


def test_every_error_has_its_series() -> None:
    (errors,) = (metric for metric in METRICS if metric.name == "upstream_errors_total")
    shown = dict(errors.get(UpstreamErrors(("a",), {"timeout": 2})))
    assert shown[("timeout",)] == 2
    assert shown[("conflict",)] == 0
