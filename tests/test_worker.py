"""The worker thread: results, exceptions, hung calls, and the exit of the process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from exporter.errors import DeadlineExceeded
from exporter.worker import Steps, Worker, _Job
from tests import clean_interpreter
from tests.clean_interpreter import DAEMON
from tests.waiting import until_async

T = TypeVar("T")


def _job(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> _Job:
    return _Job(loop, loop.create_future(), call, None)


def test_results_and_exceptions() -> None:
    async def scenario() -> None:
        worker = Worker("w")
        assert await worker.run(lambda: threading.current_thread().name) == "w"
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        assert await worker.run(lambda: 7) == 7, "an error does not end the thread"
        worker.close()

    asyncio.run(scenario())


class CancellingWorker(Worker):
    """Cancels a task in the turn of the loop in which its result arrives."""

    task: asyncio.Task[int] | None = None

    def _finish(self, job: _Job, result: Any, error: BaseException | None) -> None:
        super()._finish(job, result, error)
        if self.task is not None:
            self.task.cancel()


@pytest.mark.parametrize(
    "cancelled", ["during the call", "after the call", "as it arrives", "after the close", "not"]
)
def test_the_result_for_a_cancelled_caller_is_discarded_once(cancelled: str) -> None:
    async def scenario() -> None:
        worker, release, returned = CancellingWorker("w"), threading.Event(), threading.Event()
        started = threading.Event()
        discarded: list[int] = []

        def call() -> int:
            started.set()
            release.wait(10)
            return 7

        running = asyncio.create_task(worker.run(call, discard=discarded.append))
        assert await asyncio.to_thread(started.wait, 10)
        if cancelled in ("during the call", "after the close"):
            running.cancel()
            await asyncio.wait((running,))
        if cancelled == "as it arrives":
            worker.task = running
        if cancelled == "after the close":
            worker.close()
        release.set()
        if cancelled == "after the call":
            # The loop stands still: it does not take the result before the cancellation.
            worker._jobs.put(_job(asyncio.get_running_loop(), returned.set))
            assert returned.wait(10)
            running.cancel()
        await asyncio.wait((running,))
        async with asyncio.timeout(10):
            await worker.idle()
        assert running.cancelled() == (cancelled != "not")
        assert discarded == ([] if cancelled == "not" else [7])
        worker.close()

    asyncio.run(scenario())


def test_the_last_call_of_a_closed_worker_follows_one_that_runs() -> None:
    async def scenario() -> None:
        worker, release, calls = Worker("w"), threading.Event(), list[str]()
        started = threading.Event()

        def call() -> None:
            started.set()
            calls.append(str(release.wait(10)))

        running = asyncio.create_task(worker.run(call))
        assert await asyncio.to_thread(started.wait, 10)
        running.cancel()
        await asyncio.wait((running,))
        worker.close(last=lambda: calls.append("last"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await worker.idle()
        assert not calls
        release.set()
        async with asyncio.timeout(10):
            await worker.idle()
        assert calls == ["True", "last"]

        unused = Worker("unused")
        unused.close(last=lambda: calls.append("without a thread"))
        await unused.idle()
        assert calls == ["True", "last"]

    asyncio.run(scenario())


def test_no_result_is_discarded_of_a_call_that_failed_or_never_began() -> None:
    async def scenario() -> None:
        worker, release = Worker("w", shared=True), threading.Event()
        started = threading.Event()
        discarded: list[object] = []

        def fail() -> None:
            started.set()
            release.wait(10)
            raise ZeroDivisionError

        calls = [asyncio.create_task(worker.run(fail, discard=discarded.append)) for _ in range(2)]
        assert await asyncio.to_thread(started.wait, 10)
        for running in calls:
            running.cancel()
        await asyncio.wait(calls)
        release.set()
        async with asyncio.timeout(10):
            await worker.idle()
        assert not discarded
        worker.close()

    asyncio.run(scenario())


def test_a_cancelled_call_blocks_the_next_until_it_returns() -> None:
    async def scenario() -> None:
        worker, release = Worker("w"), threading.Event()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await worker.run(release.wait)
        assert worker.stuck
        with pytest.raises(DeadlineExceeded):
            await worker.run(lambda: 1)
        release.set()
        await until_async(lambda: not worker.stuck, "the end of the call")
        assert await worker.run(lambda: 1) == 1
        worker.close()

    asyncio.run(scenario())


def test_a_cancelled_call_does_not_block_a_shared_worker() -> None:
    async def scenario() -> None:
        worker, release = Worker("w", shared=True), threading.Event()
        first = asyncio.create_task(worker.run(release.wait))
        await asyncio.sleep(0)
        first.cancel()
        second = asyncio.create_task(worker.run(lambda: 2))
        await asyncio.sleep(0)
        release.set()
        assert await second == 2
        worker.close()

    asyncio.run(scenario())


def test_a_call_cancelled_before_it_starts_is_not_made() -> None:
    async def scenario() -> None:
        worker, release, made = Worker("w", shared=True), threading.Event(), []
        first = asyncio.create_task(worker.run(release.wait))
        second = asyncio.create_task(worker.run(lambda: made.append(1)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        release.set()
        await first
        await worker.run(lambda: None)
        assert made == []
        worker.close()

    asyncio.run(scenario())


def test_a_hung_thread_does_not_keep_the_process_alive() -> None:
    program = """
