"""The GPUs a container was asked to be given: from the engine's inspection. Pure functions.

Whether it got them, and which these are, is for others to say: here are only the words of the
request. Nonsense in them is left out and is no failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from exporter.sources.containers.reading import DeviceRequest, GpuRequest

VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
# vendor/class=name, as the Container Device Interface writes it.
_CDI = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*=[A-Za-z0-9][\w.:-]*\Z", re.ASCII)
_ANNOTATION = "cdi.k8s.io/"
# NVIDIA's runtime takes mounts of /dev/null below this as names of devices, where it is told to.
_MOUNTS = "/var/run/nvidia-container-devices/"
# Bounds of what one container may make us keep: no name is longer, nobody gives so many.
_LONGEST_NAME, _LONGEST, _MOST, _FEW = 256, 4096, 256, 8


def gpu_request(config: Any, host_config: Any) -> GpuRequest | None:
    """From inspect's Config and HostConfig; None where no GPU is asked for.

    Of the environment only NVIDIA_VISIBLE_DEVICES is ever looked at and kept.
    """
    environment = _visible_devices(_of(config, "Env"))
    requests: list[DeviceRequest] = []
    cdi: list[str] = []
    room = _MOST
    for each in _list(_of(host_config, "DeviceRequests")):
        request = _device_request(each, room)
        if request is None:
            continue
        room -= len(request.device_ids)
        if request.driver == "cdi":
            cdi += [name for name in request.device_ids if _CDI.match(name)]
        elif _is_for_gpus(request):
            requests.append(request)
    for each in _list(_of(host_config, "Devices")):  # as Podman has them
        path = _name(_of(each, "PathOnHost"))
        if path and _CDI.match(path):
            cdi.append(path)
    annotated = _annotated(_of(host_config, "Annotations"))
    mounted = _mounted(host_config)
    if environment is None and not (requests or cdi or annotated or mounted):
        return None
    return GpuRequest(
        visible_devices=environment,
        device_requests=tuple(requests),
        cdi_devices=tuple(dict.fromkeys(cdi)),
        annotated=annotated,
        mounted=mounted,
        runtime=_name(_of(host_config, "Runtime")) or "",
    )


def _visible_devices(environment: Any) -> str | None:
    """The value of the one variable; of several the last counts, as for the process itself."""
    found = None
    if isinstance(environment, list):
        for each in environment:
            if isinstance(each, str) and each.startswith(f"{VISIBLE_DEVICES}="):
                found = each
    if found is None:
        return None
    value = found[len(VISIBLE_DEVICES) + 1 :][: _LONGEST + 1]
    if len(value) > _LONGEST:  # not half a name, which could be another's
        value = value.rpartition(",")[0]
    return _text(value)


def _device_request(each: Any, room: int) -> DeviceRequest | None:
    if not isinstance(each, Mapping):
        return None
    count = each.get("Count")
    return DeviceRequest(
        driver=_name(each.get("Driver")) or "",
        count=count if isinstance(count, int) and -1 <= count < 1 << 31 else 0,
        device_ids=_names(each.get("DeviceIDs"))[:room],
        capabilities=tuple(_names(group) for group in _list(each.get("Capabilities"))[:_FEW]),
    )


def _is_for_gpus(request: DeviceRequest) -> bool:
    """Whether NVIDIA's part of the engine takes it: `--gpus` may mean other makers' GPUs, too."""
    if request.driver:
        return request.driver == "nvidia"
    return any("gpu" in group and "amd" not in group for group in request.capabilities)


def _annotated(annotations: Any) -> tuple[str, ...]:
    """The CDI devices that annotations name, separated by commas."""
    if not isinstance(annotations, Mapping):
        return ()
    values = [value for key, value in annotations.items() if str(key).startswith(_ANNOTATION)]
    names = [
        name.strip()
        for value in values[:_FEW]
        for name in (_text(value) or "").split(",")
        if len(name) <= _LONGEST_NAME
    ]
    return tuple(dict.fromkeys(name for name in names[:_MOST] if _CDI.match(name)))


def _mounted(host_config: Any) -> tuple[str, ...]:
    """The devices named by mounts of /dev/null, from HostConfig.Binds and HostConfig.Mounts."""
    found: list[str] = []
    for bind in _list(_of(host_config, "Binds")):
        source, _, rest = (_name(bind) or "").partition(":")
        if source == "/dev/null" and rest.startswith(_MOUNTS):
            # Options may follow; Podman has mounts here too, of MIG's 0:1 as well.
            path, _, options = rest.rpartition(":")
            found.append(rest if not path or options.isdecimal() else path)
    found += (
        _name(_of(mount, "Target")) or ""
        for mount in _list(_of(host_config, "Mounts"))
        if _name(_of(mount, "Source")) == "/dev/null"
    )
    names = (path[len(_MOUNTS) :].strip("/") for path in found if path.startswith(_MOUNTS))
    return tuple(dict.fromkeys(_of_mount(name) for name in names if name))


def _of_mount(name: str) -> str:
    """The device's name: a CDI device is mounted as cdi/VENDOR/CLASS/NAME."""
    what, *parts = name.split("/")
    if what == "cdi" and len(parts) == len(("vendor", "class", "name")):
        vendor, class_, device = parts
        return f"{vendor}/{class_}={device}"
    return name


def _of(thing: Any, key: str) -> Any:
    return thing.get(key) if isinstance(thing, Mapping) else None


def _list(thing: Any) -> list[Any]:
    return thing[:_MOST] if isinstance(thing, list) else []


def _names(thing: Any) -> tuple[str, ...]:
    names: Iterable[str | None] = (_name(each) for each in _list(thing))
    return tuple(name for name in names if name is not None)


def _name(thing: Any) -> str | None:
    """A text of the length that names have; None for anything else."""
    return _text(thing) if isinstance(thing, str) and len(thing) <= _LONGEST_NAME else None


def _text(thing: Any) -> str | None:
    """A text as it can be sent on, bounded; None for anything else."""
    if not isinstance(thing, str):
        return None
    return thing[:_LONGEST].encode("utf-8", "replace").decode("utf-8")
