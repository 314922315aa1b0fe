"""containerd with its CRI plug-in (Debian's 1.6), as on a Kubernetes node, and a client of its CRI.

It has its own root, state and socket. Pods are on the host's network, or have a network namespace
with one end of a veth pair (the CNI plug-in `ptp`), which changes no iptables.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import grpc

from tests.fakes.cri import SERVICE, messages
from tests.parts import missing
from tests.sources.containers.engine import IMAGE, TIMEOUT_FACTOR, Engine, remove_cgroups, tree

CONTAINERD = Path("/usr/bin/containerd")
_PTP = Path("/usr/lib/cni/ptp")
_PAUSE = "docker.io/library/pause:1"
NODE = 2
"""NamespaceMode: the network of the node."""
_CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/run/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/net.d"
"""


@dataclass(slots=True)
class Pod:
    """A running pod sandbox. containers: IDs, by name, of the newest attempts."""

    id: str
    config: Any
    host_network: bool
    containers: dict[str, str] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        uid: str = self.config.metadata.uid
        return uid


class Containerd(Engine):
    """containerd, with the images `busy` and `pause` imported."""

    name: ClassVar[str] = "containerd"
    title: ClassVar[str] = "containerd 1.6"
    api: ClassVar[str] = "v1"
    _folders: ClassVar[tuple[str, ...]] = ("run",)

    def __init__(self) -> None:
        if not CONTAINERD.exists():
            missing(f"{CONTAINERD} is missing (Debian's containerd)")
        if not _PTP.exists():
            missing(f"{_PTP} is missing (Debian's containernetworking-plugins)")
        self._pods: list[Pod] = []
        self._channel: grpc.Channel | None = None
        super().__init__()
        (self.folder / "run").mkdir()
        self.socket = self.folder / "run" / "containerd.sock"
        subnet = int(hashlib.sha256(str(self.folder).encode()).hexdigest(), 16) % 200 + 20
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.folder / "ipam"),
                        "ranges": [[{"subnet": f"10.213.{subnet}.0/24"}]],
                    },
                }
            ],
        }
        (self.folder / "net.d").mkdir()
        (self.folder / "net.d" / "10-pods.conflist").write_text(json.dumps(network))

    def _command(self) -> tuple[str, ...]:
        config = self.folder / "config.toml"
        config.write_text(_CONFIG.format(folder=self.folder, socket=self.socket, pause=_PAUSE))
        return (str(CONTAINERD), "--config", str(config), "--log-level", "warn")

    def _responds(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"containerd ended on start:\n{self.log_tail()}")
        with contextlib.suppress(grpc.RpcError):
            self.call_cri("Version", messages().VersionRequest(), "VersionResponse", 2)
            return True
        return False

    def import_image(self) -> None:
        archive = self.folder / "images.tar"
        archive.write_bytes(
            _image_archive({_PAUSE: ["sleep", "1000000"], f"docker.io/library/{IMAGE}": ["sh"]})
        )
        command = ("ctr", "--address", str(self.socket), "--namespace", "k8s.io", "images")
        subprocess.run(
            (*command, "import", "--snapshotter", "native", str(archive)),
            check=True,
            capture_output=True,
            timeout=60 * TIMEOUT_FACTOR,
        )

    def call_cri(self, method: str, request: Any, reply: str = "Empty", timeout: float = 60) -> Any:
        """Calls a method of the CRI; returns its reply, a message of that name."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"unix:{self.socket}")
        call: Any = self._channel.unary_unary(f"/{SERVICE}/{method}")
        data = call(request.SerializeToString(), timeout=timeout * TIMEOUT_FACTOR)
        return getattr(messages(), reply).FromString(data)

    def run_pod(
        self, name: str, namespace: str = "team", *, host_network: bool = True, **more: Any
    ) -> Pod:
        """Starts a pod sandbox. more: labels, annotations."""
        module = messages()
        uid = str(uuid.uuid4())
        config = module.PodSandboxConfig(
            metadata=module.PodSandboxMetadata(name=name, uid=uid, namespace=namespace),
            hostname="" if host_network else name,
            log_directory=str(self.folder / "logs" / uid),
            **more,
        )
        config.linux.cgroup_parent = f"/kubepods/burstable/pod{uid}"
        options = config.linux.security_context.namespace_options
        options.network = NODE if host_network else 0
        request = module.RunPodSandboxRequest(config=config)
        sandbox = self.call_cri("RunPodSandbox", request, "RunPodSandboxResponse")
        pod = Pod(sandbox.pod_sandbox_id, config, host_network)
        self._pods.append(pod)
        return pod

    def run_container(
        self, pod: Pod, name: str, *command: str, attempt: int = 0, memory: int = 0, **more: Any
    ) -> str:
        """Starts a container of the pod; returns its ID. memory: limit in bytes. more: labels."""
        module = messages()
        labels = {"io.kubernetes.container.name": name, **more.pop("labels", {})}
        config = module.ContainerConfig(
            metadata=module.ContainerMetadata(name=name, attempt=attempt),
            image=module.ImageSpec(image=IMAGE),
            command=command,
            labels=labels,
            log_path=f"{name}-{attempt}.log",
            **more,
        )
        config.linux.resources.memory_limit_in_bytes = memory
        options = config.linux.security_context.namespace_options
        options.network = NODE if pod.host_network else 0
        request = module.CreateContainerRequest(
            pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config
        )
        id_: str = self.call_cri("CreateContainer", request, "ContainerId").container_id
        self.call_cri("StartContainer", module.ContainerId(container_id=id_))
        pod.containers[name] = id_
        return id_

    def stop_container(self, container_id: str) -> None:
        request = messages().StopContainerRequest(container_id=container_id, timeout=0)
        self.call_cri("StopContainer", request)

    def status(self, container_id: str) -> tuple[Any, dict[str, Any]]:
        """Returns a container's status, and its verbose part."""
        request = messages().ContainerStatusRequest(container_id=container_id, verbose=True)
        reply = self.call_cri("ContainerStatus", request, "ContainerStatusResponse")
        return reply.status, json.loads(reply.info["info"])

    def remove_pod(self, pod: Pod) -> None:
        """Stops and removes a pod with its containers."""
        request = messages().PodSandboxId(pod_sandbox_id=pod.id)
        self.call_cri("StopPodSandbox", request)
        self.call_cri("RemovePodSandbox", request)
        self._pods.remove(pod)
        self._remove_cgroups_of(pod)

    def stop(self) -> None:
        super().stop()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _remove_containers(self) -> None:
        # Processes that the runtime can no longer remove are killed afterwards.
        for pod in tuple(self._pods):
            with contextlib.suppress(grpc.RpcError):
                self.remove_pod(pod)

    def _remove_cgroups(self) -> None:
        for pod in self._pods:
            self._remove_cgroups_of(pod)
        remove_cgroups("kubepods/burstable", "kubepods")

    @staticmethod
    def _remove_cgroups_of(pod: Pod) -> None:
        remove_cgroups(f"kubepods/burstable/pod{pod.uid}/*", f"kubepods/burstable/pod{pod.uid}")

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _image_archive(images: dict[str, list[str]]) -> bytes:
    """Returns an archive, as of `docker save`, of images of a static busybox. images: commands."""
    layer = tree()
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as archive:

            def add(name: str, data: bytes) -> None:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))

            add("layer.tar", layer)
            manifest = []
            for name, command in images.items():
                config = json.dumps(
                    {
                        "architecture": "amd64",
                        "os": "linux",
                        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
                        "rootfs": {
                            "type": "layers",
                            "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
                        },
                    }
                ).encode()
                file = f"{hashlib.sha256(config).hexdigest()}.json"
                add(file, config)
                manifest.append({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]})
            add("manifest.json", json.dumps(manifest).encode())
        return buffer.getvalue()
