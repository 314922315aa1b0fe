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
# Bounds of what one container may make us keep.
_LONGEST, _MOST = 4096, 256


def gpu_request(config: Any, host_config: Any) -> GpuRequest | None:
    """From inspect's Config and HostConfig; None where no GPU is asked for.

    Of the environment only NVIDIA_VISIBLE_DEVICES is ever looked at and kept.
    """
    environment = _visible_devices(_of(config, "Env"))
    requests: list[DeviceRequest] = []
    cdi: list[str] = []
    for each in _list(_of(host_config, "DeviceRequests")):
        request = _device_request(each)
        if request is None:
            continue
        if request.driver == "cdi":
            cdi += [name for name in request.device_ids if _CDI.match(name)]
        elif _is_for_gpus(request):
            requests.append(request)
    for each in _list(_of(host_config, "Devices")):  # as Podman has them
        path = _text(_of(each, "PathOnHost"))
        if path and _CDI.match(path):
            cdi.append(path)
    if environment is None and not requests and not cdi:
        return None
    return GpuRequest(
        visible_devices=environment,
        device_requests=tuple(requests),
        cdi_devices=tuple(dict.fromkeys(cdi)),
        runtime=_text(_of(host_config, "Runtime")) or "",
    )


def _visible_devices(environment: Any) -> str | None:
    """The value of the one variable; of several the last counts, as for the process itself."""
    found = None
    if isinstance(environment, list):
        for each in environment:
            if isinstance(each, str) and each.startswith(f"{VISIBLE_DEVICES}="):
                found = _text(each.partition("=")[2])
    return found


def _device_request(each: Any) -> DeviceRequest | None:
    if not isinstance(each, Mapping):
        return None
    count = each.get("Count")
    return DeviceRequest(
        driver=_text(each.get("Driver")) or "",
        count=count if isinstance(count, int) and -1 <= count < 1 << 31 else 0,
        device_ids=_texts(each.get("DeviceIDs")),
        capabilities=tuple(_texts(group) for group in _list(each.get("Capabilities"))),
    )


def _is_for_gpus(request: DeviceRequest) -> bool:
    return request.driver == "nvidia" or any("gpu" in group for group in request.capabilities)


def _of(thing: Any, key: str) -> Any:
    return thing.get(key) if isinstance(thing, Mapping) else None


def _list(thing: Any) -> list[Any]:
    return thing[:_MOST] if isinstance(thing, list) else []


def _texts(thing: Any) -> tuple[str, ...]:
    texts: Iterable[str | None] = (_text(each) for each in _list(thing))
    return tuple(text for text in texts if text is not None)


def _text(thing: Any) -> str | None:
    """A text as it can be sent on, bounded; None for anything else."""
    if not isinstance(thing, str):
        return None
    return thing[:_LONGEST].encode("utf-8", "replace").decode("utf-8")
