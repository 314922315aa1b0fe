"""Bad, late and missing responses, and recovery with the next good response."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time

import pytest
from blockbuster import blockbuster_ctx

from exporter.errors import DeadlineExceeded, SourceError, Unreachable
from exporter.model import Reading, Summary
from exporter.settings import Duration
from tests.fakes.triton import (
    METADATA,
    FakeTriton,
    Response,
    http_response,
    json_response,
    model,
    statistics,
)
from tests.sources.triton.polling import AMPLE, samples, source, timeout_of
from tests.waiting import until_async

QUICK = 0.5
"""Timeout of a read that hangs, in seconds."""
STATISTICS = "/v2/models/stats"


async def read(fake: FakeTriton, seconds: float = AMPLE) -> Reading:
    async with source(url=(fake.url,)) as triton:
        (target,) = await triton.discover()
        with timeout_of(target, seconds):
            return await target.read()


async def check_healthy_polls(fake: FakeTriton) -> None:
    async with source(url=(f"here={fake.url}",)) as triton:
        (target,) = await triton.discover()
        first = await target.read()
        assert not first.problems
        assert "triton_latency_seconds" not in samples(first)
        fake.responses[STATISTICS] = statistics(model(scale=2))
        second = samples(await target.read())
        key = ("here", "wine", "1")
        assert second["triton_server_info"] == {("here", "triton", "2.51.0"): 1}
        assert second["triton_server_ready"] == {("here",): 1}
        assert second["triton_model_ready"] == {key: 1}
        assert second["triton_requests_total"] == {key: 10}
        assert second["triton_request_failures_total"] == {key: 2}
        assert second["triton_inferences_total"] == {key: 24}
        assert second["triton_executions_total"] == {key: 12}
        assert second["triton_cache_hits_total"] == {key: 2}
        assert second["triton_cache_misses_total"] == {key: 6}
        assert second["triton_request_duration_seconds"] == {key: Summary(8.0, 8)}
        assert second["triton_queue_duration_seconds"] == {key: Summary(2.0, 8)}
        assert second["triton_compute_input_duration_seconds"] == {key: Summary(0.4, 6)}
        assert second["triton_compute_infer_duration_seconds"] == {key: Summary(4.0, 6)}
        assert second["triton_compute_output_duration_seconds"] == {key: Summary(0.6, 6)}
        assert second["triton_latency_seconds"] == {
            (*key, "queue"): pytest.approx(0.25),
            (*key, "compute_input"): pytest.approx(0.05),
            (*key, "compute_infer"): pytest.approx(0.5),
            (*key, "compute_output"): pytest.approx(0.075),
            (*key, "cache"): pytest.approx(0.04),
            (*key, "overhead"): pytest.approx(0.085),
        }
        assert second["triton_success_ratio"] == {key: pytest.approx(0.8)}
        assert second["triton_mean_batch_size"] == {key: pytest.approx(14 / 5)}
        for _ in range(3):
            await target.read()
        assert [path for _, path, _ in fake.requests] == [
            "/v2",
            STATISTICS,
            "/v2/models/wine/versions/1/config",  # once, for a new model
            *["/v2/health/ready", "/v2/repository/index", STATISTICS] * 4,
            *["/v2/health/ready", "/v2/repository/index"],
        ]
        assert fake.connections == 1
        headers = fake.requests[1][2]
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("inference-exporter/")


def test_a_poll_is_three_requests_over_one_connection() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            await check_healthy_polls(fake)
            await until_async(lambda: fake.open == 0, "the connection closed")

    asyncio.run(scenario())


BAD: dict[str, tuple[Response | str, str]] = {
    "empty": (http_response(""), "bad_data"),
    "html": (http_response("<html>It works!</html>"), "bad_data"),
    "null": (http_response("null"), "bad_data"),
    "half of the JSON": (http_response('{"model_stats":[{"na'), "bad_data"),
    "broken UTF-8": (http_response(b"\xff\xfe\x00"), "bad_data"),
    "nested": (http_response("[" * 1_000_000), "bad_data"),
    "unrequested gzip": (
        http_response(gzip.compress(b"{}"), headers="Content-Encoding: gzip\r\n"),
        "bad_data",
    ),
    "too long": (http_response(b" " * (8 << 20)), "bad_data"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", "bad_data"),
    "a header too long": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "bad_data"),
    "invalid length": (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "bad_data"),
    "400": (json_response({"error": "model vanished"}, "400 Bad Request"), "bad_data"),
    "400 without a message": (http_response("", "400 Bad Request"), "bad_data"),
    "403": (json_response({"error": "restricted"}, "403 Forbidden"), "forbidden"),
    "401": (http_response("log in first", "401 Unauthorized"), "forbidden"),
    "404": (http_response("<html>", "404 Not Found"), "unsupported"),
    "500": (http_response("[" * 1_000_000, "500 Internal Server Error"), "unreachable"),
    "503": (http_response(b"\xff", "503 Service Unavailable"), "unreachable"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "bad_data"),
    "redirect": (http_response("", "302 Found", "Location: /v2\r\n"), "unsupported"),
    "incomplete": ("first:HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "unreachable"),
    "broken chunk": (
        "first:HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "bad_data",
    ),
    "closed at once": ("first:", "unreachable"),
    "hangs": ("hang", "timeout"),
    "hangs in the headers": ("hang:HTTP/1.1 200 OK\r\nA: b", "timeout"),
    "hangs in the body": ("hang:HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "timeout"),
    "endless informational": ("endless:|HTTP/1.1 100 Continue\r\n\r\n", "unreachable"),
    "endless headers": ("endless:HTTP/1.1 200 OK\r\n|" + "A: b\r\n" * 100, "bad_data"),
    "endless body": ("endless:HTTP/1.1 200 OK\r\n\r\n|" + " " * 65536, "bad_data"),
    "endless chunks": (
        "endless:HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n|1000\r\n"
        + " " * 4096
        + "\r\n",
        "bad_data",
    ),
}


def response(fake: FakeTriton, spec: Response | str) -> Response:
    """Returns the response for a spec of BAD."""
    if not isinstance(spec, str):
        return spec
    kind, _, text = spec.partition(":")
    if kind == "first":
        return fake.then_close(text.encode())
    if kind == "endless":
        start, _, piece = text.partition("|")
        return fake.endless(start.encode(), piece.encode())
    return fake.stuck(text.encode())


def timeout(name: str) -> float:
    """Returns the timeout of a read with a response of BAD."""
    return QUICK if BAD[name][1] == "timeout" else AMPLE


@pytest.mark.parametrize("name", BAD)
def test_a_bad_response_is_one_typed_error_and_the_next_poll_recovers(name: str) -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            async with source(url=(fake.url,)) as triton:
                (target,) = await triton.discover()
                await target.read()
                good = fake.responses[STATISTICS]
                bad, kind = BAD[name]
                fake.responses[STATISTICS] = response(fake, bad)
                started = time.monotonic()
                with timeout_of(target, timeout(name)), pytest.raises(SourceError) as caught:
                    await target.read()
                assert time.monotonic() - started < 20, "some would never end"
                assert caught.value.kind == kind, caught.value
                assert len(caught.value.message) < 400
                assert "\n" not in caught.value.message
                assert fake.sent < 12 << 20, "a long response is not read completely"
                fake.responses[STATISTICS] = good
                recovered = await target.read()
                assert not recovered.problems
                assert samples(recovered)["triton_requests_total"]
                paths = [path for _, path, _ in fake.requests[-5:]]
                assert "/v2" in paths, "another server may listen there now"
                assert fake.open <= 1, "the broken connection is closed"
            await until_async(lambda: fake.open == 0, "all connections closed")

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/repository/index"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_response_to_one_request_leaves_the_statistics(name: str, path: str) -> None:
    bad, _ = BAD[name]

    async def scenario() -> Reading:
        async with FakeTriton() as fake:
            fake.responses[path] = response(fake, bad)
            end = time.monotonic() + 20
            while True:
                try:
                    return await read(fake, timeout(name))
                except DeadlineExceeded:  # before the statistics: of a busy machine
                    assert time.monotonic() < end

    reading = asyncio.run(scenario())
    exported = samples(reading)
    assert exported["triton_requests_total"]
    if path == "/v2/repository/index":
        assert reading.problems
        assert "triton_model_ready" not in exported
    elif not reading.problems:  # only the status matters
        assert set(exported["triton_server_ready"].values()) <= {0, 1}


def test_a_compressed_response_is_reported() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            bad, _ = BAD["unrequested gzip"]
            fake.responses[STATISTICS] = response(fake, bad)
            with pytest.raises(SourceError, match="compressed with gzip") as caught:
                await read(fake)
            assert "Accept-Encoding" in caught.value.remedy

    asyncio.run(scenario())


def test_a_long_error_message_costs_no_time() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(url=(fake.url,)) as triton:
            (target,) = await triton.discover()
            await target.read()
            message = "[" + "[[[[[[]]]]]]," * 300_000 + "1]"
            fake.responses[STATISTICS] = http_response(message, "500 Internal Server Error")
            used = time.thread_time()
            with pytest.raises(Unreachable, match="HTTP 500"):
                await target.read()
            assert time.thread_time() - used < 0.4

    asyncio.run(scenario())


def test_restricted_metadata_leaves_the_statistics() -> None:
    async def scenario() -> Reading:
        async with FakeTriton() as fake:
            fake.responses["/v2"] = json_response({"error": "restricted"}, "403 Forbidden")
            return await read(fake)

    reading = asyncio.run(scenario())
    assert [problem.kind for problem in reading.problems] == ["forbidden"]
    exported = samples(reading)
    assert exported["triton_requests_total"]
    assert exported["triton_model_ready"]
    assert "triton_server_info" not in exported


def test_a_server_without_statistics_keeps_its_health() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses["/v2"] = json_response(
                {"name": "ovms", "version": "2024", "extensions": []}
            )
            reading = await read(fake)
            assert [problem.kind for problem in reading.problems] == ["unsupported"]
            assert set(samples(reading)) == {"triton_server_info", "triton_server_ready"}
            assert [path for _, path, _ in fake.requests] == ["/v2", "/v2/health/ready"]

    asyncio.run(scenario())


def test_a_server_with_nothing_but_its_name_is_not_up() -> None:
    async def scenario() -> Reading:
        async with FakeTriton() as fake:
            fake.responses["/v2"] = json_response({"name": "some server"})
            fake.responses["/v2/health/ready"] = http_response("", "404 Not Found")
            return await read(fake)

    reading = asyncio.run(scenario())
    assert set(samples(reading)) == {"triton_server_info"}
    assert reading.incomplete in reading.problems
    assert str(reading.incomplete) == "some server returns neither statistics nor its readiness"


def test_one_bad_model_leaves_the_others() -> None:
    async def scenario() -> Reading:
        async with FakeTriton() as fake:
            odd = 'a "b"\nc\\'
            bad = model("bad", inference_count=-1)
            fake.responses[STATISTICS] = statistics(model(odd), bad, model("worse", version=7))
            return await read(fake)

    reading = asyncio.run(scenario())
    assert {problem.kind for problem in reading.problems} == {"bad_data"}
    exported = samples(reading)
    assert {labels[1:] for labels in exported["triton_requests_total"]} == {
        ('a "b"\nc\\', "1"),
        ("bad", "1"),
    }
    assert {labels[1] for labels in exported["triton_inferences_total"]} == {'a "b"\nc\\'}


def test_a_models_name_never_leads_to_another_path() -> None:
    """A server behind a proxy must not direct its credentials to another server's path."""

    async def scenario() -> None:
        async with FakeTriton() as fake:
            names = ("../../other", "a/b", "..", "a?x#y")
            fake.responses[STATISTICS] = statistics(*map(model, names), model(version="../2"))
            reading = await read(fake)
            requested = {path for _, path, _ in fake.requests if path.startswith("/v2/models/")}
            assert requested == {STATISTICS, "/v2/models/a%3Fx%23y/versions/1/config"}
            assert "configuration of 4 models" in str(reading.problems)

    asyncio.run(scenario())


