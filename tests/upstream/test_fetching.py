"""Scrapes of upstream pages: request headers, refused pages, errors, rows of Triton servers."""

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
from exporter.upstream import triton_pages
from exporter.upstream.metrics import METRICS
from exporter.upstream.reading import QueueRow, UpstreamErrors
from exporter.upstream.settings import Settings
from exporter.upstream.source import UpstreamSource, build
from exporter.upstream.target import UpstreamTarget
from tests.fakes.triton import FakeTriton, Response, http_response
from tests.sources.samples import samples
from tests.waiting import until_async

# A busy machine is not a hang.
LONG = Duration(20)
PAGE = "# TYPE a counter\na 1\npython_info 1\na_created 5\n"


def context(*address_rows: ServerAddressRow, taken: frozenset[str] = frozenset()) -> Context:
    readings = {"triton": {"here": Reading(address_rows)}}
    return Context(
        Paths(), tuple, lambda: 0, lambda name: readings.get(name, {}), reserved_names=lambda: taken
    )


@contextlib.asynccontextmanager
async def source(within: Context | None = None, **settings: Any) -> AsyncIterator[UpstreamSource]:
    upstream = build(Settings(**settings), within or context())
    try:
        yield upstream
    finally:
        await upstream.close()


def test_a_page_is_merged() -> None:
    async def scenario() -> None:
        async with (
            FakeTriton() as fake,
            source(url=(f"app=http://{fake.url}/metrics?x=1",)) as upstream,
        ):
            fake.responses["/metrics?x=1"] = http_response(PAGE)
            (target,) = await upstream.discover()
            reading = await target.read()
            assert not reading.problems
            (family,) = reading.families
            assert (family.name, family.lines) == ("a", b'a{upstream="app"} 1\n')
            values = samples(METRICS, reading)
            assert 0 < values["upstream_scrape_duration_seconds"]["app",] < 5
            del values["upstream_scrape_duration_seconds"]
            assert values == {
                "upstream_page_bytes": {("app",): len(PAGE)},
                "upstream_samples": {("app", "total"): 3, ("app", "merged"): 1},
            }
            headers = fake.requests[0][2]
            assert headers["accept"].startswith("text/plain;version=0.0.4")
            assert headers["x-inference-exporter-merge"] == "1"
        await until_async(lambda: fake.open == 0, "connections closed")

    asyncio.run(scenario())


