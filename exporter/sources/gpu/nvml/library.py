"""Calls to the driver's library (NVML, through pynvml), and the library's life.

All functions block; they run in the threads of workers. NVML itself is thread-safe, but for its
shutdown: that must not overlap any other call, the wait for events included.
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
from exporter.sources.gpu.nvml.errors import Uninitialised, error_for
from exporter.sources.gpu.nvml.loader import load_library

# More than any machine has; a driver that says more is not believed.
MOST_GPUS = 1024
# Seconds that a restart waits for the listener to events, which looks up this often at least.
LISTENER_PATIENCE = 1.0


@functools.cache
def pynvml_symbol(name: str) -> Any:
    """Something of pynvml by name (a function, a structure); None in a release from before it."""
    import pynvml  # noqa: PLC0415 - costs 6 MB and 50 ms, which a host without GPUs is spared

    return getattr(pynvml, name, None)


def call(function: str, *arguments: Any) -> Any:
    """Call a function of pynvml. Raises SourceError for whatever goes wrong."""
    wrapper = pynvml_symbol(function)
    if wrapper is None:
        raise error_for(13, function)
    try:
        return wrapper(*arguments)
    except UnicodeDecodeError as error:
        raise BadData(f"{function}: text that is not UTF-8: {error.object[:40]!r}") from None
    except pynvml_symbol("NVMLError") as error:
        # Not str(error): for codes unknown to pynvml that would call the driver again.
        raise error_for(getattr(error, "value", 0), function) from None


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU's handle, good for one initialisation of the library."""

    handle: Any
    uuid: str
    generation: int


class Released(Unreachable):
    """Somebody asked us to let go of the driver for a while."""


class Nvml:
    """The library's life: initialised when first needed, shut down when nobody is in a call."""

    def __init__(self) -> None:
        self.generation = 0
        """Counts initialisations: a handle of an earlier one is of no use."""
        self._changed = threading.Condition()
        self._in_use = 0
        self._listening = 0
        self._held = False
        self._initialised = False
        self._closed = False
        self._released_until: float | None = None
        self._samples: list[Any] = []

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold off the shutdown: every call is made within this. Raises Unreachable, Released."""
        with self._changed:
            self._admit()
            self._in_use += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_use -= 1
                if self._closed or self._released_until is not None:
                    self._shut_down()
                self._changed.notify_all()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """As in_use, for one who is in the library nearly always and leaves it when `unwelcome`."""
        with self._changed:
            if self._held or not self._initialised:
                raise Unreachable("the library is about to be initialised anew")
            self._listening += 1
        try:
            with self.in_use():
                yield
        finally:
            with self._changed:
                self._listening -= 1
                self._changed.notify_all()

    @property
    def unwelcome(self) -> bool:
        """Whether a listener has to leave, so that the library can be shut down."""
        return self._held or self._closed or self._released_until is not None

    def count(self) -> int:
        """How many GPUs there are; initialises the library if need be. Only ever in one thread."""
        with self.in_use():
            if not self._initialised:
                load_library()
                call("nvmlInit")
                self.generation += 1
                self._samples.clear()
                self._initialised = True
            try:
                count = int(call("nvmlDeviceGetCount"))
            except Uninitialised:
                self._initialised = False  # done anew the next time
                raise
        if count > MOST_GPUS:
            raise BadData(f"the driver says that it has {count} GPUs")
        return count

    def device(self, index: int) -> Device:
        """The GPU at an index. Raises SourceError, BadData too for a UUID that is none."""
        generation = self.generation
        handle = call("nvmlDeviceGetHandleByIndex", index)
        uuid = str(call("nvmlDeviceGetUUID", handle)).strip()
        if not uuid:
            raise BadData("nvmlDeviceGetUUID: empty")
        return Device(handle, uuid, generation)

    def allocate_sample(self) -> Any:
        """Memory of the library's for a GPM sample; freed at the shutdown, or by free_sample."""
        sample = call("nvmlGpmSampleAlloc")
        with self._changed:
            self._samples.append(sample)
        return sample

    def free_sample(self, sample: Any) -> None:
        """Give a sample back, unless it went with the initialisation it belonged to."""
        with self._changed:
            left = [one for one in self._samples if one is not sample]
            if len(left) == len(self._samples):
                return
            self._samples = left
        call("nvmlGpmSampleFree", sample)

    def restart(self) -> None:
        """Shut down, so that `count` initialises anew; not while anyone else is in a call."""
        with self._changed:
            self._held = True
            self._changed.wait_for(lambda: not self._listening, LISTENER_PATIENCE)
            self._shut_down()
            self._held = False

    def release(self, seconds: float, patience: float) -> bool:
        """Shut down and stay so for a time (it may be infinite); gives whether it is shut down.

        Calls under way are given `patience` seconds; when they end later, it is shut down then.
        """
        with self._changed:
            self._released_until = time.monotonic() + seconds
            self._shut_down()
            self._changed.wait_for(lambda: not self._initialised, patience)
            return not self._initialised

    def resume(self) -> None:
        """End a release before its time."""
        with self._changed:
            self._released_until = None

    def close(self) -> None:
        """Shut down now, or when the last call ends. May block: not for the event loop."""
        with self._changed:
            self._closed = True
            self._shut_down()

    def _admit(self) -> None:
        if self._closed:
            raise Unreachable("the GPU source is closed")
        if self._released_until is not None:
            if (left := self._released_until - time.monotonic()) > 0:
                for_how_long = "" if left == float("inf") else f" for another {left:.0f} s"
                raise Released(
                    f"the driver was let go by `inference-exporter release`{for_how_long}",
                    "`inference-exporter resume` takes it up again",
                )
            self._released_until = None

    def _shut_down(self) -> None:
        """Shut down, unless someone is in a call (the library would be torn from under it)."""
        if self._initialised and not self._in_use:
            self._initialised = False
            # That the library is not initialised, or its driver gone, is as good.
            with contextlib.suppress(SourceError):
                while self._samples:
                    call("nvmlGpmSampleFree", self._samples.pop())
            with contextlib.suppress(SourceError):
                call("nvmlShutdown")