def test_proxy_cookie_and_redirect_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    async def scenario() -> None:
        # By name: aiohttp never accepts cookies from IP addresses.
        async with (
            FakeTriton() as fake,
            FakeTriton() as other,
            source(url=(f"localhost:{fake.port}",)) as triton,
        ):
            fake.responses["/v2"] = METADATA.replace(b"\r\n", b"\r\nSet-Cookie: a=b\r\n", 1)
            (target,) = await triton.discover()
            await target.read()
            assert all("cookie" not in headers for _, _, headers in fake.requests)
            fake.responses[STATISTICS] = http_response(
                "", "307 No", f"Location: http://{other.url}/v2\r\n"
            )
            with pytest.raises(SourceError, match=r"307"):
                await target.read()
            assert not other.requests

    asyncio.run(scenario())


def test_a_reset_requests_the_version_again() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(url=(fake.url,)) as triton:
            (target,) = await triton.discover()
            fake.responses[STATISTICS] = statistics(model(scale=5))
            await target.read()
            fake.responses[STATISTICS] = statistics(model(scale=1))
            fake.responses["/v2"] = METADATA.replace(b"2.51.0", b"2.73.0")
            at_reset = samples(await target.read())
            assert "triton_latency_seconds" not in at_reset
            assert set(at_reset["triton_requests_total"].values()) == {5}
            fake.responses[STATISTICS] = statistics(model(scale=2))
            later = samples(await target.read())
            assert [labels[2] for labels in later["triton_server_info"]] == ["2.73.0"]
            assert list(later["triton_success_ratio"].values()) == [pytest.approx(0.8)]

    asyncio.run(scenario())


