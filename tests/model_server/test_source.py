"""Discovery, identity, one request for two sources, and values over the window."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.errors import BadData, NotFound, SourceError, Unreachable
from exporter.model import Histogram, Reading, Up
from exporter.model_server import host_processes, identity
from exporter.model_server import target as target_module
from exporter.model_server.containers import servers_in_containers
from exporter.model_server.engines import built_in_profiles
from exporter.model_server.host_processes import listening_ports
from exporter.model_server.mapping import ModelValues
from exporter.model_server.target import ModelServerTarget
from exporter.model_server.window import ModelWindow, snapshot
from exporter.settings import Paths
from exporter.shared_pages import SharedPages
from exporter.sources.containers.reading import Container, Network
from exporter.sources.gpu.reading import GpuIdentity, GpuProcess, GpuRow
from exporter.sources.triton.reading import ServerAddressRow
from exporter.upstream.settings import Settings as UpstreamSettings
from exporter.upstream.source import build as build_upstream
from tests.fakes.triton import FakeTriton, http_response, json_response
from tests.model_server.serving import PAGES, context, exported, source

VLLM = http_response((PAGES / "vllm.prom").read_bytes())
LLAMACPP = http_response((PAGES / "llamacpp.prom").read_bytes())


def paths(fake: FakeTriton) -> list[str]:
    return [path for _, path, _ in fake.requests]


async def only_target(servers: Any) -> ModelServerTarget:
    (target,) = (t for t in await servers.discover() if isinstance(t, ModelServerTarget))
    return target


def test_one_request_serves_the_merge_and_this_source() -> None:
    async def scenario() -> None:
        shared = SharedPages()
        within = context(shared_pages=shared)
        async with FakeTriton() as fake:
            fake.responses = {"/metrics": VLLM}
            page = f"http://127.0.0.1:{fake.port}/metrics"
            upstream = build_upstream(UpstreamSettings(url=(f"raw={page}",)), within)
            address = f"here=http://localhost:{fake.port}/metrics"
            async with source(within, url=(address,), discover="off") as servers:
                (merge,) = await upstream.discover()
                target = await only_target(servers)
                for number in range(1, 4):
                    families = (await merge.read()).families
                    assert any(family.name == "vllm:num_requests_running" for family in families)
                    values = exported(await target.read())
                    assert values["model_server_generated_tokens_total", "tiny"] == 6599
                    assert paths(fake).count("/metrics") == number
                # A failure of the request is one of both.
                fake.responses["/metrics"] = http_response("", "500 Oops")
                with pytest.raises(Unreachable):
                    await merge.read()
                with pytest.raises(Unreachable):
                    await target.read()
                # Without the merge the source requests the page itself.
                await upstream.close()
                fake.responses["/metrics"] = VLLM
                before = paths(fake).count("/metrics")
                await target.read()
                assert paths(fake).count("/metrics") == before + 1

    asyncio.run(scenario())


# Of servers that have not received a request.
IDLE_PAGES = {
    "kserve": "# HELP request_predict_seconds predict request latency\n"
    "# TYPE request_predict_seconds histogram\n",
    "mlserver": "# TYPE model_infer_request_success_total counter\n"
    "# TYPE model_infer_request_duration summary\n",
}


@pytest.mark.parametrize("engine", IDLE_PAGES)
def test_a_server_is_recognized_by_types_without_samples(engine: str) -> None:
    async def scenario() -> None:
        page = IDLE_PAGES[engine].encode()
        async with FakeTriton() as fake:
            address = f"here=http://localhost:{fake.port}/metrics"
            async with source(url=(address,), discover="off", triton=False) as servers:
                target = await only_target(servers)
                for _ in range(2):  # the lines of the second page are known
                    fake.responses = {"/metrics": http_response(b"process_open_fds 7\n" + page)}
                    values = exported(await target.read())
                    assert target.engine == engine
                    assert not [key for key in values if key[0] == "model_server_requests_total"]
                # Types that this page has not any more identify nothing.
                fake.responses = {"/metrics": http_response("process_open_fds 7\n")}
                with pytest.raises(BadData, match="no family of a known engine"):
                    await target.read()

    asyncio.run(scenario())


def test_identity_is_requested_once_a_minute_and_only_with_get(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with (
            FakeTriton() as fake,
            source(url=(f"here=http://{fake.url}",), discover="off") as servers,
        ):
            fake.responses = {
                "/metrics": LLAMACPP,
                "/health": http_response("{}"),
                "/v1/models": json_response(
                    {"data": [{"id": "tiny.gguf", "meta": {"n_ctx": 1024}}]}
                ),
                "/props": json_response({"build_info": "b10434-abc"}),
            }
            target = await only_target(servers)
            values = exported(await target.read())
            assert values["model_server_generated_tokens_total", "tiny.gguf"] == 2334
            assert values["model_server_ready",] == 1
            await target.read()
            assert paths(fake).count("/v1/models") == 1
            assert "/props" not in paths(fake)
            monkeypatch.setattr(identity, "REQUEST_INTERVAL", 0.0)
            fake.responses["/metrics"] = http_response("", "503 Busy")
            with pytest.raises(SourceError):
                await target.read()
            fake.responses["/metrics"] = LLAMACPP
            assert target._identity is not None
            target._identity._due = 0.0
            await target.read()
            values = exported(await target.read())
            address = f"127.0.0.1:{fake.port}"
            assert values["model_server_info", address, "", "1024", "b10434-abc"] == 1
            fake.responses["/health"] = http_response("", "503 Loading")
            assert exported(await target.read())["model_server_ready",] == 0
            assert {method for method, _, _ in fake.requests} == {"GET"}

    asyncio.run(scenario())


def test_another_engine_at_the_same_address_is_recognized() -> None:
    async def scenario() -> None:
        async with (
            FakeTriton() as fake,
            source(url=(f"here=http://{fake.url}",), discover="off") as servers,
        ):
            target = await only_target(servers)
            for page, engine in ((VLLM, "vllm"), (LLAMACPP, "llamacpp"), (VLLM, "vllm")):
                fake.responses = {"/metrics": page}
                try:
                    await target.read()
                except BadData:
                    await target.read()  # the first page of another engine ends the old one
                assert target.up_labels == ("here", engine)
            fake.responses = {"/metrics": http_response("up 1\n")}
            with pytest.raises(BadData, match="no family of a known engine"):
                await target.read()
            assert target.up_labels == ("here", "")
            fake.responses = {
                "/metrics": http_response("<html>x", headers="Content-Type: text/html\r\n")
            }
            with pytest.raises(BadData, match="HTML"):
                await target.read()

    asyncio.run(scenario())


def test_no_server_is_not_a_failure() -> None:
    async def scenario() -> None:
        async with source(discover="on") as servers:
            with pytest.raises(NotFound):
                await servers.discover()

    asyncio.run(scenario())


def container(port: int, image: str, **changes: Any) -> Container:
    return Container(
        ("chat", image),
        "c" * 64,
        "sha256:0",
        pid=1,
        network=Network(addresses=("127.0.0.1",)),
        hints=(("model-server.port", str(port)),) if port else (),
        **changes,
    )


def test_servers_in_containers_are_found_by_label_and_a_url_takes_precedence() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses = {"/metrics": VLLM}
            found = {"resources": Reading((container(fake.port, "own/image:1"),))}
            within = context({"containers": found})
            async with source(within) as servers:
                target = await only_target(servers)
                assert target.name == "chat"
                values = exported(await target.read())
                info = ("model_server_info", f"127.0.0.1:{fake.port}", "chat", "", "")
                assert values[info] == 1
                found.clear()
                assert list(await servers.discover()) == []
            found["resources"] = Reading((container(fake.port, "own/image:1"),))
            async with source(within, url=(f"mine=http://{fake.url}/metrics",)) as servers:
                target = await only_target(servers)
                assert (target.name, target.place.container) == ("mine", "chat")
            async with source(within, discover="off") as servers:
                with pytest.raises(NotFound):
                    await servers.discover()

    asyncio.run(scenario())


def test_a_container_guessed_by_its_image_has_to_respond() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses = {"/metrics": http_response("up 1\n")}
            # The usual port of the engine is that of the fake.
            own = {"detect": "vllm:num_requests_running", "port": str(fake.port)}
            own["images"] = "vllm/vllm-openai"
            profile = {**own, "metrics": {"requests_running": "vllm:num_requests_running"}}
            images = ("docker.io/vllm/vllm-openai:v0.32", "vllm/vllm-openai@sha256:1")
            for image in images:
                found = {"resources": Reading((container(0, image),))}
                async with source(
                    context({"containers": found}), profiles={"vllm": profile}
                ) as servers:
                    with pytest.raises(NotFound):
                        await servers.discover()
                    before = len(fake.requests)
                    with pytest.raises(NotFound):
                        await servers.discover()
                    assert len(fake.requests) == before, "asked once a minute"
                    fake.responses["/metrics"] = VLLM
                    servers._guesses = {k: (0.0, t) for k, (_, t) in servers._guesses.items()}
                    assert (await only_target(servers)).name == "chat"
                fake.responses["/metrics"] = http_response("up 1\n")

    asyncio.run(scenario())


def in_pod(name: str, image: str, **hints: str) -> Container:
    """Returns a container of a pod; its hints are the annotations of the pod."""
    return Container(
        (f"serve/chat-0/{name}", image, "chat-0", "serve", name),
        name,
        "sha256:0",
        pid=1,
        network=Network("pod", "5" * 64, addresses=("10.0.0.7",)),
        hints=tuple((key.replace("__", ".").replace("_", "-"), v) for key, v in hints.items()),
        pod="chat-0",
        namespace="serve",
        container=name,
    )


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, ("serve/chat-0/engine", 8000, "/metrics")),
        ({"prometheus__port": "8080"}, ("serve/chat-0/engine", 8080, "/metrics")),
        (
            {"prometheus__port": "8080", "prometheus__path": "/m", "prometheus__scrape": "true"},
            ("serve/chat-0/engine", 8080, "/m"),
        ),
        (
            {"prometheus__port": "8080", "prometheus__scrape": "false"},
            ("serve/chat-0/engine", 8000, "/metrics"),
        ),
        (
            {"prometheus__port": "x", "prometheus__path": "m"},
            ("serve/chat-0/engine", 8000, "/metrics"),
        ),
        (
            {"model_server__port": "7000", "prometheus__port": "8080"},
            ("serve/chat-0/engine", 7000, "/metrics"),
        ),
        (
            {"model_server__port": "7000", "model_server__path": "/own"},
            ("serve/chat-0/engine", 7000, "/own"),
        ),
        ({"model_server__port": "off"}, None),
    ],
)
def test_a_model_server_in_a_pod_is_one_server(
    annotations: dict[str, str], expected: tuple[str, int, str] | None
) -> None:
    """Every container of the pod has the pod's annotations and address."""
    rows = (
        in_pod("a-proxy", "envoy:1", **annotations),
        in_pod("engine", "vllm/vllm-openai:v0.9", **annotations),
    )
    found = servers_in_containers({"resources": Reading(rows)}, built_in_profiles())
    described = [(each.server.names[0], each.server.port, each.path) for each in found]
    assert described == ([] if expected is None else [expected])
    for each in found:
        assert each.server.address is not None
        assert each.server.address.host == "10.0.0.7"


