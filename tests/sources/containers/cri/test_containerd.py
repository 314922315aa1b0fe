"""Pods of a real containerd: every value equal to the kernel's files, read independently."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.errors import SourceError
from tests.sources.containers.containerd import Containerd, Pod
from tests.sources.containers.cri.polling import PolledRuntime, async_test, polled_runtime
from tests.sources.containers.kernel_values import ROOT, received
from tests.waiting import until, until_async, until_result

pytestmark = pytest.mark.real
LIMIT = 32 << 20
# Fills 2 MiB of page cache, then sleeps; needs more than its limit of memory, then ends. It waits
# before and after the kill (`run_eater`): on cgroup v1, containerd misses that of a container that
# it does not watch yet, or that ends with it.
SLEEP = ("sh", "-c", "dd if=/dev/zero of=/file bs=1M count=2; exec sleep 1000000")
_EAT = (
    "until [ -e /eat ]; do sleep 0.1; done; tail -c 100000000 /dev/zero; status=$?;"
    " until [ -e /end ]; do sleep 0.1; done; exit $status"
)


@dataclass(frozen=True, slots=True)
class TwoPods:
    """Two pods of two containers each: one was restarted, one killed for its memory."""

    web: Pod
    job: Pod


@pytest.fixture(scope="module")
def pods(containerd: Containerd) -> Iterator[TwoPods]:
    web = containerd.run_pod("web", host_network=False, labels={"app": "shop"})
    containerd.run_container(web, "server", *SLEEP, memory=LIMIT)
    first = containerd.run_container(web, "proxy", *SLEEP)
    containerd.stop_container(first)
    containerd.run_container(web, "proxy", *SLEEP, attempt=1)
    job = containerd.run_pod("job", "batch")
    containerd.run_container(job, "logger", *SLEEP)
    run_eater(containerd, job)
    for pod, name in ((web, "server"), (web, "proxy"), (job, "logger")):
        until_asleep(containerd, pod.containers[name])
    yield TwoPods(web, job)
    for pod in (web, job):
        containerd.remove_pod(pod)


def run_eater(containerd: Containerd, pod: Pod, attempt: int = 0) -> None:
    """Runs a container that ends after a process of it is killed for its memory."""
    eater = containerd.run_container(pod, "eater", "sh", "-c", _EAT, memory=LIMIT, attempt=attempt)
    root = Path(f"/proc/{containerd.status(eater)[1]['pid']}/root")
    (root / "eat").touch()
    reason = "the kill is reported"
    until(lambda: containerd.status(eater)[0].reason == "OOMKilled", reason, 60)
    (root / "end").touch()
    until(lambda: containerd.status(eater)[0].state == 2, "the container has ended", 60)


def until_asleep(containerd: Containerd, container_id: str) -> None:
    stat = Path(f"/proc/{containerd.status(container_id)[1]['pid']}/stat")
    until(lambda: "(sleep) S" in stat.read_text(), "the container sleeps", 60)


def kernel_file(pod: Pod, name: str, controller: str, file: str) -> str:
    """Returns the content of a container's cgroup file, by the path that the test has set."""
    path = f"kubepods/burstable/pod{pod.uid}/{pod.containers[name]}"
    folder = ROOT / controller / path
    return (folder if folder.is_dir() else ROOT / path).joinpath(file).read_text()


def cpu_seconds(pod: Pod, name: str) -> float:
    if (ROOT / "cgroup.controllers").exists():
        return int(kernel_file(pod, name, "", "cpu.stat").split()[1]) / 1e6
    return int(kernel_file(pod, name, "cpuacct", "cpuacct.usage")) / 1e9


def memory(pod: Pod, name: str) -> int:
    v2 = (ROOT / "cgroup.controllers").exists()
    return int(
        kernel_file(pod, name, "memory", "memory.current" if v2 else "memory.usage_in_bytes")
    )


NAMES = {"team/web/server", "team/web/proxy", "batch/job/logger", "batch/job/eater"}


@async_test
async def test_all_of_two_pods(containerd: Containerd, pods: TwoPods) -> None:
    before = time.time()
    async with polled_runtime(containerd.url) as runtime:

        async def agrees() -> bool:
            """Returns whether no value that may change between both reads has changed.

            The kernel may take pages back that it has charged in advance, and sends packets to
            new interfaces.
            """
            await runtime.poll()
            used = runtime.values("container_memory_usage_bytes")
            counted = runtime.values("container_network_receive_bytes_total", interface="eth0")
            _, info = containerd.status(pods.web.containers["server"])
            return counted == {"team/web": received(info["pid"])} and used == {
                "team/web/server": memory(pods.web, "server"),
                "team/web/proxy": memory(pods.web, "proxy"),
                "batch/job/logger": memory(pods.job, "logger"),
            }

        await until_result(agrees, bool, 30)
        assert runtime.problems == ""
        assert runtime.values("container_state").keys() == NAMES, "no pause containers"
        assert runtime.values("container_state", state="exited") == {"batch/job/eater": 1}
        # One was restarted.
        restarts = dict.fromkeys(NAMES, 0) | {"team/web/proxy": 1}
        assert runtime.values("container_restarts_total") == restarts
        # One was killed for its memory.
        killed = dict.fromkeys(NAMES, 0) | {"batch/job/eater": 1}
        assert runtime.values("container_oom_killed") == killed
        assert runtime.values("container_exit_code") == {"batch/job/eater": 137}
        status, _ = containerd.status(pods.job.containers["eater"])
        finished = runtime.values("container_finish_time_seconds")
        assert finished == {"batch/job/eater": status.finished_at / 1e9}
        for pod, name in ((pods.web, "server"), (pods.web, "proxy"), (pods.job, "logger")):
            check_container(containerd, runtime, pod, name, before)
        limits = {"team/web/server": LIMIT}
        assert runtime.values("container_spec_memory_limit_bytes") == limits
        check_network(runtime)
        count = runtime.page["container_engine_containers", frozenset({("state", "running")})]
        assert count == 3


