"""What the service manager hears: when the watchdog is fed, and when it no longer is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exporter import notify
from exporter.model import Reading
from exporter.notify import Notifier, watch
from exporter.poll import SourcePoller
from exporter.settings import Duration, SourceSettings
from exporter.store import Store
from tests.fakes.source import MadeSource, MadeTarget, Thing, rendering
from tests.waiting import until_async

QUICK = SourceSettings(interval=Duration(0.02), timeout=Duration(0.05))


class Manager:
    """A service manager's socket, and what came in on it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def environment(self, watchdog: float) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(int(watchdog * 1e6))}

    def heard(self) -> list[str]:
        """The datagrams since the last time."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(tmp_path)


def reading() -> Reading:
    return Reading((Thing(("z", "n"), heat=1),))


@contextlib.asynccontextmanager
async def watched(manager: Manager, target: MadeTarget) -> AsyncIterator[SourcePoller]:
    """A poller at work on the target, watched on behalf of the manager."""
    notifier = Notifier(manager.environment(watchdog=0.08))
    poller = SourcePoller("made", MadeSource([target]), QUICK, Store(), rendering())
    tasks = [
        asyncio.create_task(poller.run()),
        asyncio.create_task(watch(notifier, lambda t: list(poller.stuck(t)), lambda: "well")),
    ]
    try:
        yield poller
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        notifier.close()
        manager.close()


async def _fed(manager: Manager, times: int = 3) -> None:
    """Wait until the watchdog has been fed so many times more."""
    manager.heard()
    count = 0

    def enough() -> bool:
        nonlocal count
        count += manager.heard().count("WATCHDOG=1")
        return count >= times

    await until_async(enough, "the watchdog fed")


def test_a_hung_target_does_not_stop_the_watchdogs_food(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LATENESS", 0.3)

    async def scenario() -> None:
        target = MadeTarget("a", reading)
        async with watched(manager, target):
            await until_async(lambda: target.reads > 1, "polls")
            target.gate.clear()
            begun = time.monotonic()
            while time.monotonic() < begun + 1:  # well over timeout and lateness
                await _fed(manager)

    asyncio.run(scenario())


def test_a_poller_that_no_longer_turns_does(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect of ours: a read that does not end at its deadline."""
    monkeypatch.setattr(notify, "LATENESS", 0.3)

    class Deaf(MadeTarget):
        async def read(self) -> Reading:
            self.reads += 1
            while not self.gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.gate.wait()
            return reading()

    async def scenario() -> None:
        target = Deaf("a", reading)
        async with watched(manager, target) as poller:
            await _fed(manager)
            target.gate.clear()
            await until_async(lambda: "stuck" in caplog.text, "said that it is stuck")
            assert "made a" in caplog.text
            manager.heard()
            await asyncio.sleep(0.3)  # more than three times the watchdog's own time
            assert "WATCHDOG=1" not in manager.heard()
            assert list(poller.stuck(time.monotonic())) == ["made a"]
            target.gate.set()
            await _fed(manager)

    asyncio.run(scenario())


def test_a_blocked_loop_does(manager: Manager) -> None:
    release = threading.Event()
    heard: list[str] = []

    def outside() -> None:
        """What the manager hears while the loop is blocked, looked at from another thread."""
        time.sleep(0.1)
        manager.heard()
        time.sleep(0.4)
        heard.extend(manager.heard())
        release.set()

    async def scenario() -> None:
        async with watched(manager, MadeTarget("a", reading)):
            await _fed(manager)
            observer = threading.Thread(target=outside)
            observer.start()
            assert release.wait(10)
            observer.join()
            assert heard == []
            await _fed(manager)

    asyncio.run(scenario())


def test_the_status_is_told_when_it_changes(manager: Manager) -> None:
    state = "starting"

    async def scenario() -> None:
        nonlocal state
        notifier = Notifier(manager.environment(watchdog=0.04))
        task = asyncio.create_task(watch(notifier, lambda _: [], lambda: state))
        told: list[str] = []
        try:
            await _fed(manager)
            state = "all well"
            while "STATUS=all well" not in told:
                await asyncio.sleep(0.01)
                told += manager.heard()
            await _fed(manager)
            assert not [line for line in manager.heard() if line.startswith("STATUS")]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            notifier.close()
            manager.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "environment",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"WATCHDOG_USEC": "1000000"}],
)
def test_without_a_service_manager_nothing_is_said(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    assert notifier.watchdog is None
    notifier.tell("READY=1")
    notifier.close()


def test_a_watchdog_for_another_process_is_not_ours(manager: Manager) -> None:
    environment = manager.environment(watchdog=5)
    with contextlib.closing(Notifier({**environment, "WATCHDOG_PID": "1"})) as notifier:
        assert notifier.watchdog is None
    with contextlib.closing(Notifier(environment)) as notifier:
        assert notifier.watchdog == 5
    with contextlib.closing(Notifier({**environment, "WATCHDOG_USEC": "soon"})) as notifier:
        assert notifier.watchdog is None
    manager.close()


def test_a_manager_that_is_gone_costs_nothing(manager: Manager) -> None:
    with contextlib.closing(Notifier(manager.environment(watchdog=1))) as notifier:
        manager.close()
        Path(manager.path).unlink()
        notifier.tell("WATCHDOG=1")


def test_an_abstract_socket_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0inference-exporter-test")
        with contextlib.closing(
            Notifier({"NOTIFY_SOCKET": "@inference-exporter-test"})
        ) as notifier:
            notifier.tell("READY=1", "STATUS=here")
        assert manager.recv(4096) == b"READY=1\nSTATUS=here"


def test_a_standstill_of_the_machine_is_not_held_against_the_pollers(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a freeze everything is late at once; the pollers have their turn right after us."""
    now, turned, slept = [1000.0], [1000.0], [0]

    class Enough(Exception):
        """Ends the watch."""

    async def sleep(seconds: float) -> None:
        slept[0] += 1
        if slept[0] == 4:
            raise Enough
        frozen = slept[0] == 2
        now[0] += 23.0 if frozen else seconds
        if not frozen:
            turned[0] = now[0]

    monkeypatch.setattr("exporter.notify.time.monotonic", lambda: now[0])
    monkeypatch.setattr("exporter.notify.asyncio.sleep", sleep)
    notifier = Notifier(manager.environment(30))
    with pytest.raises(Enough):
        asyncio.run(watch(notifier, lambda before: ["a"] if turned[0] < before else [], lambda: ""))
    fed = [each for each in manager.heard() if "WATCHDOG=1" in each]
    notifier.close()
    manager.close()
    assert len(fed) == 4, "at every tick, the one right after the freeze included"
