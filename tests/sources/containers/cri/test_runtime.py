"""Pods of a CRI server of the tests: identity, restarts, networks, cgroups, events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from exporter.errors import Unsupported
from exporter.sources.containers.cri import events
from tests.fakes.cgroup_trees import Tree
from tests.fakes.cri import NOW, SECOND, CriServer, hex_id, messages
from tests.sources.containers.cri.polling import async_test, has_stream, polled_runtime
from tests.waiting import until_async, until_result

BEST_EFFORT = "kubepods-besteffort"
WEB, SIDECAR = "team/web/server", "team/web/proxy"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CriServer]:
    with CriServer(tmp_path / "cri.sock") as server:
        yield server


def add_running(server: CriServer, tree: Tree, pod: str, name: str, pid: int, **more: int) -> str:
    """Adds a container with a cgroup v2 and a first process; returns its ID."""
    id_ = server.add_container(pod, name, pid=pid, **more)
    uid = server.pods[pod].metadata.uid
    path = f"kubepods.slice/kubepods-pod{uid}.slice/cri-containerd-{id_}.scope"
    tree.v2_full(path)
    tree.process(f"0::/{path}\n", pid)
    return id_


@async_test
async def test_containers_are_named_by_their_pods(server: CriServer, tree: Tree) -> None:
    pod = server.add_pod(
        "web",
        labels={"app": "shop"},
        annotations={
            "inference-exporter.triton.port": "8001",
            "inference-exporter.container": "server",
            "prometheus.io/port": "9100",
            "other": "y" * 5000,
        },
    )
    id_ = add_running(server, tree, pod, "server", 101)
    add_running(server, tree, pod, "proxy", 102)
    async with polled_runtime(server.socket, tree.paths, labels=("app",)) as runtime:
        await runtime.poll()
        assert runtime.problems == ""
        identity = {"pod": "web", "namespace": "team", "image": "registry.example/app:1"}
        assert runtime.labels("container_memory_usage_bytes", WEB) == {
            "name": WEB,
            "container": "server",
            **identity,
        }
        assert runtime.labels("container_info", WEB) == {
            "name": WEB,
            "container": "server",
            **identity,
            "id": id_,
            "image_id": "sha256:11",
            "compose_project": "",
            "compose_service": "",
            "container_label_app": "shop",
            "pod_uid": "uid-web",
            "cgroup": f"/kubepods/burstable/poduid-web/{id_}",
        }
        assert runtime.values("container_memory_usage_bytes") == {WEB: 10_000, SIDECAR: 10_000}
        assert runtime.values("container_spec_cpu_shares") == {WEB: 512, SIDECAR: 512}
        assert runtime.values("container_start_time_seconds")[WEB] == NOW / SECOND + 2
        assert ("container_engine_containers", frozenset({("state", "running")})) in runtime.page
        labels = {"version": "1.6.20", "api_version": "v1", "runtime": "containerd"}
        assert runtime.page["container_engine_info", frozenset(labels.items())] == 1
        note = f"containerd 1.6.20 (CRI v1) at unix://{server.path}"
        assert runtime.engine_reading.note == note
        hints = {row.labels[0]: dict(row.hints) for row in runtime.containers}
        scraped = {"prometheus.port": "9100"}
        named = {"triton.port": "8001", "container": "server"}
        assert hints == {WEB: {**named, **scraped}, SIDECAR: scraped}


@async_test
async def test_network_counters_belong_to_the_pod_once(server: CriServer, tree: Tree) -> None:
    pod = server.add_pod("web", ip="10.0.0.7")
    add_running(server, tree, pod, "server", 101)
    add_running(server, tree, pod, "proxy", 102)
    host = server.add_pod("node-agent", host_network=True)
    add_running(server, tree, host, "agent", 103)
    async with polled_runtime(server.socket, tree.paths) as runtime:
        await runtime.poll()
        received = "container_network_receive_bytes_total"
        assert runtime.values(received) == {"team/web": 1000}
        assert runtime.labels(received, "team/web") == {
            "name": "team/web",
            "image": "registry.k8s.io/pause:3.9",
            "pod": "web",
            "namespace": "team",
            "interface": "eth0",
        }
        rows = {row.labels[0]: row for row in runtime.containers}
        assert rows[WEB].addresses == ("10.0.0.7",)
        assert rows["team/node-agent/agent"].addresses == ()
        assert rows["team/node-agent/agent"].network.mode == "host"


@async_test
async def test_a_restart_shows_the_newest_attempt_alone(server: CriServer, tree: Tree) -> None:
    pod = server.add_pod("web")
    first = add_running(server, tree, pod, "server", 101)
    async with polled_runtime(server.socket, tree.paths) as runtime:
        await runtime.poll()
        assert runtime.values("container_restarts_total") == {WEB: 0}
        oom_kills = runtime.values("container_oom_events_total")[WEB]  # of the file: 1
        server.end(first, exit_code=137, reason="OOMKilled")
        await runtime.poll()
        assert runtime.values("container_state", state="exited") == {WEB: 1}
        assert runtime.values("container_oom_killed") == {WEB: 1}
        assert runtime.values("container_exit_code") == {WEB: 137}
        assert runtime.values("container_finish_time_seconds") == {WEB: NOW / SECOND + 10}
        assert not runtime.values("container_start_time_seconds")
        second = add_running(server, tree, pod, "server", 102, attempt=1)
        await runtime.poll()
        assert runtime.values("container_restarts_total") == {WEB: 1}
        assert runtime.values("container_state", state="running") == {WEB: 1}
        assert runtime.values("container_oom_killed") == {WEB: 0}
        assert runtime.labels("container_info", WEB)["id"] == second
        assert runtime.values("container_oom_events_total")[WEB] == oom_kills + 1


@async_test
async def test_an_oom_kill_between_two_polls_counts(server: CriServer) -> None:
    pod = server.add_pod("web")
    first = server.add_container(pod, "server", pid=2**30)
    async with polled_runtime(server.socket) as runtime:
        await runtime.poll()
        server.end(first, exit_code=137, reason="OOMKilled")
        server.add_container(pod, "server", attempt=1, pid=2**30 + 1)
        await runtime.poll()
        assert runtime.values("container_oom_events_total") == {WEB: 1}
        await runtime.poll()
        assert runtime.values("container_oom_events_total") == {WEB: 1}


@async_test
async def test_a_pod_created_again_replaces_the_one_before(server: CriServer) -> None:
    old = server.add_pod("web-0", uid="old")
    old_id = server.add_container(old, "server", attempt=7)
    server.end(old_id)
    new = server.add_pod("web-0", uid="new")
    server.pods[new].created_at = NOW + SECOND
    server.add_container(new, "server")
    async with polled_runtime(server.socket) as runtime:
        await runtime.poll()
        assert runtime.labels("container_info", "team/web-0/server")["pod_uid"] == "new"
        assert runtime.values("container_restarts_total") == {"team/web-0/server": 0}


@async_test
async def test_filters_see_the_labels_of_pod_and_container(server: CriServer) -> None:
    shop = server.add_pod("web", labels={"app": "shop"})
    server.add_container(shop, "server")
    server.add_container(server.add_pod("db"), "postgres", labels={"tier": "data"})
    async with polled_runtime(server.socket, label_include="app=shop|tier=data") as runtime:
        await runtime.poll()
        assert runtime.values("container_state").keys() == {WEB, "team/db/postgres"}
    async with polled_runtime(server.socket, name_exclude="team/db/.*") as runtime:
        await runtime.poll()
        assert runtime.values("container_state").keys() == {WEB}
        left_out = ("container_left_out", frozenset({("reason", "filter")}))
        assert runtime.page[left_out] == 1


@async_test
async def test_events_request_polls_and_spare_lists(tmp_path: Path) -> None:
    with CriServer(tmp_path / "cri.sock", events=True) as server:
        pod = server.add_pod("web")
        id_ = server.add_container(pod, "server")
        requested: list[bool] = []
        async with polled_runtime(server.socket) as runtime:
            runtime.engine.set_poll_callback(lambda: requested.append(True))
            await runtime.poll()
            await runtime.poll()  # starts the stream
            await until_async(lambda: has_stream(runtime, server), "connected")
            await until_async(lambda: requested, "a poll after the connection")
            await runtime.poll()
            lists = server.calls["ListContainers"]
            for _ in range(3):
                await runtime.poll()
            assert server.calls["ListContainers"] == lists, "a silent stream: nothing has changed"
            requested.clear()
            server.end(id_, exit_code=3)
            server.send_event(id_, 2)
            await until_async(lambda: requested, "a poll after the event")
            await runtime.poll()
            assert runtime.values("container_exit_code") == {WEB: 3}
            assert server.calls["ListContainers"] == lists + 1
            # Started and removed between two polls.
            for kind in (1, 2):  # a pod is no container
                server.send_event(pod, kind)
            server.send_event(hex_id("short"), 1)
            server.send_event(hex_id("short"), 2)
            server.send_event("odd", 2)

            async def missed() -> float:
                await runtime.poll()
                return runtime.page["container_missed_total", frozenset()]

            assert await until_result(missed, lambda count: count == 1) == 1


@async_test
async def test_without_events_every_poll_lists(
    server: CriServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_REFUSAL_TIMEOUT", 30.0)  # a busy server refuses later
    pod = server.add_pod("web")
    async with polled_runtime(server.socket) as runtime:
        for count in range(1, 4):
            server.add_container(pod, f"container-{count}")
            await runtime.poll()
            assert len(runtime.values("container_state")) == count
        statuses = server.calls["ContainerStatus"]
        await runtime.poll()
        assert server.calls["ContainerStatus"] == statuses == 3, "an unchanged container costs none"
        assert server.calls["PodSandboxStatus"] == 1
        assert not runtime.engine.has_events


@pytest.mark.parametrize(
    ("cgroups_path", "id_"),
    [
        ("/kubepods/burstable/podu/ID", "/kubepods/burstable/podu/ID"),
        (
            "kubepods-besteffort-podu.slice:cri-containerd:ID",
            f"/kubepods.slice/{BEST_EFFORT}.slice/{BEST_EFFORT}-podu.slice/cri-containerd-ID.scope",
        ),
        (
            "kubepods-podu.slice:crio:ID",
            "/kubepods.slice/kubepods-podu.slice/crio-ID.scope",
        ),
        ("odd", None),
        ("", None),
    ],
)
@async_test
async def test_the_path_of_the_cgroup(
    server: CriServer, cgroups_path: str, id_: str | None
) -> None:
    server.add_container(server.add_pod("web"), "server", cgroups_path=cgroups_path)
    async with polled_runtime(server.socket) as runtime:
        await runtime.poll()
        assert runtime.labels("container_info", WEB).get("cgroup") == id_


@async_test
async def test_cri_o(tmp_path: Path, tree: Tree) -> None:
    """CRI-O 1.28's answers: no pause process, the image by reference, conmon beside the scope."""
    with CriServer(tmp_path / "cri.sock", events=True) as server:
        server.runtime, server.version = "cri-o", "1.28.1"
        pod = server.add_pod("web", runtime_handler="nvidia")
        server.infos[pod] = {"image": "registry.k8s.io/pause:3.9", "pid": 0, "runtimeSpec": {}}
        module = messages()
        image = module.ImageSpec(image="quay.io/app@sha256:22", user_specified_image="quay.io/app")
        id_ = server.add_container(
            pod,
            "server",
            pid=0,  # unknown: found by its ID
            image=image,
            cgroups_path="kubepods-poduid_web.slice:crio:ID",
            spec={"env": ["NVIDIA_VISIBLE_DEVICES=GPU-1"]},
        )
        slice_ = "kubepods.slice/kubepods-poduid_web.slice"
        tree.v2(f"{slice_}/crio-{id_}.scope")
        (tree.root / slice_ / f"crio-conmon-{id_}.scope").mkdir()
        async with polled_runtime(server.socket, tree.paths) as runtime:
            await runtime.poll()
            assert runtime.problems == ""
            assert runtime.values("container_memory_usage_bytes") == {WEB: 10_000}
            assert runtime.labels("container_info", WEB)["image"] == "quay.io/app"
            (row,) = runtime.containers
            request = row.gpu_request
            assert request is not None
            assert (request.visible_devices, request.runtime) == ("GPU-1", "nvidia")


