"""ResourceSlices from an API server: UUIDs of DRA's devices, by version, page and failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from exporter.errors import BadData, DeadlineExceeded, Forbidden, TooMany, Unsupported
from exporter.faults import Faults
from exporter.settings import Duration
from exporter.sources.kubelet import resource_slices
from exporter.sources.kubelet.reading import SliceDevice
from exporter.sources.kubelet.resource_slices import ResourceSlicesTarget, slice_devices
from exporter.sources.kubelet.settings import Settings

DRIVER = "gpu.nvidia.com"


def device(name: str, uuid: str | None = None, *, version: str = "v1") -> dict[str, Any]:
    attributes: dict[str, Any] = {"type": {"string": "gpu"}, "index": {"int": 0}}
    if uuid is not None:
        attributes["uuid"] = {"string": uuid}
    if version == "v1beta1":
        return {"name": name, "basic": {"attributes": attributes, "capacity": {}}}
    return {"name": name, "attributes": attributes, "capacity": {"memory": {"value": "80Gi"}}}


def resource_slice(
    *devices: dict[str, Any], pool: str = "node-1", driver: str = DRIVER, generation: int = 1
) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{pool}-{driver}"},
        "spec": {
            "driver": driver,
            "nodeName": "node-1",
            "pool": {"name": pool, "generation": generation, "resourceSliceCount": 1},
            "devices": list(devices),
        },
    }


def page(*slices: dict[str, Any], continued: str = "") -> dict[str, Any]:
    return {
        "kind": "ResourceSliceList",
        "metadata": {"resourceVersion": "7", "continue": continued},
        "items": list(slices),
    }


class ApiServer:
    """Answers a list of ResourceSlices. version: the only one that it serves."""

    def __init__(self, version: str, *pages: dict[str, Any]) -> None:
        self.version = version
        self.pages = pages
        self.token = "secret-1"  # noqa: S105 - of the test
        self.requests: list[dict[str, str]] = []
        self.status = 200
        self.delay = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(dict(request.query))
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        await asyncio.sleep(self.delay)
        if request.path != f"/apis/resource.k8s.io/{self.version}/resourceslices":
            return web.Response(status=404)
        number = int(request.query.get("continue") or 0)
        return web.Response(status=self.status, text=json.dumps(self.pages[number]))


@asynccontextmanager
async def target(
    api: ApiServer, folder: Path, **settings: Any
) -> AsyncIterator[ResourceSlicesTarget]:
    application = web.Application()
    application.router.add_get("/{path:.*}", api.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    (folder / "token").write_text(f"{api.token}\n")
    values = {"node_name": "node-1", "timeout": Duration(30), **settings}
    slices = ResourceSlicesTarget(
        Settings(api_url=f"http://127.0.0.1:{port}", api_token_file=str(folder / "token"), **values)
    )
    try:
        yield slices
    finally:
        await slices.close()
        await runner.cleanup()


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
def test_uuids_by_version(tmp_path: Path, version: str) -> None:
    api = ApiServer(
        version,
        page(resource_slice(device("gpu-0", "GPU-0", version=version)), continued="1"),
        page(
            resource_slice(device("gpu-1-mig", "MIG-1", version=version), device("channel-0")),
            resource_slice(device("nic", "N-1", version=version), driver="dra.net", pool="x"),
        ),
    )

    async def main() -> None:
        async with target(api, tmp_path) as slices:
            reading = await slices.read()
            assert reading.rows == (
                SliceDevice((DRIVER, "node-1", "gpu-0"), "GPU-0"),
                SliceDevice((DRIVER, "node-1", "gpu-1-mig"), "MIG-1"),
                SliceDevice(("dra.net", "x", "nic"), "N-1"),
            )
            assert reading.problems == ()
            asked = len(api.requests)
            assert await slices.read() is reading, "not listed again within the interval"
            assert len(api.requests) == asked
        assert api.requests[-1] == {
            "limit": "100",
            "fieldSelector": "spec.nodeName=node-1",
            "continue": "1",
        }

    asyncio.run(main())


def test_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_slices, "SLICE_LIST_INTERVAL", 0.0)
    api = ApiServer("v1", page(resource_slice(device("gpu-0", "GPU-0"))))

    async def main() -> None:
        async with target(api, tmp_path) as slices:
            api.version = "v2"
            with pytest.raises(Unsupported, match="HTTP 404"):
                await slices.read()
            api.version, api.status = "v1", 403
            with pytest.raises(Forbidden) as refused:
                await slices.read()
            assert "resourceslices" in refused.value.remedy
            api.status = 500
            with pytest.raises(BadData, match="HTTP 500"):
                await slices.read()
            api.status, api.delay = 200, 5.0
            ample, slices._timeout = slices._timeout, Duration(0.3)
            with pytest.raises(DeadlineExceeded):
                await slices.read()
            slices._timeout = ample
            api.delay, api.pages = 0.0, ({"kind": "Status"},)
            with pytest.raises(BadData, match="ResourceSlices"):
                await slices.read()
            api.pages = (page(resource_slice(device("gpu-0", "GPU-0"))),)
            # The service account's token was replaced: refused once, then read again.
            api.token = "secret-2"  # noqa: S105 - of the test
            (tmp_path / "token").write_text("secret-2\n")
            with pytest.raises(Forbidden, match="401"):
                await slices.read()
            assert len((await slices.read()).rows) == 1

    asyncio.run(main())


def test_a_list_has_a_limit_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [page(resource_slice(device(f"gpu-{n}", "GPU-0")), continued=str(n)) for n in (1, 2, 3)]
    api = ApiServer("v1", *pages)
    monkeypatch.setattr(resource_slices, "MAX_LIST_BYTES", len(json.dumps(pages[0])) * 2)

    async def main() -> None:
        async with target(api, tmp_path) as slices:
            with pytest.raises(TooMany, match="of ResourceSlices") as refused:
                await slices.read()
            assert "kubelet.node_name" in refused.value.remedy
        assert len(api.requests) == 3

    asyncio.run(main())


def test_an_older_generation_of_a_pool_is_replaced() -> None:
    pages = [
        page(resource_slice(device("gpu-0", "GPU-old"), device("gone", "GPU-9"), generation=3)),
        page(resource_slice(device("gpu-0", "GPU-new"), generation=4)),
    ]
    encoded = [json.dumps(each).encode() for each in pages]
    expected = (SliceDevice((DRIVER, "node-1", "gpu-0"), "GPU-new"),)
    assert slice_devices(encoded, Faults()) == expected
    assert slice_devices(encoded[::-1], Faults()) == expected
