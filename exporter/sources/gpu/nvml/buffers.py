"""Reused buffers for NVML functions that return lists.

pynvml would allocate a buffer for each call, of any size that the driver reports.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from exporter.errors import BadData
from exporter.sources.gpu.nvml.errors import NoData, error_for
from exporter.sources.gpu.nvml.library import pynvml_symbol
from exporter.sources.gpu.nvml.loader import INSUFFICIENT_SIZE, SUCCESS

_INITIAL_ENTRIES, _MAX_ENTRIES = 32, 4096
# The list may have grown since the driver reported its length.
_MAX_ATTEMPTS = 4


class Buffers:
    """The buffers of one GPU, by use. Runs in that GPU's thread."""

    def __init__(self) -> None:
        self._buffers: dict[str, Any] = {}

    def read(
        self,
        use: str,
        struct: str,
        fill: Callable[[Any, Any], int],
        entries: int = _INITIAL_ENTRIES,
    ) -> bytes:
        """Returns the entries that `fill` writes, as the driver wrote them.

        use: the function, also for error messages. struct: pynvml's structure of an entry. fill:
        takes the buffer and a c_uint of its length, sets the number of entries, returns the return
        code. entries: length of a new buffer, which grows if needed. Empty if the driver returns
        NOT_FOUND: it has none. Raises SourceError.
        """
        buffer, count = self._fill(use, struct, fill, entries)
        return ctypes.string_at(buffer, count * ctypes.sizeof(buffer) // len(buffer))

    def _fill(
        self, use: str, struct: str, fill: Callable[[Any, Any], int], entries: int
    ) -> tuple[Any, int]:
        """Returns the filled buffer, and the number of its entries."""
        for _ in range(_MAX_ATTEMPTS):
            buffer = self._buffers.get(use)
            if buffer is None:
                buffer = self._buffers[use] = (pynvml_symbol(struct) * entries)()
            count = ctypes.c_uint(len(buffer))
            code = fill(buffer, count)
            if code == SUCCESS:
                if count.value > len(buffer):
                    raise BadData(f"{use}: {count.value} entries in a buffer of {len(buffer)}")
                return buffer, count.value
            if code != INSUFFICIENT_SIZE:
                error = error_for(code, use)
                if isinstance(error, NoData):
                    return buffer, 0
                raise error
            if count.value > _MAX_ENTRIES:
                raise BadData(f"{use}: {count.value} entries exceed the limit")
            length = 2 * max(count.value, len(buffer))
            self._buffers[use] = (pynvml_symbol(struct) * length)()
        raise error_for(INSUFFICIENT_SIZE, use)