import asyncio, time
from exporter.worker import Worker
async def main():
    try:
        async with asyncio.timeout(0.05):
            await Worker("hangs").run(lambda: time.sleep(60))
    except TimeoutError:
        print("timeout")
asyncio.run(main())
"""
    started = time.monotonic()
    done = clean_interpreter.run(program, after=DAEMON, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "timeout\n"
    assert time.monotonic() - started < 20


def test_stop_iteration_becomes_a_runtime_error() -> None:
    async def scenario() -> None:
        worker = Worker("w")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(worker.run(lambda: next(iter(()))), 5)
        assert await worker.run(lambda: 1) == 1
        worker.close()

    asyncio.run(scenario())


def test_a_thread_that_cannot_be_started_is_an_error_with_a_remedy() -> None:
    """Until the limit is raised: each call tries again."""
    script = """if True:
        import asyncio, re, resource
        from pathlib import Path
        from exporter.errors import TooMany
        from exporter.worker import Worker

        async def main():
            worker = Worker("w")
            size = int(re.search(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, ((size << 10) + (1 << 20), hard))
            try:
                await worker.run(int)
            except TooMany as error:
                print(error.message, error.remedy, sep="; ")
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            print(await worker.run(int))

        asyncio.run(main())
    """
    done = clean_interpreter.run(script, after=DAEMON)
    assert done.returncode == 0, done.stderr
    failure, result = done.stdout.splitlines()
    assert failure.startswith("the thread w cannot be started: can't start new thread; raise the")
    assert result == "0"


class CountingWorker(Worker):
    """Counts the calls that go to the thread."""

    def __init__(self) -> None:
        super().__init__("w", shared=True)
        self.calls = 0

    async def run(
        self, call: Callable[[], T], *, discard: Callable[[T], object] | None = None
    ) -> T:
        self.calls += 1
        return await super().run(call, discard=discard)


def _numbers(count: int) -> Steps[int]:
    for _ in range(count):
        yield
    return count


def test_short_steps_are_one_call_unless_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.worker._TURN_SECONDS", 60.0)

    async def scenario() -> None:
        worker, release = CountingWorker(), threading.Event()
        assert await worker.run_steps(_numbers(5)) == 5
        assert worker.calls == 1
        # The calls wait behind this one: the computation steps aside for the second after a step.
        ended: list[str] = []
        blocking = asyncio.create_task(worker.run(release.wait))
        steps = asyncio.create_task(worker.run_steps(_numbers(5)))
        steps.add_done_callback(lambda _: ended.append("steps"))
        other = asyncio.create_task(worker.run(lambda: 1))
        other.add_done_callback(lambda _: ended.append("other"))
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(blocking, steps, other)
        assert ended == ["other", "steps"]
        worker.close()

    asyncio.run(scenario())


def test_a_call_that_ends_while_its_caller_is_cancelled_blocks_no_other() -> None:
    """Its end is handled between the cancellation and the caller that it wakes."""

    async def main() -> None:
        worker, release, ended = Worker("test"), threading.Event(), threading.Event()
        first = asyncio.create_task(worker.run(lambda: release.wait(10)))
        second = asyncio.create_task(worker.run(ended.set))
        await asyncio.sleep(0)
        release.set()
        assert ended.wait(10)  # blocks the loop: the end of the first call waits for it
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert not worker.stuck
        assert await worker.run(lambda: 1) == 1
        worker.close()

    asyncio.run(main())
