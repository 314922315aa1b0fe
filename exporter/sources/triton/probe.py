"""Whether a Triton server answers at an address. Costs no import of tritonclient."""

from __future__ import annotations

import asyncio

from exporter.errors import BadData, DeadlineExceeded, NotYet, SourceError, Unreachable
from exporter.http_client.address import Address
from exporter.http_client.client import HttpClient
from exporter.sources.triton import decoding

REMEDY = "start Triton there, or say where it is with triton.url"


async def probe(transport: HttpClient, address: Address, seconds: float) -> None:
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
        raise NotYet(f"nothing answers at {address.netloc}: {error}", REMEDY) from None
    except BadData:
        raise stranger from None
    if reply.status != 200:
        raise stranger


class Prober:
    """Probes one address until a server answers there."""

    def __init__(self, transport: HttpClient) -> None:
        self._transport = transport
        self.confirmed = False
        self.error: SourceError = NotYet("not looked for yet", REMEDY)

    async def look(self, seconds: float) -> None:
        """Probe; then `confirmed`, or `error`, says what came of it."""
        try:
            await probe(self._transport, self._transport.address, seconds)
        except SourceError as error:
            self.error = error
        else:
            self.confirmed = True

    async def close(self) -> None:
        await self._transport.close()
