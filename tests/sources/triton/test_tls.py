"""https: a server behind a TLS proxy, with a certificate signed by the CA in ca_file."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from exporter.errors import Forbidden, Unreachable
from tests.certificates import authority, signed
from tests.fakes.triton import FakeTriton
from tests.sources.triton.polling import samples, source


def test_only_a_server_trusted_by_the_ca_file_gets_requests(tmp_path: Path) -> None:
    trusted, other = authority(tmp_path, "trusted"), authority(tmp_path, "other")
    pair = signed(trusted, tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)

    async def scenario() -> None:
        async with FakeTriton() as fake:
            server = await asyncio.start_server(fake._accept, "127.0.0.1", 0, ssl=context)
            port = server.sockets[0].getsockname()[1]
            url = (f"a=https://localhost:{port}",)
            async with source(url=url, ca_file=str(trusted.cert)) as triton:
                (target,) = await triton.discover()
                reading = await target.read()
                assert not reading.problems
                assert samples(reading)["triton_requests_total"]
            requests = len(fake.requests)
            for ca in (str(other.cert), ""):
                async with source(url=url, ca_file=ca) as triton:
                    (target,) = await triton.discover()
                    with pytest.raises(Unreachable, match="not trusted") as caught:
                        await target.read()
                    assert "ca_file" in caught.value.remedy
            async with source(url=url, ca_file=str(tmp_path / "missing")) as triton:
                (target,) = await triton.discover()
                with pytest.raises(Forbidden, match="cannot be used"):
                    await target.read()
            assert len(fake.requests) == requests
            server.close()

    asyncio.run(scenario())
