"""A daemon thread that makes blocking calls for the event loop, one at a time.

Not a pool and not asyncio.to_thread: a pool's workers are joined at exit, so that one call which
hangs in a driver would keep the process alive. A daemon thread does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from exporter.errors import DeadlineExceeded, Unreachable

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    call: Callable[[], Any]


class Worker:
    """One daemon thread. Calls run in order; a call whose caller gave up blocks the next one.

    shared: for calls that only compute and always end (rendering): a call given up blocks nobody.
    behind: a closed worker whose call may still hang; until it ends, none is made here.
    """

    def __init__(self, name: str, *, shared: bool = False, behind: Worker | None = None) -> None:
        self.name = name
        self._shared = shared
        self._behind = behind
        self._unfinished: set[_Job] = set()
        self._idle = asyncio.Event()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._abandoned: set[_Job] = set()
        self._closed = False

    @property
    def stuck(self) -> bool:
        """Whether a call that nobody waits for any more is still running."""
        return bool(self._abandoned)

    @property
    def under_way(self) -> Worker | None:
        """Whose call is under way: this worker's, or that of the one it has to wait for."""
        if self._unfinished:
            return self
        return None if self._behind is None else self._behind.under_way

    async def run(self, call: Callable[[], T]) -> T:
        """Make the call in the thread and give its result or raise its exception.

        Raises DeadlineExceeded at once while a call that was given up earlier still runs: there
        is never more than one call in flight. Waits for that of a worker this one is behind.
        Raises Unreachable once the worker is closed.
        """
        while self._behind is not None and (before := self._behind.under_way) is not None:
            await before._idle.wait()  # noqa: SLF001 - of the same class
        self._behind = None
        if self._abandoned and not self._shared:
            raise DeadlineExceeded("an earlier call still hangs")
        if self._closed:
            raise Unreachable(f"no longer wanted ({self.name})")  # let go of in a read
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
            thread.start()  # may be refused (a limit of tasks): the next call tries again
            self._thread = thread
        loop = asyncio.get_running_loop()
        job = _Job(loop, loop.create_future(), call)
        self._unfinished.add(job)
        self._idle.clear()
        self._jobs.put(job)
        try:
            result: T = await job.future
        except asyncio.CancelledError:
            if job.future.cancelled():
                self._abandoned.add(job)
            raise
        return result

    def close(self) -> None:
        """End the thread as soon as it is free; never waits."""
        self._closed = True
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            try:
                if not job.future.cancelled():
                    result = job.call()
            except BaseException as exception:  # noqa: BLE001 - handed to the caller, who decides
                error = exception
            # The loop is closed where the call outlived the daemon: nobody waits for the result.
            with contextlib.suppress(RuntimeError):
                job.loop.call_soon_threadsafe(self._finish, job, result, error)
            del job, result, error  # not kept alive while waiting for the next

    def _finish(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._abandoned.discard(job)
        self._unfinished.discard(job)
        if not self._unfinished:
            self._idle.set()
        if job.future.done():
            return
        if isinstance(error, StopIteration):  # no future takes one
            error = RuntimeError("the call raised StopIteration")
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)


class HungWorkers:
    """What hangs in the threads of a source that was stopped, for the next one of its kind.

    So that however often a source is begun anew, one thread waits for each thing that hangs, and
    it is asked nothing more meanwhile. key: what the worker is for. Used from the event loop only.
    """

    def __init__(self) -> None:
        self._left: dict[Hashable, tuple[Worker, str]] = {}

    def close(self, key: Hashable, worker: Worker, about: str = "") -> None:
        """Close a worker; what hangs in it is remembered, with a text about it."""
        if (hanging := worker.under_way) is not None:
            self._left[key] = (hanging, about)
        worker.close()

    def worker(self, key: Hashable, name: str) -> tuple[Worker, str]:
        """A new worker, behind what hangs, and the text about that; empty where nothing does."""
        left = self._left.pop(key, None)
        if left is None or left[0].under_way is None:
            return Worker(name), ""
        return Worker(name, behind=left[0]), left[1]
