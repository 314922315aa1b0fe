"""A container's network configuration, from `inspect`. Pure; invalid parts are left out."""

from __future__ import annotations

import ipaddress
from typing import Any

from exporter.sources.containers.engine.lenient_json import (
    MAX_ITEMS,
    json_items,
    json_list,
    json_member,
    json_text,
)
from exporter.sources.containers.reading import Network, PublishedPort

_MAX_LENGTH = 1024


def parse_network(host_config: Any, network_settings: Any) -> Network:
    """Parses the HostConfig and NetworkSettings of `inspect`."""
    addresses: dict[str, None] = {}
    for _, endpoint in json_items(json_member(network_settings, "Networks")):
        for key in ("IPAddress", "GlobalIPv6Address"):
            if address := parse_address(json_member(endpoint, key)):
                addresses[address] = None
    published = _published_ports(json_member(network_settings, "Ports"))
    return Network(
        mode=_text(json_member(host_config, "NetworkMode")),
        sandbox=_text(json_member(network_settings, "SandboxKey")),
        addresses=tuple(addresses)[:MAX_ITEMS],
        published_ports=tuple(dict.fromkeys(published))[:MAX_ITEMS],
    )


def _published_ports(ports: Any) -> list[PublishedPort]:
    """Parses an object of "8000/tcp" to an array of bindings on the host."""
    published: list[PublishedPort] = []
    for key, bindings in json_items(ports):
        container_port, protocol = _port(key)
        if container_port is None:
            continue
        for binding in json_list(bindings):
            host_port, _ = _port(json_member(binding, "HostPort"))
            if host_port is not None:
                address = parse_address(json_member(binding, "HostIp"), unspecified=True)
                published.append(PublishedPort(container_port, protocol, address, host_port))
    return published


def _text(value: Any) -> str:
    return json_text(value, _MAX_LENGTH) or ""


def parse_address(value: Any, *, unspecified: bool = False) -> str:
    """Returns an IP address in its canonical form; empty for anything else.

    unspecified: whether 0.0.0.0 and :: are accepted.
    """
    try:
        address = ipaddress.ip_address(_text(value))
    except ValueError:
        return ""
    return "" if address.is_unspecified and not unspecified else str(address)


def _port(value: Any) -> tuple[int | None, str]:
    """Parses "8000/tcp" to port and protocol; without a protocol it is tcp."""
    number, _, protocol = _text(value).partition("/")
    if not (number.isascii() and number.isdigit() and len(number) <= 5):
        return None, ""
    port = int(number)
    return (port if 0 < port < 65_536 else None), protocol or "tcp"