def check_container(
    containerd: Containerd, runtime: PolledRuntime, pod: Pod, name: str, before: float
) -> None:
    metadata = pod.config.metadata
    full_name = f"{metadata.namespace}/{metadata.name}/{name}"
    labels = {
        "name": full_name,
        "image": "docker.io/library/busy:1",
        "pod": metadata.name,
        "namespace": metadata.namespace,
        "container": name,
    }
    for metric in ("container_cpu_usage_seconds_total", "container_restarts_total"):
        assert runtime.labels(metric, full_name) == labels
    status, info = containerd.status(pod.containers[name])
    assert runtime.labels("container_info", full_name) == {
        **labels,
        "id": pod.containers[name],
        "image_id": status.image_ref,
        "compose_project": "",
        "compose_service": "",
        "pod_uid": metadata.uid,
        "cgroup": f"/kubepods/burstable/pod{metadata.uid}/{pod.containers[name]}",
    }
    assert runtime.values("container_memory_cache")[full_name] >= 2 << 20
    usage = runtime.values("container_cpu_usage_seconds_total")[full_name]
    assert usage == pytest.approx(cpu_seconds(pod, name), abs=0.01)
    started = runtime.values("container_start_time_seconds")[full_name]
    assert started == status.started_at / 1e9
    assert before - 120 < started < time.time()
    assert runtime.values("container_last_seen")[full_name] == pytest.approx(time.time(), abs=30)
    assert runtime.values("container_processes")[full_name] == 1
    (row,) = [row for row in runtime.containers if row.labels[0] == full_name]
    assert row.pid == info["pid"]
    assert os.stat(f"/proc/{row.pid}/root").st_ino  # noqa: PTH116 - the process exists


def check_network(runtime: PolledRuntime) -> None:
    """The counters are the pod's, once, and the host's network is no pod's."""
    counted = runtime.values("container_network_receive_bytes_total", interface="eth0")
    assert counted.keys() == {"team/web"}
    assert runtime.labels("container_network_transmit_packets_total", "team/web") == {
        "name": "team/web",
        "image": "docker.io/library/pause:1",
        "pod": "web",
        "namespace": "team",
        "interface": "eth0",
    }
    (address,) = {row.addresses for row in runtime.containers if row.pod == "web"}
    assert address[0].startswith("10.213.")


@async_test
async def test_a_container_that_is_killed_for_its_memory_and_restarted(
    containerd: Containerd,
) -> None:
    pod = containerd.run_pod("crashing")
    name = "team/crashing/eater"
    try:
        async with polled_runtime(containerd.url) as runtime:
            first = containerd.run_container(pod, "eater", *SLEEP, memory=LIMIT)
            await runtime.poll()
            kills = runtime.values("container_oom_events_total")[name]
            assert kills == 0
            containerd.stop_container(first)
            for attempt in (1, 2):
                run_eater(containerd, pod, attempt)
                await runtime.poll()
                assert runtime.values("container_restarts_total")[name] == attempt
                assert runtime.values("container_oom_killed")[name] == 1
                assert runtime.values("container_oom_events_total")[name] == attempt
    finally:
        containerd.remove_pod(pod)


@pytest.mark.usefixtures("pods")
@async_test
async def test_a_restart_of_containerd(containerd: Containerd) -> None:
    """Its containers keep running, and their usage has no gap."""
    async with polled_runtime(containerd.url) as runtime:
        await runtime.poll()
        containerd.stop()
        try:
            with pytest.raises(SourceError):
                await runtime.engine.read()
            runtime.reading = await runtime.resources.read()
            usages = runtime.values("container_memory_usage_bytes")
            assert usages.keys() == NAMES - {"batch/job/eater"}
        finally:
            containerd.start()

        async def names() -> set[str]:
            try:
                await runtime.poll()
            except SourceError:
                return set()
            return set(runtime.values("container_state"))

        await until_result(names, lambda found: found == NAMES, 60)


@async_test
async def test_churn_of_real_pods(containerd: Containerd) -> None:
    """Pods that come and go leave no files open, and no series."""
    async with polled_runtime(containerd.url) as runtime:
        await runtime.poll()

        def descriptors() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        before, states = descriptors(), runtime.values("container_state").keys()
        for number in range(5):
            pod = containerd.run_pod(f"churn-{number}", host_network=number % 2 == 0)
            containerd.run_container(pod, "app", *SLEEP)
            await runtime.poll()
            name = f"team/churn-{number}/app"
            assert runtime.values("container_memory_usage_bytes")[name] > 0
            containerd.remove_pod(pod)
        await runtime.poll()
        assert runtime.values("container_state").keys() == states
        # The event stream, which the runtime refuses, may be closed a moment later.
        await until_async(lambda: descriptors() <= before + 1, "the descriptors are closed")
