"""Probe of an address for a Triton server. Does not import tritonclient."""

from __future__ import annotations

import asyncio
from functools import partial

from exporter.errors import BadData, DeadlineExceeded, NotYet, SourceError, Unreachable
from exporter.http_client.client import HttpClient
from exporter.sources.triton import decoding
from exporter.worker import Worker

REMEDY = "start Triton there, or set triton.url to its address"


async def probe(transport: HttpClient, worker: Worker, seconds: float) -> None:
    """Returns if a KServe v2 server responds to GET /v2 within the given seconds.

    Raises NotFound if nothing listens there or something else responds; DeadlineExceeded if the
    connection is accepted without a response, so that the server stays unknown.
    """
    address = transport.address
    not_triton = NotYet(f"the server at {address.netloc} is not a Triton server", REMEDY)
    try:
        deadline = asyncio.get_running_loop().time() + seconds
        async with asyncio.timeout_at(deadline), transport.memory(deadline) as share:
            response = await transport.request(share, "GET", "v2")
            if 300 <= response.status < 400:
                raise NotYet(f"{not_triton}: {response.status_text}", REMEDY)
            metadata = await worker.run(partial(decoding.metadata, response.body))
    except TimeoutError:
        raise DeadlineExceeded(f"no response from {address.netloc} in time", REMEDY) from None
    except Unreachable as error:
        raise NotYet(f"no response from {address.netloc}: {error}", REMEDY) from None
    except BadData:
        raise not_triton from None
    # Without extensions it is some KServe v2 server, if at all: such a server needs triton.url.
    if response.status != 200 or not metadata.has_extensions:
        raise not_triton


class Prober:
    """Probes one address until a server responds there.

    confirmed: whether one did. error: failure of the latest probe.
    """

    def __init__(self, transport: HttpClient, worker: Worker) -> None:
        """worker: thread that decodes the response."""
        self._transport = transport
        self._worker = worker
        self.confirmed = False
        self.error: SourceError = NotYet("not probed yet", REMEDY)

    async def run(self, seconds: float) -> None:
        """Probes once and sets `confirmed` or `error`."""
        try:
            await probe(self._transport, self._worker, seconds)
        except SourceError as error:
            self.error = error
        else:
            self.confirmed = True

    async def close(self) -> None:
        await self._transport.close()
