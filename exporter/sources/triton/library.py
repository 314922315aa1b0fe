"""tritonclient's client over our transport. Importing this costs 20 MB: only when needed."""

from __future__ import annotations

from typing import Any

from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from exporter.errors import BadData, Forbidden, SourceError, Unreachable, Unsupported
from exporter.sources.triton.transport import Reply, Transport, line


class BoundedClient(InferenceServerClient):  # type: ignore[misc]  # the library carries no types
    """Knows the protocol as InferenceServerClient does; sends and receives as Transport does.

    Its two methods that touch the network are replaced, so that its own session, which bounds
    neither size nor redirects, is never made.
    """

    def __init__(self, transport: Transport) -> None:
        super(InferenceServerClient, self).__init__()  # past the one that makes a session
        self._transport = transport
        self._verbose = False

    async def call(self, method: str) -> Any:
        """The parsed JSON that a method of InferenceServerClient gives. Raises SourceError."""
        try:
            return await getattr(self, method)()
        except InferenceServerException as error:
            raise _refused(str(error.status()), line(error.message())) from None
        except RecursionError:
            raise BadData("JSON nested too deeply") from None
        except ValueError as error:  # rapidjson's errors, and those of bytes that are not UTF-8
            raise BadData(f"not JSON: {line(error)}") from None

    async def _get(self, request_uri: str, headers: Any, query_params: Any) -> Reply:
        return await self._transport.request("GET", request_uri)

    async def _post(
        self, request_uri: str, request_body: str | bytes, headers: Any, query_params: Any
    ) -> Reply:
        body = request_body.encode() if isinstance(request_body, str) else request_body
        return await self._transport.request("POST", request_uri, body)


def _refused(status: str, words: str) -> SourceError:
    """An answer other than 200."""
    message = f"HTTP {status}: {words}"
    match status:
        case "401" | "403":
            return Forbidden(message, "the server, or a proxy before it, restricts this call")
        case "404" | "405" | "501":
            return Unsupported(message, "is this the HTTP port of a Triton server?")
        case _ if status.startswith("3"):
            return Unsupported(message, "redirects are not followed: give the address they lead to")
        case _ if status.startswith("5"):
            return Unreachable(message, "see the server's log, or that of a proxy before it")
        case _:
            return BadData(message)
