"""Every way a server can answer badly, late or not at all, and that the next good answer heals."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from exporter.errors import DeadlineExceeded, SourceError, Unreachable
from exporter.model import Reading, Summary
from exporter.settings import Duration
from tests.fakes.triton import METADATA, Answer, Fake, as_json, http, model, statistics
from tests.sources.triton.polling import samples, source
from tests.waiting import until_async

QUICK = Duration(0.5)
"""A poll's deadline: long enough for a busy machine, short enough for a test."""
STATISTICS = "/v2/models/stats"


async def read(fake: Fake, **settings: Any) -> Reading:
    async with source(url=(fake.url,), timeout=QUICK, **settings) as triton:
        (target,) = await triton.discover()
        return await target.read()


async def healthy(fake: Fake) -> None:
    async with source(url=(f"here={fake.url}",)) as triton:
        (target,) = await triton.discover()
        first = await target.read()
        assert not first.problems
        assert "triton_latency_seconds" not in samples(first)
        fake.answers[STATISTICS] = statistics(model(scale=2))
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
            "/v2/models/wine/versions/1/config",  # once, when the model is met
            *["/v2/health/ready", "/v2/repository/index", STATISTICS] * 4,
            *["/v2/health/ready", "/v2/repository/index"],
        ]
        assert fake.connections == 1
        headers = fake.requests[1][2]
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("inference-exporter/")


def test_a_poll_is_three_requests_over_one_connection() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            await healthy(fake)
            await until_async(lambda: fake.open == 0, "the connection closed")

    asyncio.run(scenario())


