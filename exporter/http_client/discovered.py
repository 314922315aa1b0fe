"""Servers found in containers, and whether an address leads to one of them."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.http_client.address import Address

UNSPECIFIED = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


@dataclass(frozen=True, slots=True)
class ResolvedAddress:
    """Where an address leads. local: to this host itself."""

    addresses: frozenset[str] = frozenset()
    local: bool = False


UNRESOLVED = ResolvedAddress()


@dataclass(frozen=True, slots=True)
class DiscoveredServer:
    """A container with a server in it, and every way to reach that.

    names: what it is called: its name first, then other names it has in its networks.
    container: its ID. addresses: of its own, or of the container whose network it shares.
    port: where the server listens inside; None where that is not known.
    published: (host address, host port) of that port, or of all its ports where it is not known.
    host_network: it has no address of its own but the host's.
    told: a label says that there is a server; otherwise it is a guess from its image.
    """

    names: tuple[str, ...]
    container: str
    addresses: tuple[str, ...]
    port: int | None
    metrics_port: int | None = None
    published: tuple[tuple[str, int], ...] = ()
    host_network: bool = False
    told: bool = False

    @property
    def address(self) -> Address | None:
        """How to reach it: at its own address and nowhere else. None where it has none."""
        if self.port is None:
            return None
        if self.host_network:
            return Address("127.0.0.1", self.port, self.names[0])
        own = sorted(self.addresses, key=lambda address: ":" in address)
        return Address(own[0], self.port, self.names[0]) if own else None

    def is_at(self, address: Address, where: ResolvedAddress) -> bool:
        """Whether the address leads to this server. where: what its host was resolved to."""
        if address.socket:
            return False
        here = self.port is None or address.port == self.port
        addresses = where.addresses | {address.host}
        # What a name was resolved to tells more than that a container has the same name.
        named = not where.addresses and address.host in self.names
        if here and not self.host_network and (named or addresses & {*self.addresses}):
            return True
        local = where.local or address.host == "localhost" or address.host.startswith("127.")
        if local and self.host_network and self.port is not None and here:
            return True
        return any(
            address.port == port and ((local and host in UNSPECIFIED) or host in addresses)
            for host, port in self.published
        )
