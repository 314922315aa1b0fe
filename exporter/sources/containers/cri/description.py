"""A container's description from the CRI's list, its verbose status and its pod's. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exporter.faults import Faults
from exporter.sources.containers.cri.info import cgroup_path, gpu_settings, parse_info
from exporter.sources.containers.cri.listing import ListedContainer
from exporter.sources.containers.cri.messages import (
    CONTAINER_STATES,
    ContainerStatus,
    ContainerStatusReply,
    PodStatusReply,
)
from exporter.sources.containers.engine.description import (
    UNKNOWN_PID,
    ContainerDescription,
    label_hints,
    labels_for_page,
)
from exporter.sources.containers.engine.gpu_request import parse_gpu_request
from exporter.sources.containers.engine.network import parse_address
from exporter.sources.containers.reading import NO_NETWORK, Network

# The reason of a container's end by the OOM killer, as containerd and CRI-O report it.
_OOM_KILLED = "OOMKilled"
_MAX_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class PodDetails:
    """A pod's network, and the image of its pause container."""

    network: Network = NO_NETWORK
    image: str = ""


def pod_details(pod_id: str, reply: PodStatusReply, faults: Faults) -> PodDetails:
    """Returns the details from a verbose status."""
    image = parse_info(reply.info, f"pod {pod_id[:12]}", faults).image[:_MAX_LENGTH]
    status = reply.status
    if status is not None and status.on_host_network:
        return PodDetails(Network(mode="host"), image)
    network = status.network if status is not None else None
    texts = () if network is None else (network.address, *(ip.address for ip in network.additional))
    addresses = dict.fromkeys(filter(None, map(parse_address, texts)))
    return PodDetails(Network("pod", pod_id, tuple(addresses)), image)


def describe_container(
    listed: ListedContainer,
    reply: ContainerStatusReply,
    pod: PodDetails,
    faults: Faults,
    *,
    allowed_labels: Iterable[str] = (),
    oom_killed_before: bool = False,
) -> ContainerDescription:
    """Joins the replies. allowed_labels: names of labels to export."""
    info = parse_info(reply.info, f"container {listed.id[:12]}", faults)
    status = reply.status or ContainerStatus()
    spec = info.spec
    linux = spec.linux if spec is not None else None
    resources = linux.resources if linux is not None else None
    memory = resources.memory if resources is not None else None
    cpu = resources.cpu if resources is not None else None
    state = CONTAINER_STATES.get(status.state, "") if reply.status is not None else listed.state
    ended = state == "exited"
    handler = listed.listed_pod.handler if listed.listed_pod is not None else ""
    return ContainerDescription(
        id=listed.id,
        name=listed.name,
        image=_image(status),
        image_id=(status.image_id or status.image_ref)[:_MAX_LENGTH],
        compose_project="",
        compose_service="",
        pid=(info.pid or UNKNOWN_PID) if state == "running" else 0,
        started=_seconds(status.started),
        has_memory_limit=memory is not None and (memory.limit or 0) > 0,
        network=pod.network,
        gpu_request=parse_gpu_request(*gpu_settings(info, handler)),
        hints=label_hints(listed.labels),
        allowed_labels=labels_for_page(listed.labels, allowed_labels),
        state=state,
        restarts=listed.attempt,
        exit_code=status.exit_code if ended and _is_exit_code(status.exit_code) else None,
        oom_killed=None if reply.status is None else ended and status.reason == _OOM_KILLED,
        finished=_seconds(status.finished) if ended else None,
        cpu_shares=cpu.shares if cpu is not None and (cpu.shares or 0) > 0 else None,
        pod=listed.pod,
        namespace=listed.namespace,
        container=listed.container,
        pod_uid=listed.pod_uid,
        pod_image=pod.image,
        cgroup=cgroup_path(linux.cgroups_path)[:_MAX_LENGTH] if linux is not None else "",
        oom_killed_before=oom_killed_before,
    )


def was_oom_killed(reply: ContainerStatusReply) -> bool:
    """Returns whether the OOM killer ended the container."""
    return reply.status is not None and reply.status.reason == _OOM_KILLED


def _image(status: ContainerStatus) -> str:
    """Returns the image as the user named it: kubelet may create the container by its ID."""
    image = status.image
    named = (image.user_specified or image.image) if image is not None else ""
    return (named or status.image_ref)[:_MAX_LENGTH]


def _seconds(nanoseconds: int) -> float | None:
    return nanoseconds / 1e9 if nanoseconds > 0 else None


def _is_exit_code(value: int) -> bool:
    return -(2**31) <= value < 2**32
