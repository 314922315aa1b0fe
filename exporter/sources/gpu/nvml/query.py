"""NVML queries of one GPU: remembers unsupported calls, converts and bounds-checks values."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from ctypes import byref
from time import monotonic
from typing import Any, TypeVar

from exporter.errors import LeftOut, NotFound, SourceError, Unsupported
from exporter.model import Number
from exporter.sources.gpu.nvml.calls import Call, NvmlCall, ValueSpec
from exporter.sources.gpu.nvml.errors import GpuLost, NoData, Uninitialized, error_for
from exporter.sources.gpu.nvml.library import call
from exporter.sources.gpu.reading import GpuValues

# Seconds until an unsupported call is tried again.
RETRY_UNSUPPORTED_AFTER = 3600.0
# NVML_VALUE_NOT_AVAILABLE (nvml.h), as signed, 32-bit and 64-bit integer.
NOT_AVAILABLE = frozenset((-1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF))

T = TypeVar("T")
CallId = Hashable
"""Identifies a call in the memory of unsupported calls: a `Call`, a field, or a short text."""


def monotonic_seconds() -> float:
    """Returns seconds of the monotonic clock; tests patch `monotonic` of this module."""
    return monotonic()


class NvmlQuery:
    """The queries of one GPU. All methods run in that GPU's thread.

    problems: errors of single queries since `start_reading`; errors of the whole GPU are raised.
    """

    def __init__(self) -> None:
        self.problems: list[SourceError] = []
        self._unsupported: dict[CallId, float] = {}

    def start_reading(self) -> None:
        """Clears the problems of the previous reading."""
        self.problems = []

    def reset(self) -> None:
        """Forgets what is unsupported: it differs by card, driver and MIG mode."""
        self._unsupported.clear()

    def is_unsupported(self, call_id: CallId) -> bool:
        """Returns whether the GPU reported the call as not supported within the last hour."""
        retry_at = self._unsupported.get(call_id)
        if retry_at is None:
            return False
        if monotonic() < retry_at:
            return True
        del self._unsupported[call_id]
        return False

    def mark_unsupported(self, call_id: CallId) -> None:
        """Skips the call for the next RETRY_UNSUPPORTED_AFTER seconds."""
        self._unsupported[call_id] = monotonic() + RETRY_UNSUPPORTED_AFTER

    def try_call(self, call_id: CallId, function: Callable[..., T], *arguments: Any) -> T | None:
        """Returns the function's result, or None if unsupported, without data, or failed.

        A failure is added to `problems`. Raises GpuLost, Uninitialised, NotFound: these concern
        the whole GPU, so that further queries are useless.
        """
        if self._unsupported and self.is_unsupported(call_id):
            return None
        try:
            return function(*arguments)
        except Unsupported:
            self.mark_unsupported(call_id)
        except NoData:
            pass  # no value at present
        except (GpuLost, Uninitialized, NotFound):
            raise
        except SourceError as error:
            self.problems.append(error)
        return None

    def first_supported(self, handle: Any, *calls: Call) -> Any:
        """Returns the result of the first supported call, or None."""
        for function_call in calls:
            result = self.try_call(
                function_call, call, function_call[0], handle, *function_call[1:]
            )
            if result is not None or function_call not in self._unsupported:
                return result
        return None

    def fill(
        self, function: str, handle: Any, struct: Any, *, call_id: CallId | None = None
    ) -> bool:
        """Fills a structure passed by reference; returns whether the call succeeded.

        call_id: of a function with several versions of its structure. Raises as try_call.
        """

        def fill() -> bool:
            code = call(function, handle, byref(struct))
            if code:  # some pynvml releases return the code; all raise for a code other than 0
                raise error_for(code, function)
            return True

        return bool(self.try_call(function if call_id is None else call_id, fill))

    def read_call(self, nvml_call: NvmlCall, handle: Any, values: GpuValues) -> None:
        """Adds the values of a table entry in their exported units. Raises as try_call."""
        result = self.first_supported(handle, *nvml_call.calls)
        if result is None:
            return
        for spec in nvml_call.values:
            number = self.convert(spec, spec.extract(result) if spec.extract else result)
            if number is not None:
                values.add(spec, number)

    def convert(self, spec: ValueSpec, value: Number) -> Number | None:
        """Converts a driver value to its exported unit; None if not available or out of range."""
        if value in NOT_AVAILABLE and (spec.minimum >= 0 or value != -1):
            return None
        if not spec.minimum <= value <= spec.maximum:
            self.problems.append(LeftOut(f"{spec.key}: {value} is out of range", subject=spec.key))
            return None
        if spec.divisor != 1:
            return value / spec.divisor
        return value * spec.factor
