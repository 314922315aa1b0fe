"""tritonclient is imported without numpy and gevent, and whole for other importers."""

from __future__ import annotations

from tests import clean_interpreter
from tests.clean_interpreter import DAEMON

# In a process of its own: other tests import these libraries.
_SCRIPT = """
import asyncio, sys
from exporter.http_client.address import parse
from exporter.http_client.client import HttpClient
from exporter.sources.triton.client import UNUSED, TritonClient
from exporter.sources.triton.shared_models import ModelLimits
from exporter.worker import Worker
from tests.fakes.triton import FakeTriton

async def scenario():
    async with FakeTriton() as fake:
        transport = HttpClient(parse(fake.url), 1 << 20)
        client = TritonClient(transport, Worker("a"), Worker("b"), lambda: ModelLimits(10))
        deadline = asyncio.get_running_loop().time() + 30
        metadata = await client.metadata(deadline)
        (statistics, _), (states, _) = (
            await client.statistics(deadline), await client.states(deadline)
        )
        await client.config(next(iter(statistics)), deadline)
        await client.close()
        return metadata, len(statistics), len(states)

print(asyncio.run(scenario()))
assert not [name for name in sys.modules if name.split(".")[0] in {*UNUSED, "tritonclient"}]
import numpy, tritonclient.http
tensor = tritonclient.http.InferInput("x", [2], "FP32")
tensor.set_data_from_numpy(numpy.array([1.0, 2.0], dtype=numpy.float32))
assert tensor._get_binary_data() == b"\\0\\0\\x80?\\0\\0\\0@"
"""


def test_requests_need_neither_numpy_nor_gevent() -> None:
    run = clean_interpreter.run(_SCRIPT, after=DAEMON)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
