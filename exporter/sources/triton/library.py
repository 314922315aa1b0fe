"""tritonclient's HTTP client over our bounded HttpClient.

`client.py` imports this module at the first request, without numpy and gevent (UNUSED).
"""

from __future__ import annotations

from typing import Any, Self

from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from exporter.http_client.client import HttpClient, HttpResponse, one_line
from exporter.http_client.shared_memory import MemoryShare
from exporter.sources.triton.http_errors import error_for_status

_MAX_ERROR_BYTES = 4096
_NO_RESPONSE = HttpResponse(0, b"")


class BoundedClient(InferenceServerClient):  # type: ignore[misc]  # the library has no types
    """InferenceServerClient that sends its requests through HttpClient.

    The library provides the calls: paths, quoted model names, and the exception for an error
    response. Its own aiohttp session follows redirects and bounds neither size nor connections;
    so `_get` and `_post`, the only methods that use it, are overridden, and it stays unused.
    """

    def __init__(self, transport: HttpClient) -> None:
        """Creates the parent's session, which opens no connection; `create` closes it again."""
        super().__init__(transport.address.netloc)
        self._transport = transport
        self._share: MemoryShare
        self._response = _NO_RESPONSE

    @classmethod
    async def create(cls, transport: HttpClient) -> Self:
        """Returns a client whose unused session is closed: it needs no close()."""
        client = cls(transport)
        await client.close()
        return client

    async def call(self, share: MemoryShare, method: str, *arguments: str) -> HttpResponse:
        """Calls a method of InferenceServerClient, one at a time; returns its raw response.

        share: of the response. Raises SourceError, including for responses that the library
        reports as errors.
        """
        self._share = share
        try:
            await getattr(self, method)(*arguments)
        except InferenceServerException as error:
            raise error_for_status(self._response, one_line(error.message())) from None
        response, self._response = self._response, _NO_RESPONSE  # not kept until the next call
        return response

    async def _get(self, request_uri: str, headers: Any, query_params: Any) -> _ResponseHead:
        return await self._request("GET", request_uri)

    async def _post(
        self, request_uri: str, request_body: str, headers: Any, query_params: Any
    ) -> _ResponseHead:
        return await self._request("POST", request_uri, request_body.encode())

    async def _request(self, method: str, path: str, body: bytes | None = None) -> _ResponseHead:
        self._response = await self._transport.request(self._share, method, path, body)
        return _ResponseHead(self._response)


class _ResponseHead:
    """The part of a response that the library reads: the status, and the body of an error.

    A body with status 200 reads as `null`: the library would parse it with rapidjson, which blocks
    the event loop too long; `decoding.py` parses it instead.
    """

    def __init__(self, response: HttpResponse) -> None:
        self.status = response.status
        self._body = b"null" if response.status == 200 else response.body[:_MAX_ERROR_BYTES]

    async def read(self) -> bytes:
        return self._body