def gpu_process(pid: int) -> Reading:
    return Reading((GpuRow(("0", "GPU-0"), GpuIdentity(), {}, {}, (GpuProcess(pid),)),))


def test_a_process_on_a_gpu_is_recognized_by_its_listening_port() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses = {
                "/metrics": VLLM,
                "/v1/models": json_response({"data": [{"owned_by": "vllm"}]}),
            }
            readings = {"gpu": {"0": gpu_process(os.getpid())}}
            ports = (fake.port, 1)
            async with source(context(readings), ports=ports) as servers:
                target = await only_target(servers)
                assert target.name == f"localhost:{fake.port}"
                assert paths(fake) == ["/v1/models"]
                values = exported(await target.read())
                assert values["model_server_generated_tokens_total", "tiny"] == 6599
            # Turned off, not on the list, known to Triton, given by URL, or of no process on a GPU.
            fake.requests.clear()
            async with source(context(readings), ports=ports, discover="off") as servers:
                with pytest.raises(NotFound):
                    await servers.discover()
            async with source(context(readings), ports=(1,)) as servers:
                with pytest.raises(NotFound):
                    await servers.discover()
            triton = ServerAddressRow(("t",), "127.0.0.1", fake.port, local=True)
            known = {**readings, "triton": {"t": Reading((triton,))}}
            async with source(context(known), ports=ports) as servers:
                with pytest.raises(NotFound):
                    await servers.discover()
            async with source(
                context(readings), ports=ports, url=(f"mine=http://localhost:{fake.port}",)
            ) as servers:
                assert (await only_target(servers)).name == "mine"
            async with source(context({"gpu": {"0": Reading(())}}), ports=ports) as servers:
                with pytest.raises(NotFound):
                    await servers.discover()
            assert not fake.requests

    asyncio.run(scenario())


