"""A daemon thread that runs blocking calls for the event loop, one at a time.

Not a thread pool and not asyncio.to_thread: Python joins a pool's threads at exit, so one call that
hangs in a driver would keep the process alive. A daemon thread does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from exporter.errors import DeadlineExceeded, TooMany, Unreachable

T = TypeVar("T")

_NO_THREAD_REMEDY = (
    "raise the limit of tasks (TasksMax= of the unit, the container's pids limit), of address space"
    " (RLIMIT_AS), or of memory"
)

# Seconds for which the steps of a computation run without a look whether its caller still waits.
_TURN_SECONDS = 0.005


def start_thread(thread: threading.Thread) -> None:
    """Starts a thread. Raises TooMany if the system's limits permit no other."""
    try:
        thread.start()
    except RuntimeError as error:
        raise TooMany(
            f"the thread {thread.name} cannot be started: {error}", _NO_THREAD_REMEDY
        ) from None


Steps = Generator[None, None, T]
"""A long computation, which yields after each step of a few milliseconds."""


@dataclass(slots=True, eq=False)
class _Job:
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    call: Callable[[], Any]
    discard: Callable[[Any], object] | None
    """None once it has been called."""

    def discard_result(self, result: Any) -> None:
        discard, self.discard = self.discard, None
        if discard is not None:
            discard(result)


class Worker:
    """One daemon thread. Calls run in order; a cancelled call blocks the next until it returns.

    shared: for calls that only compute and always return (rendering): a cancelled call blocks no
    other. predecessor: a closed worker whose call may still hang; this one waits for its end.
    """

    def __init__(
        self, name: str, *, shared: bool = False, predecessor: Worker | None = None
    ) -> None:
        self.name = name
        self._shared = shared
        self._predecessor = predecessor
        self._unfinished: set[_Job] = set()
        self._idle = asyncio.Event()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._cancelled: set[_Job] = set()
        """Jobs whose caller was cancelled, and which still run."""
        self._closed = False

    @property
    def stuck(self) -> bool:
        """Whether a call is still running after its caller was cancelled."""
        return bool(self._cancelled)

    @property
    def busy_worker(self) -> Worker | None:
        """The worker whose call is running: this one or its predecessor; None if neither."""
        if self._unfinished:
            return self
        return None if self._predecessor is None else self._predecessor.busy_worker

    async def run(
        self, call: Callable[[], T], *, discard: Callable[[T], object] | None = None
    ) -> T:
        """Runs the call in the thread; returns its result or raises its exception.

        discard: takes the result if the caller was cancelled, such as a function that closes it.

        Waits for a hung call of the predecessor. Raises DeadlineExceeded immediately while a
        cancelled call of this worker still runs: at most one call is in flight. Raises Unreachable
        if the worker is closed, TooMany if its thread cannot be started.
        """
        while self._predecessor is not None and (busy := self._predecessor.busy_worker) is not None:
            await busy._idle.wait()  # noqa: SLF001 - of the same class
        self._predecessor = None
        if self._cancelled and not self._shared:
            raise DeadlineExceeded("an earlier call still hangs")
        if self._closed:
            raise Unreachable(f"the worker {self.name} is closed")  # during a read
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
            start_thread(thread)  # the next call retries
            self._thread = thread
        job = self._add(call, discard)
        try:
            result: T = await job.future
        except asyncio.CancelledError:
            if job in self._unfinished:  # not if it ended before its caller was notified
                self._cancelled.add(job)
            elif not job.future.cancelled() and job.future.exception() is None:
                self._discard(job, job.future.result())
            raise
        return result

    async def idle(self) -> None:
        """Waits until no call runs, those included whose callers were cancelled."""
        if self._unfinished:
            await self._idle.wait()

    async def run_steps(self, steps: Steps[T]) -> T:
        """Runs a computation; the calls of others take turns with its steps. Raises as `run`."""
        while (end := await self.run(partial(self._advance, steps))) is None:
            pass
        (result,) = end
        return result

    def _advance(self, steps: Steps[T]) -> tuple[T] | None:
        """Runs steps for up to _TURN_SECONDS, or one if other calls wait.

        Returns the result, in a tuple, after the last. A change of threads costs as much as a
        short step.
        """
        end = time.monotonic() + _TURN_SECONDS
        try:
            next(steps)
            while self._jobs.empty() and time.monotonic() < end:
                next(steps)
        except StopIteration as last:
            return (last.value,)
        return None

    def close(self, last: Callable[[], object] | None = None) -> None:
        """Ends the thread when its current call returns; does not wait for that: `idle` does.

        last: a call to make before, such as one that closes files; not without a thread.
        """
        if last is not None and self._thread is not None and not self._closed:
            self._add(last)
        self._closed = True
        self._jobs.put(None)

    def _add(
        self, call: Callable[[], object], discard: Callable[[Any], object] | None = None
    ) -> _Job:
        loop = asyncio.get_running_loop()
        job = _Job(loop, loop.create_future(), call, discard)
        self._unfinished.add(job)
        self._idle.clear()
        self._jobs.put(job)
        return job

    def _discard(self, job: _Job, result: Any) -> None:
        """Discards the result of a cancelled caller, in the thread if it has not ended."""
        discard = partial(job.discard_result, result)
        if job.discard is None:
            return
        if self._closed:
            discard()
        else:
            self._add(discard)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            try:
                if not job.future.cancelled():
                    result = job.call()
                    if job.future.cancelled():
                        job.discard_result(result)
                else:
                    job.discard = None  # no result
            except BaseException as exception:  # noqa: BLE001 - raised in the caller
                error = exception
            # RuntimeError: the loop is closed, as the call outlived the daemon.
            with contextlib.suppress(RuntimeError):
                job.loop.call_soon_threadsafe(self._finish, job, result, error)
            del job, result, error  # not kept alive until the next job

    def _finish(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._cancelled.discard(job)
        self._unfinished.discard(job)
        if job.future.done() and error is None:  # cancelled since the call returned
            self._discard(job, result)
        if not self._unfinished:
            self._idle.set()
        if job.future.done():
            return
        if isinstance(error, StopIteration):  # a Future does not accept one
            error = RuntimeError("the call raised StopIteration")
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)


class HungWorkers:
    """Workers of a stopped source whose calls hang, for the source's next instance.

    However often a source is restarted, only one thread waits for each hung call, and no further
    call is made until it returns. key: identifies the worker's purpose. Used from the event loop
    only.
    """

    def __init__(self) -> None:
        self._workers: dict[Hashable, tuple[Worker, str]] = {}

    def close(self, key: Hashable, worker: Worker, about: str = "") -> None:
        """Closes a worker, and remembers it if its call hangs. about: a text to return with it."""
        if (busy := worker.busy_worker) is not None:
            self._workers[key] = (busy, about)
        worker.close()

    def worker(self, key: Hashable, name: str) -> tuple[Worker, str]:
        """Returns a new worker, which waits for a hung call of the key's last one, if any.

        The text is the hung call's `about`; empty without one.
        """
        hung = self._workers.pop(key, None)
        if hung is None or hung[0].busy_worker is None:
            return Worker(name), ""
        return Worker(name, predecessor=hung[0]), hung[1]
