"""The calls of every poll that return plain numbers, made without pynvml.

Nearly all of a GPU's calls are of these. pynvml allocates their results, looks the function up and
checks the return code in functions of its own; here all of that is prepared once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from exporter.errors import SourceError, Unsupported
from exporter.sources.gpu.nvml.calls import Call, NvmlCall
from exporter.sources.gpu.nvml.errors import error_for
from exporter.sources.gpu.nvml.loader import SUCCESS, function_pointer
from exporter.sources.gpu.nvml.query import (
    RETRY_UNSUPPORTED_AFTER,
    NvmlQuery,
    monotonic_seconds,
)
from exporter.sources.gpu.reading import GpuValues


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A call with its function, its arguments after the handle, and the variables it writes to."""

    call: Call
    value: NvmlCall
    function: Any
    arguments: tuple[Any, ...]
    result: Any


class PollCalls:
    """The calls of one GPU with `results`, in the order of the table. Runs in that GPU's thread."""

    def __init__(self, query: NvmlQuery, calls: Iterable[NvmlCall]) -> None:
        self._query = query
        self._calls = tuple(calls)
        self._prepared: list[_Prepared] | None = None
        self._prepare_at = 0.0

    def reset(self) -> None:
        """Prepares the calls again at the next read, for another card or driver."""
        self._prepared = None

    def read(self, handle: Any, values: GpuValues) -> None:
        """Adds the values of all calls. Raises as NvmlQuery.try_call."""
        prepared = self._prepared
        if prepared is None or monotonic_seconds() >= self._prepare_at:
            prepared = self._prepared = self._prepare()
        convert, scalars = self._query.convert, values.scalars
        for entry in prepared:
            code = entry.function(handle, *entry.arguments)
            if code != SUCCESS:
                self._failed(entry, code)
                continue
            (spec,) = entry.value.values
            number = convert(spec, entry.result.value)
            if number is None:
                continue
            if spec.labels:
                values.add(spec, number)
            else:
                scalars[spec.key] = number

    def _prepare(self) -> list[_Prepared]:
        """Returns the calls that the GPU and the library are not known not to support."""
        self._prepare_at = monotonic_seconds() + RETRY_UNSUPPORTED_AFTER
        prepared = []
        for nvml_call in self._calls:
            (call,) = nvml_call.calls
            if self._query.is_unsupported(call):
                continue
            try:
                function = function_pointer(call[0])
            except Unsupported:
                self._query.mark_unsupported(call)
                continue
            results = [result() for result in nvml_call.results]
            prepared.append(
                _Prepared(
                    call,
                    nvml_call,
                    function,
                    (*call[1:], *map(ctypes.byref, results)),
                    results[0],
                )
            )
        return prepared

    def _failed(self, entry: _Prepared, code: int) -> None:
        """Handles a return code as NvmlQuery.try_call does. Raises as it."""

        def fail() -> None:
            error: SourceError = error_for(code, entry.call[0])
            raise error

        self._query.try_call(entry.call, fail)
        if self._query.is_unsupported(entry.call):
            self._prepared = None
