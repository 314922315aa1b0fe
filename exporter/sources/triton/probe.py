"""Whether a Triton server answers at an address. Costs no import of tritonclient."""

from __future__ import annotations

import asyncio

from exporter.errors import BadData, DeadlineExceeded, NotFound, Unreachable
from exporter.sources.triton import decoding
from exporter.sources.triton.address import Address
from exporter.sources.triton.transport import Transport

_REMEDY = "start Triton there, or say where it is with triton.url"


async def probe(transport: Transport, address: Address, seconds: float) -> None:
    """Return if a KServe v2 server answers GET /v2 within so many seconds.

    Raises NotFound where nothing listens or something else answers; DeadlineExceeded where
    something accepts the connection and does not answer, so that it cannot be told.
    """
    stranger = NotFound(f"what answers at {address.netloc} is no Triton server", _REMEDY)
    try:
        async with asyncio.timeout(seconds):
            reply = await transport.request("GET", "v2")
        decoding.metadata(reply.body)
    except TimeoutError:
        raise DeadlineExceeded(f"{address.netloc} does not answer", _REMEDY) from None
    except Unreachable as error:
        raise NotFound(f"nothing answers at {address.netloc}: {error}", _REMEDY) from None
    except BadData:
        raise stranger from None
    if reply.status != 200:
        raise stranger