def test_all_ports_together_receive_one_request_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with FakeTriton() as first, FakeTriton() as second:
            first.responses = {"/v2": json_response({"name": "mlserver"})}
            second.responses = {}
            readings = {"gpu": {"0": gpu_process(os.getpid())}}
            ports = (first.port, second.port)
            async with source(context(readings), ports=ports) as servers:
                for _ in range(3):
                    with pytest.raises(NotFound):
                        await servers.discover()
                assert len(first.requests) + len(second.requests) == 1
                monkeypatch.setattr(host_processes, "REQUEST_INTERVAL", 0.0)
                for _ in range(10):
                    try:
                        await servers.discover()
                    except NotFound:
                        continue
                assert sorted(paths(first)) == ["/v1/models", "/v2"]
                assert sorted(paths(second)) == ["/v1/models", "/v2"]
                assert {method for method, _, _ in first.requests + second.requests} == {"GET"}

    asyncio.run(scenario())


def test_ports_of_ancestors_count_and_those_of_others_do_not(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        procfs = Path(Paths().procfs)
        assert listening_ports(procfs, [os.getpid()], {port}) == {port}
        assert listening_ports(procfs, [os.getpid()], {port + 1}) == set()
        assert listening_ports(procfs, [], {port}) == set()
        with subprocess.Popen(["sleep", "60"]) as child:
            assert listening_ports(procfs, [child.pid], {port}) == {port}, "its parent listens"
            child.kill()
    assert listening_ports(tmp_path, [os.getpid()], {port}) == set()


def values(**numbers: float) -> ModelValues:
    return ModelValues(
        {key: n for key, n in numbers.items() if key.endswith("_total")},
        {key: n for key, n in numbers.items() if not key.endswith("_total")},
    )


def test_snapshots_of_a_window_share_their_keys() -> None:
    waits = Histogram(bounds=(1.0,), buckets=(2,), sum=4.5, count=3)
    model = ModelValues({"prompt_tokens_total": 1}, histograms={"queue_duration_seconds": waits})
    one, other = snapshot(model), snapshot(model)
    assert one == {
        "prompt_tokens_total": 1,
        "sum queue_duration_seconds": 4.5,
        "count queue_duration_seconds": 3,
    }
    assert all(key is same for key, same in zip(one, other, strict=True))


def test_values_over_the_window() -> None:
    window = ModelWindow(60)
    first = values(
        prompt_tokens_total=100,
        cached_prompt_tokens_total=10,
        generated_tokens_total=50,
        ok=5,
        error=1,
    )
    nothing, reset = window.add(0.0, snapshot(first))
    assert not reset
    assert not nothing.tokens
    second = values(
        prompt_tokens_total=300,
        cached_prompt_tokens_total=60,
        generated_tokens_total=90,
        ok=8,
        error=2,
    )
    result, reset = window.add(10.0, snapshot(second))
    assert not reset
    assert result.tokens == {"prompt": 20, "generated": 4}
    assert result.success_ratio == 0.75
    assert result.cache_hit_ratio == 0.25
    third, reset = window.add(20.0, snapshot(first))
    assert reset
    assert not third.tokens


def test_an_engine_with_one_outcome_has_no_success_ratio() -> None:
    window = ModelWindow(60)
    window.add(0.0, snapshot(values(ok=1)))
    assert window.add(10.0, snapshot(values(ok=5)))[0].success_ratio is None


def test_derived_values_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(target_module, "time", SimpleNamespace(monotonic=lambda: now))

    async def scenario() -> None:
        nonlocal now
        page = (PAGES / "vllm.prom").read_text()
        later = page.replace(
            'generation_tokens_total{engine="0",model_name="tiny"} 6599.0',
            'generation_tokens_total{engine="0",model_name="tiny"} 6799.0',
        ).replace(
            'request_queue_time_seconds_count{engine="0",model_name="tiny"} 92.0',
            'request_queue_time_seconds_count{engine="0",model_name="tiny"} 93.0',
        )
        later = later.replace(
            'request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} 92.0',
            'request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} 93.0',
        ).replace(
            'request_queue_time_seconds_sum{engine="0",model_name="tiny"} 17.788058085000557',
            'request_queue_time_seconds_sum{engine="0",model_name="tiny"} 18.288058085000557',
        )
        async with (
            FakeTriton() as fake,
            source(url=(f"here=http://{fake.url}",), discover="off") as servers,
        ):
            fake.responses = {"/metrics": http_response(page)}
            target = await only_target(servers)
            await target.read()
            now += 20
            fake.responses = {"/metrics": http_response(later)}
            derived = exported(await target.read())
            assert derived["model_server_tokens_per_second", "generated", "tiny"] == 10
            assert derived["model_server_latency_seconds", "tiny", "queue"] == pytest.approx(0.5)
            assert ("model_server_success_ratio", "tiny") not in derived

    asyncio.run(scenario())


def test_up_omissions_and_the_hit_ratio() -> None:
    page = (
        'sglang:num_running_reqs{model_name="m"} 1\n'
        'sglang:prompt_tokens_total{model_name="m"} %d\n'
        'sglang:cached_tokens_total{model_name="m"} %d\n'
        'sglang:generation_tokens_total{model_name="m"} -1\n'
    )

    async def scenario() -> None:
        async with (
            FakeTriton() as fake,
            source(url=(f"here=http://{fake.url}",), discover="off") as servers,
        ):
            target = await only_target(servers)
            for tokens, cached in ((100, 10), (140, 40)):
                fake.responses = {"/metrics": http_response(page % (tokens, cached))}
                reading = await target.read()
            values = exported(reading)
            assert values["model_server_prefix_cache_hit_ratio", "m"] == 0.75
            assert reading.problems
            counts = exported(Reading((*target.counts(), Up(up=True, target=target.up_labels))))
            assert counts["model_server_omissions_total", "invalid"] == 2
            assert counts["model_server_omissions_total", "malformed"] == 0
            assert counts["model_server_up",] == 1

    asyncio.run(scenario())


def test_version_and_readiness_of_an_api_at_another_port() -> None:
    async def scenario() -> None:
        async with FakeTriton() as page, FakeTriton() as api:
            page.responses = {"/metrics": http_response((PAGES / "mlserver.prom").read_bytes())}
            api.responses = {
                "/v2": json_response({"name": "mlserver", "version": "1.7.1"}),
                "/v2/health/ready": http_response(""),
            }
            async with source(
                discover="off", url=(f"here=http://{page.url}",), api_url=(f"here={api.url}",)
            ) as servers:
                values = exported(await (await only_target(servers)).read())
                info = ("model_server_info", f"127.0.0.1:{page.port}", "", "", "1.7.1")
                assert values[info] == 1
                assert values["model_server_ready",] == 1
                assert paths(page) == ["/metrics"]
            # A process is recognized by its API; its page has a port of its own on the list.
            readings = {"gpu": {"0": gpu_process(os.getpid())}}
            own = {"detect": "model_infer_request_success", "port": str(page.port)}
            own |= {"identity": "mlserver", "version": "/v2 version"}
            metrics = {"requests_total{outcome=ok}": "model_infer_request_success_total"}
            page.requests.clear()
            async with source(
                context(readings),
                ports=(page.port, api.port),
                profiles={"mlserver": {**own, "metrics": metrics}},
            ) as servers:
                servers._processes._asked = {api.port: (1, 0.0), page.port: (2, 1e12)}
                target = await only_target(servers)
                assert target.name == f"localhost:{page.port}"
                assert exported(await target.read())[info] == 1
                assert await only_target(servers) is target
                assert paths(page) == ["/metrics"]

    asyncio.run(scenario())
