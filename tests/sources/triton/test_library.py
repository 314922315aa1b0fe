"""tritonclient's client over HttpClient: its requests, its errors, and its unused session."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from exporter.errors import BadData, Unsupported
from exporter.http_client.address import parse
from exporter.http_client.client import HttpClient, HttpResponse
from exporter.sources.triton.library import BoundedClient
from tests.fakes.triton import FakeTriton, config, http_response, json_response


def test_requests_go_through_the_bounded_transport() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            transport = HttpClient(parse(fake.url), 1000)
            client = await BoundedClient.create(transport)
            assert client._stub.closed, "the library's own session is never used"

            async def call(method: str, *arguments: str) -> HttpResponse:
                async with transport.memory(asyncio.get_running_loop().time() + 30) as share:
                    return await client.call(share, method, *arguments)

            response = await call("get_model_config", "red wine", "1")
            path = "/v2/models/red%20wine/versions/1/config"
            assert fake.requests[-1][:2] == ("GET", path)
            assert response.body == config().partition(b"\r\n\r\n")[2]
            await call("get_model_repository_index")
            assert fake.requests[-1][:2] == ("POST", "/v2/repository/index")
            fake.responses[path] = json_response({"error": "no such\nmodel"}, "404 Not Found")
            with pytest.raises(Unsupported, match=r"\AHTTP 404: no such model\Z"):
                await call("get_model_config", "red wine", "1")
            fake.responses[path] = http_response(b" " * 1001)
            with pytest.raises(BadData, match="longer than 1000 bytes"):
                await call("get_model_config", "red wine", "1")
            assert fake.connections == transport.connections == 1
            await transport.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an unclosed session is a ResourceWarning
        asyncio.run(scenario())
