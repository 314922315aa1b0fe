"""The devices of the node's ResourceSlices (DRA), from the API server: their UUIDs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Annotated
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta

from exporter.errors import BadData, DeadlineExceeded, Forbidden, TooMany, Unsupported
from exporter.faults import Faults, FaultTotals
from exporter.http_client.address import parse
from exporter.http_client.client import HttpClient, HttpResponse
from exporter.http_client.credentials import Credentials, Header, Secret
from exporter.json_struct import decode_leniently
from exporter.model import Metric, Reading, Up
from exporter.sources.kubelet.metrics import RESOURCE_SLICES_UP
from exporter.sources.kubelet.reading import SliceDevice
from exporter.sources.kubelet.settings import Settings
from exporter.worker import Worker

# The versions of resource.k8s.io: since 1.34, 1.33 and 1.32.
_VERSIONS = ("v1", "v1beta2", "v1beta1")
# Seconds between two lists: slices change when a driver starts, or MIG is configured.
SLICE_LIST_INTERVAL = 30.0
# Bytes of a page, and of a list.
_MAX_RESPONSE_BYTES, MAX_LIST_BYTES = 4 << 20, 16 << 20
_PAGE_SIZE = 100
_MAX_PAGES = 50
_MAX_DEVICES = 20_000
_RBAC_REMEDY = (
    "permit `list` of resourceslices in resource.k8s.io to its service account (docs/kubernetes.md)"
)


_NODE_REMEDY = "set kubelet.node_name (NODE_NAME), so that only those of this node are listed"


class AttributeValue(msgspec.Struct, frozen=True):
    """The value of an attribute; other kinds than text are not needed."""

    string: str | None = None


Attributes = dict[str, AttributeValue]


class BasicDevice(msgspec.Struct, frozen=True):
    """The part of a device that v1beta1 has one level deeper."""

    attributes: Attributes = {}


class ListedDevice(msgspec.Struct, frozen=True):
    name: str
    attributes: Attributes = {}
    basic: BasicDevice | None = None


class SlicePool(msgspec.Struct, frozen=True):
    name: str
    generation: int = 0


class SliceSpec(msgspec.Struct, frozen=True):
    driver: str
    pool: SlicePool
    devices: Annotated[list[ListedDevice], Meta(max_length=128)] | None = None


class ResourceSlice(msgspec.Struct, frozen=True):
    spec: SliceSpec


class ListMetadata(msgspec.Struct, frozen=True):
    continue_: str = msgspec.field(default="", name="continue")


class SliceList(msgspec.Struct, frozen=True):
    items: list[ResourceSlice] | None
    metadata: ListMetadata = ListMetadata()


def slice_devices(pages: list[bytes], faults: Faults) -> tuple[SliceDevice, ...]:
    """Returns the devices with a UUID of the newest generation of each pool. Raises BadData."""
    newest: dict[tuple[str, str], int] = {}
    devices: dict[tuple[str, ...], tuple[int, str]] = {}
    for page in pages:
        for entry in decode_slices(page, faults).items or ():
            spec = entry.spec
            pool, generation = (spec.driver, spec.pool.name), spec.pool.generation
            newest[pool] = max(generation, newest.get(pool, generation))
            for device in spec.devices or ():
                attributes = device.attributes or (device.basic or BasicDevice()).attributes
                uuid = _uuid(attributes, spec.driver)
                key = (*pool, device.name)
                if uuid and generation >= devices.get(key, (generation, ""))[0]:
                    devices[key] = generation, uuid
                if len(devices) > _MAX_DEVICES:
                    raise TooMany(f"more than {_MAX_DEVICES} devices in ResourceSlices")
    return tuple(
        SliceDevice(key, uuid)
        for key, (generation, uuid) in devices.items()
        if generation == newest[key[0], key[1]]
    )


def decode_slices(page: bytes, faults: Faults) -> SliceList:
    """Decodes a ResourceSliceList. Raises BadData."""
    try:
        return decode_leniently(page, SliceList, faults)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadData(f"not a list of ResourceSlices: {error}") from None


def _uuid(attributes: Mapping[str, AttributeValue], driver: str) -> str:
    """Returns the attribute uuid; a name without a domain is one of the driver's."""
    for name in ("uuid", f"{driver}/uuid"):
        value = attributes.get(name)
        if value is not None and value.string:
            return value.string
    return ""