BAD: dict[str, tuple[Answer | str, str]] = {
    "empty": (http(""), "bad_data"),
    "html": (http("<html>It works!</html>"), "bad_data"),
    "null": (http("null"), "bad_data"),
    "half of the JSON": (http('{"model_stats":[{"na'), "bad_data"),
    "broken UTF-8": (http(b"\xff\xfe\x00"), "bad_data"),
    "nested": (http("[" * 1_000_000), "bad_data"),
    "gzip unasked": (http(gzip.compress(b"{}"), headers="Content-Encoding: gzip\r\n"), "bad_data"),
    "longer than wanted": (http(b" " * (64 << 20)), "bad_data"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", "bad_data"),
    "a header too long": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "bad_data"),
    "no length but nonsense": (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "bad_data"),
    "400": (as_json({"error": "model vanished"}, "400 Bad Request"), "bad_data"),
    "400 without words": (http("", "400 Bad Request"), "bad_data"),
    "403": (as_json({"error": "restricted"}, "403 Forbidden"), "forbidden"),
    "401": (http("who are you", "401 Unauthorized"), "forbidden"),
    "404": (http("<html>", "404 Not Found"), "unsupported"),
    "500": (http("[" * 1_000_000, "500 Internal Server Error"), "unreachable"),
    "503": (http(b"\xff", "503 Service Unavailable"), "unreachable"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "bad_data"),
    "redirect": (http("", "302 Found", "Location: /v2\r\n"), "unsupported"),
    "broken off": ("first:HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "unreachable"),
    "broken chunk": (
        "first:HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "bad_data",
    ),
    "closed at once": ("first:", "unreachable"),
    "hangs": ("hang", "timeout"),
    "hangs in the headers": ("hang:HTTP/1.1 200 OK\r\nA: b", "timeout"),
    "hangs in the body": ("hang:HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "timeout"),
    "endless informational": ("endless:|HTTP/1.1 100 Continue\r\n\r\n", "timeout"),
    "endless headers": ("endless:HTTP/1.1 200 OK\r\n|" + "A: b\r\n" * 100, "bad_data"),
    "endless body": ("endless:HTTP/1.1 200 OK\r\n\r\n|" + " " * 65536, "bad_data"),
    "endless chunks": (
        "endless:HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n|1000\r\n"
        + " " * 4096
        + "\r\n",
        "bad_data",
    ),
}


def answer(fake: Fake, told: Answer | str) -> Answer:
    if not isinstance(told, str):
        return told
    kind, _, text = told.partition(":")
    if kind == "first":
        return fake.first(text.encode())
    if kind == "endless":
        start, _, piece = text.partition("|")
        return fake.endless(start.encode(), piece.encode())
    return fake.stuck(text.encode())


@pytest.mark.parametrize("told", BAD)
def test_a_bad_answer_is_one_typed_error_and_the_next_good_one_heals(told: str) -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            async with source(url=(fake.url,), timeout=QUICK) as triton:
                (target,) = await triton.discover()
                await target.read()
                good = fake.answers[STATISTICS]
                bad, kind = BAD[told]
                fake.answers[STATISTICS] = answer(fake, bad)
                started = time.monotonic()
                with pytest.raises(SourceError) as caught:
                    await target.read()
                assert time.monotonic() - started < QUICK + 0.5
                assert caught.value.kind == kind, caught.value
                assert len(caught.value.message) < 400
                assert "\n" not in caught.value.message
                assert fake.sent < 12 << 20, "what is too long is not read to its end"
                fake.answers[STATISTICS] = good
                healed = await target.read()
                assert not healed.problems
                assert samples(healed)["triton_requests_total"]
                paths = [path for _, path, _ in fake.requests[-5:]]
                assert "/v2" in paths, "it could be another server now"
                assert fake.open <= 1, "the spoilt connection is closed"
            await until_async(lambda: fake.open == 0, "all connections closed")

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/repository/index"])
@pytest.mark.parametrize("told", BAD)
def test_a_bad_part_is_a_problem_beside_the_statistics(told: str, path: str) -> None:
    bad, _ = BAD[told]

    async def scenario() -> Reading:
        async with Fake() as fake:
            fake.answers[path] = answer(fake, bad)
            return await read(fake)

    reading = asyncio.run(scenario())
    shown = samples(reading)
    assert shown["triton_requests_total"]
    if path == "/v2/repository/index":
        assert reading.problems
        assert "triton_model_ready" not in shown
    elif not reading.problems:  # only the status is looked at
        assert set(shown["triton_server_ready"].values()) <= {0, 1}


def test_a_compressed_reply_says_so() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            told, _ = BAD["gzip unasked"]
            fake.answers[STATISTICS] = answer(fake, told)
            with pytest.raises(SourceError, match="compressed with gzip") as caught:
                await read(fake)
            assert "Accept-Encoding" in caught.value.remedy

    asyncio.run(scenario())


def test_the_words_of_a_failure_cost_no_time() -> None:
    async def scenario() -> None:
        async with Fake() as fake, source(url=(fake.url,)) as triton:
            (target,) = await triton.discover()
            await target.read()
            words = "[" + "[[[[[[]]]]]]," * 300_000 + "1]"
            fake.answers[STATISTICS] = http(words, "500 Internal Server Error")
            used = time.thread_time()
            with pytest.raises(Unreachable, match="HTTP 500"):
                await target.read()
            assert time.thread_time() - used < 0.4

    asyncio.run(scenario())


def test_restricted_metadata_leave_the_statistics() -> None:
    async def scenario() -> Reading:
        async with Fake() as fake:
            fake.answers["/v2"] = as_json({"error": "restricted"}, "403 Forbidden")
            return await read(fake)

    reading = asyncio.run(scenario())
    assert [problem.kind for problem in reading.problems] == ["forbidden"]
    shown = samples(reading)
    assert shown["triton_requests_total"]
    assert shown["triton_model_ready"]
    assert "triton_server_info" not in shown


def test_a_server_without_statistics_keeps_its_health() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            fake.answers["/v2"] = as_json({"name": "ovms", "version": "2024", "extensions": []})
            reading = await read(fake)
            assert [problem.kind for problem in reading.problems] == ["unsupported"]
            assert set(samples(reading)) == {"triton_server_info", "triton_server_ready"}
            assert [path for _, path, _ in fake.requests] == ["/v2", "/v2/health/ready"]

    asyncio.run(scenario())


def test_one_bad_model_leaves_the_others() -> None:
    async def scenario() -> Reading:
        async with Fake() as fake:
            odd = 'a "b"\nc\\'
            fake.answers[STATISTICS] = statistics(model(odd), model("bad", inference_count=-1))
            return await read(fake)

    reading = asyncio.run(scenario())
    assert [problem.kind for problem in reading.problems] == ["bad_data"]
    (labels,) = samples(reading)["triton_requests_total"]
    assert labels[1:] == ('a "b"\nc\\', "1")


def test_neither_proxy_nor_cookie_nor_redirect_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    async def scenario() -> None:
        # By name: aiohttp takes no cookies from bare addresses anyway.
        async with (
            Fake() as fake,
            Fake() as other,
            source(url=(f"localhost:{fake.port}",)) as triton,
        ):
            fake.answers["/v2"] = METADATA.replace(b"\r\n", b"\r\nSet-Cookie: a=b\r\n", 1)
            (target,) = await triton.discover()
            await target.read()
            assert all("cookie" not in headers for _, _, headers in fake.requests)
            fake.answers[STATISTICS] = http("", "307 No", f"Location: http://{other.url}/v2\r\n")
            with pytest.raises(SourceError, match=r"307"):
                await target.read()
            assert not other.requests

    asyncio.run(scenario())


def test_a_reset_asks_for_the_version_again() -> None:
    async def scenario() -> None:
        async with Fake() as fake, source(url=(fake.url,)) as triton:
            (target,) = await triton.discover()
            fake.answers[STATISTICS] = statistics(model(scale=5))
            await target.read()
            fake.answers[STATISTICS] = statistics(model(scale=1))
            fake.answers["/v2"] = METADATA.replace(b"2.51.0", b"2.73.0")
            at_reset = samples(await target.read())
            assert "triton_latency_seconds" not in at_reset
            assert set(at_reset["triton_requests_total"].values()) == {5}
            fake.answers[STATISTICS] = statistics(model(scale=2))
            later = samples(await target.read())
            assert [labels[2] for labels in later["triton_server_info"]] == ["2.73.0"]
            assert list(later["triton_success_ratio"].values()) == [pytest.approx(0.8)]

    asyncio.run(scenario())


def test_a_server_that_goes_and_comes_back_heals() -> None:
    async def scenario() -> None:
        async with Fake() as fake, source(url=(fake.url,), timeout=QUICK) as triton:
            (target,) = await triton.discover()
            await target.read()
            await fake.shut()
            for _ in range(2):
                with pytest.raises(Unreachable, match=fake.url) as caught:
                    await target.read()
                assert "Triton server running" in caught.value.remedy
            assert await triton.discover() == (target,), "given by URL: it stays listed"
            await fake.listen()
            assert not (await target.read()).problems

    asyncio.run(scenario())


def test_a_hung_server_leaves_the_other_alone_and_heals() -> None:
    async def scenario() -> None:
        async with (
            Fake() as well,
            Fake() as hung,
            source(url=(well.url, f"hung={hung.url}"), timeout=QUICK) as triton,
        ):
            one, two = await triton.discover()
            assert (one.name, two.name) == (well.url, "hung")
            assert two.up_labels == ("hung",)
            hung.answers[STATISTICS] = hung.stuck()
            waiting = asyncio.create_task(two.read())
            await until_async(lambda: (*hung.requests, ("", "", {}))[-2:][0][1] == STATISTICS)
            for _ in range(5):
                assert not (await one.read()).problems
            assert not waiting.done()
            with pytest.raises(DeadlineExceeded):
                await waiting
            # The poller's own deadline may come first: a cancelled read spoils nothing.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await two.read()
            await until_async(lambda: hung.open == 0, "hung connections closed")
            hung.answers[STATISTICS] = statistics(model())
            assert not (await two.read()).problems

    asyncio.run(scenario())


def test_nothing_blocks_the_loop() -> None:
    async def scenario() -> None:
        async with Fake() as fake, source(probe=fake.url) as triton:
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


def test_a_name_server_that_hangs_delays_neither_the_others_nor_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()

    def hang(*_: object) -> object:
        released.wait(30)
        raise socket.gaierror("released")

    async def scenario() -> None:
        async with Fake() as fake:
            async with source(url=("somewhere:8000", fake.url), timeout=QUICK) as triton:
                monkeypatch.setattr(socket, "getaddrinfo", hang)
                lost, well = await triton.discover()
                for _ in range(2):
                    with pytest.raises(DeadlineExceeded):
                        await lost.read()
                    assert not (await well.read()).problems
            monkeypatch.undo()

    started = time.monotonic()
    try:
        asyncio.run(scenario())
        assert time.monotonic() - started < 5
    finally:
        released.set()


@pytest.mark.parametrize(
    ("status", "ready"), [("403 No", None), ("404 What", None), ("400 Bad", 0), ("503 Not yet", 0)]
)
def test_only_an_answer_about_readiness_is_one(status: str, ready: int | None) -> None:
    async def main() -> None:
        async with Fake() as fake:
            fake.answers["/v2/health/ready"] = http("", status)
            shown = samples(await read(fake)).get("triton_server_ready", {})
            assert list(shown.values()) == ([] if ready is None else [ready])

    asyncio.run(main())
