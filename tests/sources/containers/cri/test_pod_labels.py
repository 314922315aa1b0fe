"""The labels of a container's pod: on the page, in the cadvisor dialect and in the joins."""

from __future__ import annotations

from exporter.dialects.cadvisor import LABEL_RULES
from exporter.exposition.renderer import Renderer
from exporter.joins.gpu_containers import GpuContainers, JoinInput
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import Container, ContainerUsage, GpuRequest
from exporter.sources.gpu.reading import GpuIdentity, GpuRow

UID = "0f7a6f7e-1111-2222-3333-444444444444"
ID, OTHER_ID = "a" * 64, "b" * 64
PATH = f"/kubepods/burstable/pod{UID}/{ID}"
IN_POD = ("team/web-0/server", "nginx:1", "web-0", "team", "server")
ROWS = (
    Container(
        IN_POD,
        ID,
        "sha256:1",
        restarts=3,
        cgroup=PATH,
        pod="web-0",
        namespace="team",
        container="server",
        pod_uid=UID,
    ),
    ContainerUsage(IN_POD, memory=4096),
    Container(("db", "postgres:1"), OTHER_ID, "sha256:2", restarts=4),
    ContainerUsage(("db", "postgres:1"), memory=8192),
    # What a whole pod has: no container.
    ContainerUsage(("team/web-0", "", "web-0", "team", ""), memory=1),
)


def lines(metric: str, renderer: Renderer) -> list[str]:
    return renderer.render(ROWS).lines[metric].decode().splitlines()


def test_containers_in_pods_have_the_labels_of_their_pod() -> None:
    page = Renderer(METRICS)
    pod = 'image="nginx:1",name="team/web-0/server",namespace="team",pod="web-0"'
    assert lines("container_memory_usage_bytes", page) == [
        f'container_memory_usage_bytes{{container="server",{pod}}} 4096.0',
        'container_memory_usage_bytes{image="postgres:1",name="db"} 8192.0',
        'container_memory_usage_bytes{image="",name="team/web-0",namespace="team",pod="web-0"} 1.0',
    ]
    assert lines("container_restarts_total", page) == [
        f'container_restarts_total{{container="server",{pod}}} 3.0',
        'container_restarts_total{image="postgres:1",name="db"} 4.0',
    ]
    assert lines("container_info", page) == [
        (
            f'container_info{{cgroup="{PATH}",compose_project="",compose_service="",container="server",'
            f'id="{ID}",image="nginx:1",image_id="sha256:1",name="team/web-0/server",'
            f'namespace="team",pod="web-0",pod_uid="{UID}"}} 1.0'
        ),
        (
            f'container_info{{compose_project="",compose_service="",id="{OTHER_ID}",'
            'image="postgres:1",image_id="sha256:2",name="db"} 1.0'
        ),
    ]


def test_in_the_cadvisor_dialect_the_id_is_the_path_of_the_cgroup() -> None:
    page = Renderer(METRICS, label_rules=LABEL_RULES)
    in_pod, outside, *_ = lines("container_memory_usage_bytes", page)
    assert f'id="{PATH}"' in in_pod
    assert 'pod="web-0"' in in_pod
    assert f'id="/docker/{OTHER_ID}"' in outside


def test_the_use_of_a_gpu_has_the_labels_of_the_pod() -> None:
    gpu = GpuRow(("0", "GPU-1"), GpuIdentity(), {"process_visibility": 1}, {}, ())
    request = GpuRequest(visible_devices="0", runtime="nvidia")
    containers = [
        Container(IN_POD, ID, "", gpu_request=request),
        Container(("db", "postgres:1"), OTHER_ID, "", gpu_request=request),
    ]
    uses = GpuContainers().rows(JoinInput(0.0, [gpu], containers))
    assert {use.labels for use in uses} == {
        ("team/web-0/server", "nginx:1", "0", "GPU-1", "web-0", "team", "server"),
        ("db", "postgres:1", "0", "GPU-1"),
    }