class ResourceSlicesTarget:
    """Lists the ResourceSlices of the node. Created only if a token is set."""

    name = "resource-slices"
    up: Metric[Up] | None = RESOURCE_SLICES_UP
    up_labels: tuple[str, ...] = ()
    auxiliary = True

    def __init__(self, settings: Settings) -> None:
        token = Header("Authorization", Secret(f"@{settings.api_token_file}"), scheme="Bearer")
        self._client = HttpClient(
            parse(settings.api_url, default_port=443),
            _MAX_RESPONSE_BYTES,
            Credentials((token,), settings.api_ca_file),
            server_kind="the Kubernetes API",
        )
        self._node = settings.node_name
        self._timeout = settings.timeout
        self._decoder = Worker("resource-slices")
        self._versions: tuple[str, ...] = _VERSIONS
        self._listed_at = 0.0
        self._reading: Reading | None = None

    async def read(self) -> Reading:
        """Lists the slices every SLICE_LIST_INTERVAL; between, returns the last list."""
        now = time.monotonic()
        if self._reading is None or now - self._listed_at >= SLICE_LIST_INTERVAL:
            self._reading = None  # a failed list is repeated at the next poll
            self._reading = await self._list()
            self._listed_at = now
        return self._reading

    async def _list(self) -> Reading:
        pages: list[bytes] = []
        faults = Faults()
        continued = ""
        while len(pages) < _MAX_PAGES:
            response = await self._get(continued)
            pages.append(response.body)
            if sum(map(len, pages)) > MAX_LIST_BYTES:
                raise TooMany(
                    f"more than {MAX_LIST_BYTES >> 20} MiB of ResourceSlices", _NODE_REMEDY
                )
            page = await self._decoder.run(partial(decode_slices, response.body, Faults()))
            continued = page.metadata.continue_
            if not continued:
                break
        else:
            raise TooMany(f"more than {_MAX_PAGES * _PAGE_SIZE} ResourceSlices", _NODE_REMEDY)
        rows = await self._decoder.run(partial(slice_devices, pages, faults))
        totals = FaultTotals()
        totals.add("resourceslices", faults)
        return Reading(rows, totals.problems())

    async def _get(self, continued: str) -> HttpResponse:
        """Requests one page. Raises SourceError."""
        query = {"limit": str(_PAGE_SIZE)}
        if self._node:
            query["fieldSelector"] = f"spec.nodeName={self._node}"
        if continued:
            query["continue"] = continued
        for version in self._versions:
            path = f"apis/resource.k8s.io/{version}/resourceslices?{urlencode(query)}"
            response = await self._request(quote(path, safe="/?=&%.+-_"))
            if response.status != 404:
                self._versions = (version,)
                return _checked(response)
            self._versions = _VERSIONS  # the cluster was upgraded
        raise Unsupported(
            "the API server has no ResourceSlices (HTTP 404)",
            "leave kubelet.api_token_file empty: this cluster has no DRA",
        )

    async def _request(self, path: str) -> HttpResponse:
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline), self._client.memory(deadline) as share:
                return await self._client.request(share, "GET", path)
        except TimeoutError:
            raise DeadlineExceeded("the API server does not respond") from None

    async def close(self) -> None:
        self._decoder.close()
        await self._client.close()


def _checked(response: HttpResponse) -> HttpResponse:
    """Returns the response. Raises Forbidden, BadData if it is no success."""
    if response.status in (401, 403):
        raise Forbidden(f"the API server responds HTTP {response.status}", _RBAC_REMEDY)
    if response.status != 200:
        raise BadData(f"the API server responds {response.status_text}")
    return response
