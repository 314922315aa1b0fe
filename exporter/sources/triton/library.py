"""tritonclient's client over our transport. Importing this costs 20 MB: only when needed."""

from __future__ import annotations

from typing import Any

from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from exporter.errors import BadData, Forbidden, SourceError, Unreachable, Unsupported
from exporter.http_client.client import BadRequest, HttpClient, HttpReply, one_line

_LONGEST_FAILURE = 4096


class BoundedClient(InferenceServerClient):  # type: ignore[misc]  # the library carries no types
    """Knows what to ask, and what is a failure, as InferenceServerClient does; sends and receives
    as Transport does.

    Its two methods that touch the network are replaced, so that its own session, which bounds
    neither size nor redirects, is never made.
    """

    def __init__(self, transport: HttpClient) -> None:
        super(InferenceServerClient, self).__init__()  # past the one that makes a session
        self._transport = transport
        self._verbose = False
        self._reply = HttpReply(0, b"")

    async def call(self, method: str, *arguments: str) -> HttpReply:
        """Call a method of InferenceServerClient, one at a time; the reply as it came.

        Raises SourceError, also where the library takes the reply for a failure.
        """
        try:
            await getattr(self, method)(*arguments)
        except InferenceServerException as error:
            raise _refused(str(error.status()), one_line(error.message())) from None
        return self._reply

    async def _get(self, request_uri: str, headers: Any, query_params: Any) -> _Checked:
        return await self._ask("GET", request_uri)

    async def _post(
        self, request_uri: str, request_body: str, headers: Any, query_params: Any
    ) -> _Checked:
        return await self._ask("POST", request_uri, request_body.encode())

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> _Checked:
        self._reply = await self._transport.request(method, path, body)
        return _Checked(self._reply)


class _Checked:
    """What the library sees of a reply: its status, and the words of a failure.

    It would build objects of all there is in a body; ours are decoded by `decoding.py`.
    """

    def __init__(self, reply: HttpReply) -> None:
        self.status = reply.status
        self._words = b"null" if reply.status == 200 else reply.body[:_LONGEST_FAILURE]

    async def read(self) -> bytes:
        return self._words


def _refused(status: str, words: str) -> SourceError:
    """An answer other than 200."""
    message = f"HTTP {status}: {words}"
    match status:
        case "401" | "403":
            return Forbidden(message, "the server, or a proxy before it, restricts this call")
        case "404" | "405" | "501":
            return Unsupported(message, "is this the HTTP port of a Triton server?")
        case "400":
            return BadRequest(message)
        case _ if status.startswith("3"):
            return Unsupported(message, "redirects are not followed: give the address they lead to")
        case _ if status.startswith("5"):
            return Unreachable(message, "see the server's log, or that of a proxy before it")
        case _:
            return BadData(message)
