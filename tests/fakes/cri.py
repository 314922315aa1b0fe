"""A CRI server of the tests, with Google's protobuf and grpcio: containerd's or CRI-O's answers.

`raw` replaces the bytes of a method's reply, `hang` keeps it waiting (or the status of a container,
by its ID), `errors` makes it fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Self

import grpc

SERVICE = "runtime.v1.RuntimeService"
SECOND = 10**9
NOW = 1_795_000_000 * SECOND


@cache
def messages() -> Any:
    """Returns the module of the messages, generated from cri.proto beside this file."""
    return grpc.protos("tests/fakes/cri.proto")


def hex_id(text: str) -> str:
    """Returns an ID in the form of the runtimes'."""
    return hashlib.sha256(text.encode()).hexdigest()


def oci_spec(cgroups_path: str, **more: Any) -> dict[str, Any]:
    """Returns the part of the OCI runtime's configuration that a verbose status has."""
    return {
        "ociVersion": "1.0.2-dev",
        "process": {"args": ["/bin/sh"], "env": ["PATH=/bin", *more.get("env", [])]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "annotations": more.get("annotations", {}),
        "linux": {
            "resources": {"memory": {"limit": 64 << 20}, "cpu": {"shares": 512}},
            "cgroupsPath": cgroups_path,
            "namespaces": [{"type": "pid"}, {"type": "network", "path": "/proc/1/ns/net"}],
        },
    }


class CriServer:
    """The server. Its lists are changed by the test; they are served as they are.

    pods, containers: messages PodSandbox and ContainerStatus by ID (a container's pod is in
    `pod_of`). infos: the verbose status of each.
    """

    runtime, version = "containerd", "1.6.20"

    def __init__(self, path: Path, *, events: bool = False) -> None:
        self.path = path
        self.pods: dict[str, Any] = {}
        self.pod_statuses: dict[str, Any] = {}
        self.containers: dict[str, Any] = {}
        self.pod_of: dict[str, str] = {}
        self.infos: dict[str, dict[str, Any] | str] = {}
        self.raw: dict[str, bytes] = {}
        self.hang: set[str] = set()
        self.errors: dict[str, grpc.StatusCode] = {}
        self.calls: Counter[str] = Counter()
        self._events = events
        self._event = threading.Condition()
        self._sent: list[Any] = []
        self._stopping = threading.Event()
        self._server: grpc.Server | None = None

    @property
    def socket(self) -> str:
        return f"unix://{self.path}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._stopping.clear()
        server = grpc.server(
            ThreadPoolExecutor(8, thread_name_prefix="cri-server"),
            options=[("grpc.max_send_message_length", -1)],
        )
        replies = {
            "Version": self._version,
            "ListPodSandbox": self._list_pods,
            "ListContainers": self._list_containers,
            "ContainerStatus": self._container_status,
            "PodSandboxStatus": self._pod_status,
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, reply))
            for name, reply in replies.items()
        }
        if self._events:
            handlers["GetContainerEvents"] = grpc.unary_stream_rpc_method_handler(self._stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        assert server.add_insecure_port(f"unix:{self.path}")
        server.start()
        self._server = server

    def stop(self) -> None:
        self._stopping.set()
        with self._event:
            self._event.notify_all()
        if self._server is not None:
            self._server.stop(0).wait(20)
            self._server = None
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def add_pod(
        self, name: str, namespace: str = "team", *, host_network: bool = False, **more: Any
    ) -> str:
        """Adds a pod sandbox; returns its ID. more: fields of PodSandbox; ip."""
        module = messages()
        pod_id = hex_id(f"pod {namespace}/{name}/{more.get('uid', '')}")
        metadata = module.PodSandboxMetadata(
            name=name, uid=more.pop("uid", f"uid-{name}"), namespace=namespace
        )
        address = more.pop("ip", "10.0.0.5")
        self.pods[pod_id] = module.PodSandbox(id=pod_id, metadata=metadata, created_at=NOW, **more)
        status = module.PodSandboxStatus(id=pod_id, metadata=metadata)
        status.network.ip = "" if host_network else address
        status.linux.namespaces.options.network = 2 if host_network else 0
        self.pod_statuses[pod_id] = status
        self.infos[pod_id] = {"pid": 1, "image": "registry.k8s.io/pause:3.9"}
        return pod_id

    def add_container(
        self, pod_id: str, name: str, *, attempt: int = 0, pid: int = 0, **more: Any
    ) -> str:
        """Adds a running container; returns its ID. more: fields of ContainerStatus; spec."""
        module = messages()
        pod = self.pods[pod_id].metadata
        container_id = hex_id(f"{pod_id} {name} {attempt}")
        path = more.pop("cgroups_path", f"/kubepods/burstable/pod{pod.uid}/{container_id}")
        spec = oci_spec(path, **more.pop("spec", {}))
        fields = {
            "state": 1,
            "created_at": NOW + attempt,
            "started_at": NOW + 2 * SECOND,
            "image": module.ImageSpec(image="registry.example/app:1"),
            "image_ref": "sha256:11",
            **more,
        }
        self.containers[container_id] = module.ContainerStatus(
            id=container_id,
            metadata=module.ContainerMetadata(name=name, attempt=attempt),
            **fields,
        )
        self.pod_of[container_id] = pod_id
        self.infos[container_id] = {"pid": pid, "runtimeSpec": spec, "runtimeOptions": None}
        return container_id

    def end(self, container_id: str, *, exit_code: int = 0, reason: str = "Completed") -> None:
        """Ends a container."""
        container = self.containers[container_id]
        container.state, container.exit_code, container.reason = 2, exit_code, reason
        container.finished_at = NOW + 10 * SECOND

    def remove_pod(self, pod_id: str) -> None:
        """Removes a pod with its containers."""
        for container_id in [id_ for id_, pod in self.pod_of.items() if pod == pod_id]:
            self.remove(container_id)
        del self.pods[pod_id], self.pod_statuses[pod_id], self.infos[pod_id]

    def remove(self, container_id: str) -> None:
        """Removes a container."""
        del self.containers[container_id], self.pod_of[container_id], self.infos[container_id]

    def send_event(self, container_id: str, kind: int, *, created: int = NOW) -> None:
        """Sends an event: 0 created, 1 started, 2 stopped, 3 deleted; also of a pod, by its ID."""
        pod = self.pod_statuses.get(self.pod_of.get(container_id, container_id))
        event = messages().ContainerEventResponse(
            container_id=container_id,
            container_event_type=kind,
            created_at=created,
            pod_sandbox_status=pod,
        )
        with self._event:
            self._sent.append(event.SerializeToString())
            self._event.notify_all()

    def _unary(self, name: str, reply: Any) -> Any:
        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.calls[name] += 1
            if name in self.hang:
                self._stopping.wait(60)
            if name in self.errors:
                context.abort(self.errors[name], f"{name} fails")
            if name in self.raw:
                return self.raw[name]
            data: bytes = reply(request, context).SerializeToString()
            return data

        return handle

    def _version(self, request: bytes, context: grpc.ServicerContext) -> Any:
        return messages().VersionResponse(
            version="0.1.0",
            runtime_name=self.runtime,
            runtime_version=self.version,
            runtime_api_version="v1",
        )

    def _list_pods(self, request: bytes, context: grpc.ServicerContext) -> Any:
        return messages().ListPodSandboxResponse(items=list(self.pods.values()))

    def _list_containers(self, request: bytes, context: grpc.ServicerContext) -> Any:
        module = messages()
        listed = [
            module.Container(
                id=status.id,
                pod_sandbox_id=self.pod_of[status.id],
                metadata=status.metadata,
                state=status.state,
                created_at=status.created_at,
                labels=status.labels,
            )
            for status in list(self.containers.values())
        ]
        return module.ListContainersResponse(containers=listed)

    def _container_status(self, request: bytes, context: grpc.ServicerContext) -> Any:
        module = messages()
        asked = module.ContainerStatusRequest.FromString(request)
        if asked.container_id in self.hang:
            self._stopping.wait(60)
        status = self.containers.get(asked.container_id)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such container")
        return module.ContainerStatusResponse(
            status=status, info=self._info(asked.container_id) if asked.verbose else {}
        )

    def _pod_status(self, request: bytes, context: grpc.ServicerContext) -> Any:
        module = messages()
        asked = module.PodSandboxStatusRequest.FromString(request)
        status = self.pod_statuses.get(asked.pod_sandbox_id)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such sandbox")
        return module.PodSandboxStatusResponse(
            status=status, info=self._info(asked.pod_sandbox_id) if asked.verbose else {}
        )

    def _info(self, id_: str) -> dict[str, str]:
        info = self.infos.get(id_, {})
        return {"info": info if isinstance(info, str) else json.dumps(info)}

    def _stream(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        sent = len(self._sent)
        self.calls["GetContainerEvents"] += 1  # events from now on are sent
        while context.is_active() and not self._stopping.is_set():
            with self._event:
                if len(self._sent) == sent:
                    self._event.wait(0.2)
                events, sent = self._sent[sent:], len(self._sent)
            yield from events