def test_a_server_that_returns_is_polled_again() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(url=(fake.url,)) as triton:
            (target,) = await triton.discover()
            await target.read()
            await fake.shut()
            for _ in range(2):
                with pytest.raises(Unreachable, match=fake.url) as caught:
                    await target.read()
                assert "Triton server running" in caught.value.remedy
            assert await triton.discover() == (target,), "a configured URL stays listed"
            await fake.listen()
            assert not (await target.read()).problems

    asyncio.run(scenario())


def test_a_hanging_server_leaves_the_other_alone_and_recovers() -> None:
    async def scenario() -> None:
        async with (
            FakeTriton() as well,
            FakeTriton() as hung,
            source(url=(well.url, f"hung={hung.url}")) as triton,
        ):
            well_target, hung_target = await triton.discover()
            assert (well_target.name, hung_target.name) == (well.url, "hung")
            assert hung_target.up_labels == ("hung",)
            hung.responses[STATISTICS] = hung.stuck()
            waiting = asyncio.create_task(hung_target.read())
            await until_async(lambda: (*hung.requests, ("", "", {}))[-2:][0][1] == STATISTICS)
            for _ in range(5):
                assert not (await well_target.read()).problems
            assert not waiting.done()
            waiting.cancel()
            with timeout_of(hung_target, QUICK), pytest.raises(DeadlineExceeded):
                await hung_target.read()
            # The poller's own deadline may expire first: a cancelled read breaks nothing.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await hung_target.read()
            await until_async(lambda: hung.open == 0, "hung connections closed")
            hung.responses[STATISTICS] = statistics(model())
            assert not (await hung_target.read()).problems

    asyncio.run(scenario())