BAD: dict[str, tuple[Response | str, str]] = {
    "refused": (http_response("", "403 Forbidden"), "forbidden"),
    "no such page": (http_response("", "404 Not Found"), "unsupported"),
    "an error": (http_response("", "500 Oh"), "unreachable"),
    "a redirect": (http_response("", "302 Found", "Location: /\r\n"), "unsupported"),
    "a web page": (http_response("<html>", headers="Content-Type: text/html\r\n"), "bad_data"),
    "4 MiB": (http_response(b"a 1\n" * (1 << 20)), "bad_data"),
    "many samples": (http_response("".join(f"a{i} 1\n" for i in range(101))), "bad_data"),
    "incomplete": ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na 1\n", "unreachable"),
    "hangs": ("hang", "timeout"),
    "an exporter's": (http_response("inference_exporter_build_info 1\n"), "bad_data"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_page_is_one_counted_error_and_the_next_scrape_recovers(name: str) -> None:
    async def scenario() -> None:
        bad, kind = BAD[name]
        async with (
            FakeTriton() as fake,
            source(
                url=(f"app={fake.url}",), timeout=LONG, max_samples=100, max_bytes=65536
            ) as upstream,
        ):
            if isinstance(bad, str):
                bad = fake.stuck() if bad == "hang" else fake.then_close(bad.encode())
            fake.responses["/metrics"] = bad
            (target,) = await upstream.discover()
            assert isinstance(target, UpstreamTarget)
            if kind == "timeout":
                target.page._seconds = 0.5
            with pytest.raises(SourceError) as caught:
                await target.read()
            assert caught.value.kind == kind
            assert target.counts() == (UpstreamErrors(("app",), {kind: 1}),)
            fake.responses["/metrics"] = http_response(PAGE)
            target.page._seconds = LONG
            assert (await target.read()).families
            assert target.counts() == (UpstreamErrors(("app",), {kind: 1}),)

    asyncio.run(scenario())


def test_no_drop_rule_hides_an_exporters_page() -> None:
    async def scenario() -> None:
        async with (
            FakeTriton() as fake,
            source(url=(f"app={fake.url}",), drop=("inference_exporter_.*",)) as upstream,
        ):
            fake.responses["/metrics"] = http_response(
                PAGE + 'inference_exporter_build_info{a="b"} 1\n'
            )
            (target,) = await upstream.discover()
            with pytest.raises(BadData):
                await target.read()

    asyncio.run(scenario())


def test_a_hanging_upstream_leaves_the_other_alone() -> None:
    async def scenario() -> None:
        async with (
            FakeTriton() as well,
            FakeTriton() as hung,
            source(url=(f"a={well.url}", f"b={hung.url}"), timeout=LONG) as upstream,
        ):
            well.responses["/metrics"] = http_response(PAGE)
            hung.responses["/metrics"] = hung.stuck()
            well_target, hung_target = await upstream.discover()
            waiting = asyncio.create_task(hung_target.read())
            await until_async(lambda: bool(hung.requests))
            assert (await well_target.read()).families
            assert not waiting.done()
            await hung.shut()
            with pytest.raises(SourceError):
                await waiting

    asyncio.run(scenario())


def test_taken_names_are_omitted_and_reported() -> None:
    async def scenario() -> None:
        taken = frozenset({"ours", "ours_total"})
        async with (
            FakeTriton() as fake,
            source(context(taken=taken), url=(f"app={fake.url}",)) as upstream,
        ):
            fake.responses["/metrics"] = http_response("ours 1\nx 1\nx 2\nno sample\n")
            (target,) = await upstream.discover()
            reading = await target.read()
            assert [family.name for family in reading.families] == ["x"]
            (problem,) = reading.problems
            assert "1 malformed, 1 duplicate, 1 conflict (ours)" in problem.message or all(
                part in problem.message for part in ("1 malformed", "1 duplicate", "1 conflict")
            )

    asyncio.run(scenario())


def test_rules() -> None:
    async def scenario() -> None:
        rules: dict[str, Any] = {"keep": ("a=x.*", "y"), "drop": ("a=x_bad", "b=y")}
        async with FakeTriton() as fake, source(url=(f"a={fake.url}",), **rules) as upstream:
            fake.responses["/metrics"] = http_response("x1 1\nx_bad 1\ny 1\nz 1\nz_created 1\n")
            (target,) = await upstream.discover()
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


def test_rows_from_tritons_own_metrics_page() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses["/metrics"] = http_response(TRITON)
            row = ServerAddressRow(("here",), "127.0.0.1", 1, f"http://{fake.url}/metrics")
            async with source(context(row)) as upstream:
                (target,) = await upstream.discover()
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
                (again,) = await upstream.discover()
                assert again is target

    asyncio.run(scenario())


def test_a_guessed_url_is_merged_only_if_it_is_tritons() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            url = f"http://{fake.url}/metrics"
            guess = ServerAddressRow(("here",), "127.0.0.1", 1, url)
            configured = ServerAddressRow(
                ("here",), "127.0.0.1", 1, url, metrics_url_configured=True
            )
            for response in (
                http_response("", "404 No"),
                http_response("other 1\n"),
                fake.then_close(b""),
            ):
                fake.responses["/metrics"] = response
                async with source(context(guess)) as upstream:
                    with pytest.raises(NotFound):
                        await upstream.discover()
                async with source(context(configured)) as upstream:
                    assert len(await upstream.discover()) == 1
            async with source(context(configured), triton=False) as upstream:
                with pytest.raises(NotFound):
                    await upstream.discover()
            # A page also configured by URL, or a server of the same name, is one target.
            for url_setting in (f"x={url}", "here=http://127.0.0.1:1/"):
                async with source(context(configured), url=(url_setting,)) as upstream:
                    (target,) = await upstream.discover()
                    assert target.name == url_setting.partition("=")[0]

    asyncio.run(scenario())


def test_a_guessed_url_without_a_page_is_requested_once_a_minute_after_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(triton_pages, "monotonic", lambda: now)

    async def scenario() -> None:
        nonlocal now
        async with FakeTriton() as fake:
            fake.responses["/metrics"] = http_response("", "404 No")
            guess = ServerAddressRow(("here",), "127.0.0.1", 1, f"http://{fake.url}/metrics")
            async with source(context(guess)) as upstream:
                requested_at = []
                for now in range(1000, 1200, 5):
                    before = len(fake.requests)
                    with pytest.raises(NotFound):
                        await upstream.discover()
                    if len(fake.requests) > before:
                        requested_at.append(now - 1000)
            assert requested_at == [*range(0, 65, 5), 120, 180]

    asyncio.run(scenario())


def test_a_server_with_an_invalid_metrics_url_is_skipped() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses["/metrics"] = http_response(PAGE)
            rows = [
                ServerAddressRow(
                    ("bad",),
                    "127.0.0.1",
                    1,
                    metrics_url="http://x:99999/",
                    metrics_url_configured=True,
                ),
                ServerAddressRow(
                    ("good",),
                    "127.0.0.1",
                    1,
                    metrics_url=f"http://{fake.url}/metrics",
                    metrics_url_configured=True,
                ),
            ]
            async with source(context(*rows)) as upstream:
                assert [target.name for target in await upstream.discover()] == ["good"]

    asyncio.run(scenario())


def test_a_target_is_removed_with_its_server() -> None:
    async def scenario() -> None:
        rows = [ServerAddressRow(("here",), "127.0.0.1", 1, "http://127.0.0.1:1/metrics", True)]
        within = Context(Paths(), tuple, lambda: 0, lambda _: {"here": Reading(tuple(rows))})
        async with source(within, url=("a=127.0.0.1:2",)) as upstream:
            assert len(await upstream.discover()) == 2
            rows.clear()
            assert len(await upstream.discover()) == 1

    asyncio.run(scenario())


def test_secrets_are_read_from_files_sent_and_never_logged(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("Bearer sesame\n")

    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses["/metrics"] = http_response(PAGE)
            configured: dict[str, Any] = {
                "url": (f"a={fake.url}", f"b={fake.url}"),
                "header": (f"a=X-Token: @{secret}", "Y-Both: 1"),
                "basic_auth": ("b=me:open=sesame",),
            }
            async with source(**configured) as upstream:
                first_target, second_target = await upstream.discover()
                await first_target.read()
                await second_target.read()
                first, second = (headers for _, _, headers in fake.requests)
                assert first["x-token"] == "Bearer sesame"
                assert "authorization" not in first
                assert second["authorization"] == "Basic bWU6b3Blbj1zZXNhbWU="
                assert "x-token" not in second
                assert first["y-both"] == second["y-both"] == "1"
                # The secret is read again after the old one is refused.
                secret.write_text("Bearer simsim")
                fake.responses["/metrics"] = http_response("", "401 Unauthorized")
                with pytest.raises(SourceError) as caught:
                    await first_target.read()
                assert "sesame" not in repr(caught.value)
                fake.responses["/metrics"] = http_response(PAGE)
                await first_target.read()
                assert fake.requests[-1][2]["x-token"] == "Bearer simsim"
            assert "sesame" not in repr(Settings(**configured).credentials("a", trusted=True))
            secret.unlink()
            async with source(**configured) as upstream:
                target, _ = await upstream.discover()
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
def test_invalid_settings_are_refused_without_repeating_a_secret(given: Any) -> None:
    (key,) = given
    with pytest.raises(ValueError, match=rf"\A{key}: ") as caught:
        Settings(**given)
    assert "sesame" not in str(caught.value)


def test_every_error_has_its_series() -> None:
    (errors,) = (metric for metric in METRICS if metric.name == "upstream_errors_total")
    series = dict(errors.get(UpstreamErrors(("a",), {"timeout": 2})))
    assert series[("timeout",)] == 2
    assert series[("too_many",)] == 0


def test_no_page_is_served_unless_asked_for() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses["/metrics"] = http_response(PAGE)
            async with source(url=(f"app={fake.url}",)) as upstream:
                with pytest.raises(NotFound):
                    await upstream.fetch("app")
            async with source(url=(f"app={fake.url}",), serve_pages=True) as upstream:
                assert (await upstream.fetch("app")).body == b"# TYPE a counter\na 1\n"
                with pytest.raises(NotFound):
                    await upstream.fetch("other")

    asyncio.run(scenario())
