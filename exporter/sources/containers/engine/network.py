"""How a container is connected: from the engine's inspection. Pure; nonsense is left out."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from exporter.sources.containers.reading import Network, PublishedPort

# Bound of what one container may make us keep.
_MOST = 256


def network(host_config: Any, settings: Any, config: Any) -> Network:
    """From inspect's HostConfig, NetworkSettings and Config."""
    addresses: dict[str, None] = {}
    for each in _values(_of(settings, "Networks")):
        for key in ("IPAddress", "GlobalIPv6Address"):
            if address := _address(_of(each, key)):
                addresses[address] = None
    published, exposed = _ports(_of(settings, "Ports"))
    declared = _of(config, "ExposedPorts")
    exposed += _ports(dict.fromkeys(declared) if isinstance(declared, Mapping) else None)[1]
    return Network(
        mode=_text(_of(host_config, "NetworkMode")),
        sandbox=_text(_of(settings, "SandboxKey")),
        addresses=tuple(addresses)[:_MOST],
        published_ports=tuple(dict.fromkeys(published))[:_MOST],
        exposed_ports=tuple(dict.fromkeys(exposed)),
    )


def _ports(ports: Any) -> tuple[list[PublishedPort], list[int]]:
    """Of a map of "8000/tcp" to bindings on the host: these, and the TCP ports themselves."""
    published: list[PublishedPort] = []
    exposed: list[int] = []
    for name, bindings in list(ports.items())[:_MOST] if isinstance(ports, Mapping) else ():
        inner, protocol = _port(name)
        if inner is None:
            continue
        if protocol == "tcp":
            exposed.append(inner)
        for binding in bindings[:_MOST] if isinstance(bindings, list) else ():
            outer, _ = _port(_of(binding, "HostPort"))
            if outer is not None:
                at = _address(_of(binding, "HostIp"), unspecified=True)
                published.append(PublishedPort(inner, protocol, at, outer))
    return published, exposed


def _of(thing: Any, key: str) -> Any:
    return thing.get(key) if isinstance(thing, Mapping) else None


def _values(thing: Any) -> list[Any]:
    return list(thing.values())[:_MOST] if isinstance(thing, Mapping) else []


def _text(thing: Any) -> str:
    """A text as it can be sent on, bounded; empty for anything else."""
    return thing[:1024].encode("utf-8", "replace").decode("utf-8") if isinstance(thing, str) else ""


def _address(thing: Any, *, unspecified: bool = False) -> str:
    """An IP address in its usual form; empty where it is none.

    unspecified: whether 0.0.0.0 and :: count.
    """
    try:
        address = ipaddress.ip_address(_text(thing))
    except ValueError:
        return ""
    return "" if address.is_unspecified and not unspecified else str(address)


def _port(thing: Any) -> tuple[int | None, str]:
    """The number and the protocol of "8000/tcp"; the protocol is tcp where none is named."""
    number, _, protocol = _text(thing).partition("/")
    if not (number.isascii() and number.isdigit() and len(number) <= 5):
        return None, ""
    port = int(number)
    return (port if 0 < port < 65_536 else None), protocol or "tcp"