def test_nothing_blocks_the_loop() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(probe=fake.url) as triton:
            with blockbuster_ctx():
                (target,) = await triton.discover()
                for _ in range(2):
                    assert not (await target.read()).problems

    asyncio.run(scenario())


def test_an_unknown_name_is_unreachable() -> None:
    async def scenario() -> None:
        async with source(url=("no-such-host.invalid:8000",)) as triton:
            (target,) = await triton.discover()
            with pytest.raises(Unreachable, match=r"no-such-host\.invalid"):
                await target.read()

    asyncio.run(scenario())


def test_a_hanging_name_server_delays_neither_other_servers_nor_the_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()

    def hang(*_: object) -> object:
        released.wait(30)
        raise socket.gaierror("released")

    async def scenario() -> None:
        async with FakeTriton() as fake:
            # A fifth of the timeout is for each name that a discovery looks up.
            urls = ("somewhere:8000", fake.url)
            async with source(url=urls, timeout=Duration(5)) as triton:
                monkeypatch.setattr(socket, "getaddrinfo", hang)
                hanging, well = await triton.discover()
                for _ in range(2):
                    with timeout_of(hanging, QUICK), pytest.raises(DeadlineExceeded):
                        await hanging.read()
                    assert not (await well.read()).problems
            monkeypatch.undo()

    started = time.monotonic()
    try:
        asyncio.run(scenario())
        assert time.monotonic() - started < 25, "the call takes 30 s"
    finally:
        released.set()


@pytest.mark.parametrize(
    ("status", "ready"), [("403 No", None), ("404 What", None), ("400 Bad", 0), ("503 Not yet", 0)]
)
def test_only_a_response_about_readiness_counts(status: str, ready: int | None) -> None:
    async def main() -> None:
        async with FakeTriton() as fake:
            fake.responses["/v2/health/ready"] = http_response("", status)
            exported = samples(await read(fake)).get("triton_server_ready", {})
            assert list(exported.values()) == ([] if ready is None else [ready])

    asyncio.run(main())
