"""Whether a Triton server answers at an address. Costs no import of tritonclient."""

from __future__ import annotations

import asyncio
import errno
import socket

from exporter.errors import BadData, DeadlineExceeded, NotYet, SourceError, Unreachable
from exporter.peers.address import Address
from exporter.peers.transport import Transport
from exporter.sources.triton import decoding

# What is said of the loopback where nobody listens, or there is no IPv6.
_NOBODY = (errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_V4, _V6 = (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")
_LOOPBACK = {"localhost": (_V4, _V6), "127.0.0.1": (_V4,), "::1": (_V6,)}

REMEDY = "start Triton there, or say where it is with triton.url"


async def probe(transport: Transport, address: Address, seconds: float) -> None:
    """Return if a KServe v2 server answers GET /v2 within so many seconds.

    Raises NotFound where nothing listens or something else answers; DeadlineExceeded where
    something accepts the connection and does not answer, so that it cannot be told.
    """
    stranger = NotYet(f"what answers at {address.netloc} is no Triton server", REMEDY)
    try:
        async with asyncio.timeout(seconds):
            reply = await transport.request("GET", "v2")
        decoding.metadata(reply.body)
    except TimeoutError:
        raise DeadlineExceeded(f"{address.netloc} does not answer", REMEDY) from None
    except Unreachable as error:
        raise NotYet(f"nothing answers at {address.netloc}: {error}", REMEDY) from error
    except BadData:
        raise stranger from None
    if reply.status != 200:
        raise stranger


async def nobody_there(address: Address) -> bool:
    """Whether an address of the loopback refuses connections, as its kernel says at once.

    Asked at every poll of a host without Triton, so it has to cost less than an HTTP client's
    attempt.
    """
    loop = asyncio.get_running_loop()
    places = () if address.socket else _LOOPBACK.get(address.host, ())
    for family, host in places:
        try:
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as trial:
                await loop.sock_connect(trial, (host, address.port))
        except OSError as error:
            if error.errno not in _NOBODY:
                return False  # whatever it is: the client will say
        else:
            return False
    return bool(places)


class Prober:
    """Probes one address until a server answers there."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.confirmed = False
        self._nobody = False
        """Whether nothing listened the last time."""
        self.error: SourceError = NotYet("not looked for yet", REMEDY)

    async def look(self, seconds: float) -> None:
        """Probe; then `confirmed`, or `error`, says what came of it."""
        address = self._transport.address
        try:
            async with asyncio.timeout(seconds / 2):
                if self._nobody and await nobody_there(address):
                    return  # as before
        except TimeoutError:  # a firewall that drops: the client will say
            pass
        self._nobody = False
        try:
            await probe(self._transport, address, seconds)
        except SourceError as error:
            self.error = error
            self._nobody = isinstance(error.__cause__, Unreachable)
        else:
            self.confirmed = True

    async def close(self) -> None:
        await self._transport.close()
