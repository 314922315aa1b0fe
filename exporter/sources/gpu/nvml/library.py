"""NVML calls through pynvml, and the library's lifecycle: nvmlInit, release, nvmlShutdown.

All functions block and run in worker threads. NVML is thread-safe except for nvmlShutdown, which
must not overlap any other call, including the wait for events.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.errors import BadData, SourceError, Unreachable
from exporter.sources.gpu.nvml.errors import Uninitialized, error_for
from exporter.sources.gpu.nvml.loader import load_library

# A larger device count is rejected as invalid.
MAX_GPUS = 1024
# Seconds that `restart` waits for the event listener, which checks `shutdown_pending` more often.
LISTENER_TIMEOUT = 1.0


@functools.cache
def pynvml_symbol(name: str) -> Any:
    """Returns a pynvml function or structure by name; None if this release has none."""
    import pynvml  # noqa: PLC0415 - 6 MB and 50 ms, not spent on hosts without GPUs

    return getattr(pynvml, name, None)


def call(function: str, *arguments: Any) -> Any:
    """Calls a pynvml function. Raises SourceError for every failure."""
    wrapper = pynvml_symbol(function)
    if wrapper is None:
        raise error_for(13, function)
    try:
        return wrapper(*arguments)
    except UnicodeDecodeError as error:
        raise BadData(f"{function}: text is not UTF-8: {error.object[:40]!r}") from None
    except pynvml_symbol("NVMLError") as error:
        # Not str(error): for codes unknown to pynvml it calls the driver again.
        raise error_for(getattr(error, "value", 0), function) from None


@dataclass(frozen=True, slots=True)
class GpuHandle:
    """A GPU's handle, valid for one initialisation of the library (`generation`)."""

    handle: Any
    uuid: str
    generation: int


class Released(Unreachable):
    """The driver is released by command."""


class Nvml:
    """The library's lifecycle: initialised on first use, shut down when no call is in flight."""

    def __init__(self) -> None:
        self.generation = 0
        """Number of initialisations: a handle of an earlier one is invalid."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        """Notified of shutdowns and of the number of listeners; of the same lock."""
        self._calls_in_flight = 0
        self._listeners = 0
        self._restarting = False
        self._initialised = False
        self._closed = False
        self._released_until: float | None = None
        self._samples: list[Any] = []

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Defers the shutdown until the block ends; every NVML call is made within such a block.

        Raises Unreachable if the library is closed, Released while it is released.
        """
        with self._lock:
            self._check_usable()
            self._calls_in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls_in_flight -= 1
                if self._closed or self._released_until is not None:
                    self._shut_down()
                    self._changed.notify_all()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """As in_use, for the event listener, which must leave when `shutdown_pending` is set."""
        with self._changed:
            if self._restarting or not self._initialised:
                raise Unreachable("the library is about to be initialised again")
            self._listeners += 1
        try:
            with self.in_use():
                yield
        finally:
            with self._changed:
                self._listeners -= 1
                self._changed.notify_all()

    @property
    def shutdown_pending(self) -> bool:
        """Whether the event listener must leave, so that the library can be shut down."""
        return self._restarting or self._closed or self._released_until is not None

    @property
    def usable(self) -> bool:
        """Whether the library was initialised, and is neither released nor about to shut down."""
        return self._initialised and not self.shutdown_pending

    def count(self) -> int:
        """Returns the device count; initialises the library if needed. For one thread only."""
        with self.in_use():
            if not self._initialised:
                load_library()
                call("nvmlInit")
                self.generation += 1
                self._samples.clear()
                self._initialised = True
            try:
                count = int(call("nvmlDeviceGetCount"))
            except Uninitialized:
                self._initialised = False  # initialised again by the next call
                raise
        if count > MAX_GPUS:
            raise BadData(f"the driver reports {count} GPUs")
        return count

    def handle(self, index: int) -> GpuHandle:
        """Acquires the handle at an index. Raises SourceError; BadData for an empty UUID."""
        generation = self.generation
        handle = call("nvmlDeviceGetHandleByIndex", index)
        uuid = str(call("nvmlDeviceGetUUID", handle)).strip()
        if not uuid:
            raise BadData("nvmlDeviceGetUUID: empty")
        return GpuHandle(handle, uuid, generation)

    def allocate_sample(self) -> Any:
        """Allocates a GPM sample, freed by free_sample or at the shutdown."""
        sample = call("nvmlGpmSampleAlloc")
        with self._changed:
            self._samples.append(sample)
        return sample

    def free_sample(self, sample: Any) -> None:
        """Frees a GPM sample unless it was freed with its initialisation of the library."""
        with self._changed:
            remaining = [other for other in self._samples if other is not sample]
            if len(remaining) == len(self._samples):
                return
            self._samples = remaining
        call("nvmlGpmSampleFree", sample)

    def restart(self) -> None:
        """Shuts down, so that `count` initialises again; not while a call is in flight."""
        with self._changed:
            self._restarting = True
            self._changed.wait_for(lambda: not self._listeners, LISTENER_TIMEOUT)
            self._shut_down()
            self._restarting = False

    def release(self, seconds: float, timeout: float) -> bool:
        """Shuts down for `seconds` (may be infinite); returns whether the shutdown is complete.

        Waits up to `timeout` seconds for calls in flight; if they end later, the shutdown follows.
        """
        with self._changed:
            self._released_until = time.monotonic() + seconds
            self._shut_down()
            self._changed.wait_for(lambda: not self._initialised, timeout)
            return not self._initialised

    def resume(self) -> None:
        """Ends a release early."""
        with self._changed:
            self._released_until = None

    def close(self) -> None:
        """Shuts down now, or when the last call ends. May block: not for the event loop."""
        with self._changed:
            self._closed = True
            self._shut_down()

    def _check_usable(self) -> None:
        if self._closed:
            raise Unreachable("the GPU source is closed")
        if self._released_until is not None:
            if (left := self._released_until - time.monotonic()) > 0:
                remaining = "" if left == float("inf") else f" for another {left:.0f} s"
                raise Released(
                    f"the driver was released by `inference-exporter release`{remaining}",
                    "run `inference-exporter resume` to read the GPUs again",
                )
            self._released_until = None

    def _shut_down(self) -> None:
        """Shuts down unless a call is in flight, which would crash."""
        if self._initialised and not self._calls_in_flight:
            self._initialised = False
            # An uninitialized library or a missing driver counts as shut down.
            with contextlib.suppress(SourceError):
                while self._samples:
                    call("nvmlGpmSampleFree", self._samples.pop())
            with contextlib.suppress(SourceError):
                call("nvmlShutdown")
