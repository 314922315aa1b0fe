"""Servers discovered in containers, and matching of addresses to them."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.http_client.address import Address

UNSPECIFIED = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


@dataclass(frozen=True, slots=True)
class ResolvedAddress:
    """IP addresses of a host name.

    local: whether any of them belongs to this host. only_local: whether all that can be reached do.
    """

    addresses: frozenset[str] = frozenset()
    local: bool = False
    only_local: bool = False


UNRESOLVED = ResolvedAddress()


@dataclass(frozen=True, slots=True)
class DiscoveredServer:
    """A container that runs a server, and its network addresses.

    names: container name, then its other names on its networks.
    container: ID. addresses: its own, or those of the container whose network namespace it shares.
    port: the server's port inside the container; None if unknown.
    published: (host address, host port) of that port, or of all published ports if it is unknown.
    host_network: the container uses the host's network namespace.
    labelled: a container label declares the server; otherwise it is a guess from the image name.
    started: Unix timestamp of the container's start in seconds; None if unknown.
    """

    names: tuple[str, ...]
    container: str
    addresses: tuple[str, ...]
    port: int | None
    metrics_port: int | None = None
    published: tuple[tuple[str, int], ...] = ()
    host_network: bool = False
    labelled: bool = False
    started: float | None = None

    @property
    def address(self) -> Address | None:
        """The server at the container's own address only; None without port or address."""
        if self.port is None:
            return None
        if self.host_network:
            return Address("127.0.0.1", self.port, self.names[0])
        own = sorted(self.addresses, key=lambda address: ":" in address)
        return Address(own[0], self.port, self.names[0]) if own else None

    def is_at(self, address: Address, resolved: ResolvedAddress) -> bool:
        """Returns whether the address, with its host resolved, leads to this server."""
        if address.socket:
            return False
        same_port = self.port is None or address.port == self.port
        addresses = resolved.addresses | {address.host}
        # Resolved IP addresses take precedence over a matching container name.
        named = not resolved.addresses and address.host in self.names
        if same_port and not self.host_network and (named or addresses & {*self.addresses}):
            return True
        local = resolved.local or address.host == "localhost" or address.host.startswith("127.")
        if local and self.host_network and self.port is not None and same_port:
            return True
        return any(
            address.port == port and ((local and host in UNSPECIFIED) or host in addresses)
            for host, port in self.published
        )
