"""The JSON of a verbose status: a container's first process, cgroup and OCI runtime spec. Pure.

It is no part of the CRI's definition: containerd has `info` with the members at its top, CRI-O the
same. What is missing or odd is left out. It contains the container's environment: never kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from exporter.errors import BadData
from exporter.faults import Faults
from exporter.sources.containers.engine.json_reply import decode_reply

_Text = Annotated[str, Meta(max_length=4096)]
_Pid = Annotated[int, Meta(ge=0, lt=2**31)]
_Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_INFO = "info"
_MAX_DEPTH = 64


class _Process(Struct):
    env: list[Annotated[str, Meta(max_length=1 << 17)]] | None = None


class _OciMount(Struct):
    destination: _Text = ""
    source: _Text = ""


class _Memory(Struct):
    limit: _Number | None = None


class _Cpu(Struct):
    shares: _Number | None = None


class _Resources(Struct):
    memory: _Memory | None = None
    cpu: _Cpu | None = None


class _Namespace(Struct):
    type: _Text = ""
    path: _Text = ""


class _Linux(Struct):
    cgroups_path: _Text = field(name="cgroupsPath", default="")
    resources: _Resources | None = None
    namespaces: list[_Namespace] | None = None


class RuntimeSpec(Struct):
    """The OCI runtime's configuration."""

    process: _Process | None = None
    mounts: list[_OciMount] | None = None
    annotations: dict[str, str] | None = None
    linux: _Linux | None = None


class _CdiDevice(Struct):
    name: _Text = ""


class _Config(Struct):
    cdi_devices: list[_CdiDevice] | None = field(name="CDI_devices", default=None)


class _RuntimeOptions(Struct):
    binary: _Text = field(name="binary_name", default="")
    binary_path: _Text = field(name="BinaryName", default="")


class StatusInfo(Struct):
    """The members in use. image: of a pod sandbox, that of its pause container."""

    pid: _Pid | None = None
    image: _Text = ""
    options: _RuntimeOptions | None = field(name="runtimeOptions", default=None)
    config: _Config | None = None
    spec: RuntimeSpec | None = field(name="runtimeSpec", default=None)


def parse_info(info: Mapping[str, str], subject: str, faults: Faults) -> StatusInfo:
    """Returns the verbose status; of one that is missing or no JSON, nothing."""
    text = info.get(_INFO)
    if text is None:
        return StatusInfo()
    try:
        return decode_reply(text.encode(), StatusInfo, subject, faults)
    except BadData as error:
        faults.add(error.message)
        return StatusInfo()


def cgroup_path(path: str) -> str:
    """Returns the path of a cgroup below the root, from cgroupsPath.

    With the systemd driver that is SLICE:PREFIX:NAME, where a-b.slice is in a.slice.
    """
    if path.startswith("/"):
        return path
    slice_, _, rest = path.partition(":")
    prefix, _, name = rest.partition(":")
    if not (slice_.endswith(".slice") and name):
        return ""
    parts = slice_.removesuffix(".slice").split("-")[:_MAX_DEPTH]
    folders = ["-".join(parts[: count + 1]) + ".slice" for count in range(len(parts))]
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope".removeprefix("-")
    return "/" + "/".join([*folders, unit])


def gpu_settings(info: StatusInfo, handler: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the parts of the spec that may request GPUs, in the form of Docker's `inspect`.

    handler: the pod's runtime handler ("nvidia"); without one, the runtime's program counts.
    """
    spec = info.spec or RuntimeSpec()
    options = info.options or _RuntimeOptions()
    program = (options.binary_path or options.binary).rpartition("/")[2]
    devices = info.config.cdi_devices if info.config is not None else None
    config = {"Env": spec.process.env if spec.process is not None else None}
    host_config = {
        "Annotations": spec.annotations,
        "Mounts": [
            {"Source": mount.source, "Target": mount.destination} for mount in spec.mounts or ()
        ],
        "DeviceRequests": [
            {"Driver": "cdi", "DeviceIDs": [device.name for device in devices or ()]}
        ],
        "Runtime": handler or program,
    }
    return config, host_config