@async_test
async def test_without_cgroups_the_state_remains(server: CriServer, tmp_path: Path) -> None:
    server.add_container(server.add_pod("web"), "server", pid=2**30)
    tree = Tree(tmp_path / "empty")
    tree.root.mkdir(parents=True)
    async with polled_runtime(server.socket, tree.paths) as runtime:
        await runtime.poll()
        await runtime.poll()
        assert runtime.values("container_state", state="running") == {WEB: 1}
        assert not runtime.values("container_memory_usage_bytes")
        assert "the containers have no resource usage" in runtime.problems
        assert "mount the host's /sys/fs/cgroup" in runtime.reading.problems[0].remedy


@async_test
async def test_a_runtime_without_the_cri_has_a_remedy(tmp_path: Path) -> None:
    with CriServer(tmp_path / "cri.sock") as server:
        server.errors["Version"] = grpc.StatusCode.UNIMPLEMENTED
        async with polled_runtime(server.socket) as runtime:
            with pytest.raises(Unsupported, match="Version fails") as caught:
                await runtime.poll()
            assert "disabled_plugins" in caught.value.remedy


def test_the_event_loop_runs_during_a_slow_call(tmp_path: Path) -> None:
    """A hanging runtime blocks its own thread alone."""

    async def run() -> None:
        with CriServer(tmp_path / "cri.sock") as server:
            server.hang.add("Version")
            async with polled_runtime(server.socket) as runtime:
                read = asyncio.ensure_future(runtime.engine.read())
                await until_async(lambda: server.calls["Version"], "a call that hangs")
                for _ in range(10):
                    await asyncio.sleep(0.01)
                assert not read.done()
                server.stop()  # ends the call
                await asyncio.wait((read,))
                read.exception()

    asyncio.run(run())
