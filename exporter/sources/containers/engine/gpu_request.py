"""The GPUs requested for a container, from `inspect`. Pure functions.

Only the request: joins/gpu_requests.py resolves it to GPUs. Invalid parts are left out and are no
failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from exporter.sources.containers.engine.lenient_json import (
    MAX_ITEMS,
    MAX_NAME_LENGTH,
    MAX_TEXT_LENGTH,
    json_integer,
    json_list,
    json_member,
    json_name,
    json_names,
    json_text,
)
from exporter.sources.containers.reading import DeviceRequest, GpuRequest

VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
# vendor/class=name, a qualified device name of the Container Device Interface.
_CDI_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*=[A-Za-z0-9][\w.:-]*\Z", re.ASCII)
_CDI_ANNOTATION = "cdi.k8s.io/"
# NVIDIA's runtime takes mounts of /dev/null below this folder as device names, if configured so.
_DEVICE_MOUNTS = "/var/run/nvidia-container-devices/"
# Bound of the capability groups of a device request, and of a container's CDI annotations.
_MAX_GROUPS = 8


def parse_gpu_request(config: Any, host_config: Any) -> GpuRequest | None:
    """Parses the Config and HostConfig of `inspect`; returns None if no GPU is requested.

    Of the environment, only NVIDIA_VISIBLE_DEVICES is read and kept.
    """
    visible_devices = _visible_devices(json_member(config, "Env"))
    device_requests: list[DeviceRequest] = []
    cdi_devices: list[str] = []
    max_device_ids = MAX_ITEMS  # of all requests together
    for element in json_list(json_member(host_config, "DeviceRequests")):
        request = _device_request(element, max_device_ids)
        if request is None:
            continue
        max_device_ids -= len(request.device_ids)
        if request.driver == "cdi":
            cdi_devices += [name for name in request.device_ids if _CDI_NAME.match(name)]
        elif _is_for_gpus(request):
            device_requests.append(request)
    for device in json_list(json_member(host_config, "Devices")):  # Podman's place of CDI names
        path = json_name(json_member(device, "PathOnHost"))
        if path and _CDI_NAME.match(path):
            cdi_devices.append(path)
    annotated = _annotated(json_member(host_config, "Annotations"))
    mounted = _mounted(host_config)
    if visible_devices is None and not (device_requests or cdi_devices or annotated or mounted):
        return None
    return GpuRequest(
        visible_devices=visible_devices,
        device_requests=tuple(device_requests),
        cdi_devices=tuple(dict.fromkeys(cdi_devices)),
        annotated=annotated,
        mounted=mounted,
        runtime=json_name(json_member(host_config, "Runtime")) or "",
    )


def _visible_devices(environment: Any) -> str | None:
    """Returns the variable's value; of duplicates the last, as in the process itself."""
    variable = None
    if isinstance(environment, list):
        for element in environment:
            if isinstance(element, str) and element.startswith(f"{VISIBLE_DEVICES}="):
                variable = element
    if variable is None:
        return None
    value = variable[len(VISIBLE_DEVICES) + 1 :][: MAX_TEXT_LENGTH + 1]
    if len(value) > MAX_TEXT_LENGTH:  # never half a name, which could be another device's
        value = value.rpartition(",")[0]
    return json_text(value)


def _device_request(element: Any, max_device_ids: int) -> DeviceRequest | None:
    if not isinstance(element, Mapping):
        return None
    return DeviceRequest(
        driver=json_name(element.get("Driver")) or "",
        count=json_integer(element.get("Count"), -1, (1 << 31) - 1) or 0,
        device_ids=json_names(element.get("DeviceIDs"))[:max_device_ids],
        capabilities=tuple(
            json_names(group) for group in json_list(element.get("Capabilities"))[:_MAX_GROUPS]
        ),
    )


def _is_for_gpus(request: DeviceRequest) -> bool:
    """Returns whether the engine's NVIDIA driver handles it: `--gpus` may mean AMD GPUs, too."""
    if request.driver:
        return request.driver == "nvidia"
    return any("gpu" in group and "amd" not in group for group in request.capabilities)


def _annotated(annotations: Any) -> tuple[str, ...]:
    """Returns the CDI names in the annotations, which are separated by commas."""
    if not isinstance(annotations, Mapping):
        return ()
    values = [value for key, value in annotations.items() if str(key).startswith(_CDI_ANNOTATION)]
    names = [
        name.strip()
        for value in values[:_MAX_GROUPS]
        for name in (json_text(value) or "").split(",")
        if len(name) <= MAX_NAME_LENGTH
    ]
    return tuple(dict.fromkeys(name for name in names[:MAX_ITEMS] if _CDI_NAME.match(name)))


def _mounted(host_config: Any) -> tuple[str, ...]:
    """Returns the devices named by mounts of /dev/null, in HostConfig.Binds and .Mounts."""
    targets: list[str] = []
    for bind in json_list(json_member(host_config, "Binds")):
        source, _, rest = (json_name(bind) or "").partition(":")
        if source == "/dev/null" and rest.startswith(_DEVICE_MOUNTS):
            # Options may follow. Podman lists all mounts here; a MIG device's "0:1" has a colon.
            path, _, options = rest.rpartition(":")
            targets.append(rest if not path or options.isdecimal() else path)
    targets += (
        json_name(json_member(mount, "Target")) or ""
        for mount in json_list(json_member(host_config, "Mounts"))
        if json_name(json_member(mount, "Source")) == "/dev/null"
    )
    names = (
        path[len(_DEVICE_MOUNTS) :].strip("/")
        for path in targets
        if path.startswith(_DEVICE_MOUNTS)
    )
    return tuple(dict.fromkeys(_mounted_device(name) for name in names if name))


def _mounted_device(name: str) -> str:
    """Returns the device's name: a CDI device is mounted as cdi/VENDOR/CLASS/NAME."""
    prefix, *parts = name.split("/")
    if prefix == "cdi" and len(parts) == len(("vendor", "class", "name")):
        vendor, class_, device = parts
        return f"{vendor}/{class_}={device}"
    return name
