"""sd_notify: when WATCHDOG=1 is sent and when not, and STATUS=."""

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
from exporter.notify import Notifier, notify_until_cancelled
from exporter.poll import SourcePoller
from exporter.settings import Duration, SourceSettings
from exporter.store import Store
from tests import virtual_time
from tests.fakes.source import FakeSource, FakeTarget, Thing, render_functions
from tests.waiting import until_async

QUICK = SourceSettings(interval=Duration(0.02), timeout=Duration(0.05))


class Manager:
    """A service manager's notify socket."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def environment(self, watchdog: float) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(int(watchdog * 1e6))}

    def received(self) -> list[str]:
        """Returns the datagrams received since the last call."""
        datagrams = []
        while True:
            try:
                datagrams.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return datagrams

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(tmp_path)


def reading() -> Reading:
    return Reading((Thing(("z", "n"), heat=1),))


@contextlib.asynccontextmanager
async def notifying(manager: Manager, target: FakeTarget) -> AsyncIterator[SourcePoller]:
    """Runs a poller of the target, and the notifications to the manager."""
    notifier = Notifier(manager.environment(watchdog=0.08))
    poller = SourcePoller("fake", FakeSource([target]), QUICK, Store(), render_functions())
    tasks = [
        asyncio.create_task(poller.run()),
        asyncio.create_task(
            notify_until_cancelled(notifier, lambda t: list(poller.late_pollers(t)), lambda: "well")
        ),
    ]
    try:
        yield poller
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        notifier.close()
        manager.close()


async def _keep_alives(manager: Manager, times: int = 3) -> None:
    """Waits for so many further WATCHDOG=1."""
    manager.received()
    count = 0

    def enough() -> bool:
        nonlocal count
        count += manager.received().count("WATCHDOG=1")
        return count >= times

    await until_async(enough, "WATCHDOG=1")


def test_keep_alives_are_sent_while_a_target_hangs(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "MAX_POLLER_DELAY", 0.3)

    async def scenario() -> None:
        target = FakeTarget("a", reading)
        async with notifying(manager, target):
            await until_async(lambda: target.reads > 1, "polls")
            target.gate.clear()
            started = time.monotonic()
            while time.monotonic() < started + 1:  # well over the timeout and MAX_POLLER_DELAY
                await _keep_alives(manager)

    virtual_time.run(scenario())


def test_no_keep_alives_while_a_poller_is_stuck(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug of the exporter: a read that is not cancelled at its deadline."""
    monkeypatch.setattr(notify, "MAX_POLLER_DELAY", 0.3)

    class Uncancellable(FakeTarget):
        async def read(self) -> Reading:
            self.reads += 1
            while not self.gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.gate.wait()
            return reading()

    async def scenario() -> None:
        target = Uncancellable("a", reading)
        async with notifying(manager, target) as poller:
            await _keep_alives(manager)
            target.gate.clear()
            await until_async(lambda: "stuck" in caplog.text, "the log line")
            assert "fake a" in caplog.text
            manager.received()
            await asyncio.sleep(0.3)  # more than three times the watchdog's timeout
            assert "WATCHDOG=1" not in manager.received()
            assert "fake a" in poller.late_pollers(time.monotonic())
            target.gate.set()
            await _keep_alives(manager)

    virtual_time.run(scenario())


def test_no_keep_alives_while_the_event_loop_is_blocked(manager: Manager) -> None:
    release = threading.Event()
    received: list[str] = []

    def observe() -> None:
        """Collects the manager's datagrams in another thread while the loop is blocked."""
        time.sleep(0.1)
        manager.received()
        time.sleep(0.4)
        received.extend(manager.received())
        release.set()

    async def scenario() -> None:
        async with notifying(manager, FakeTarget("a", reading)):
            await _keep_alives(manager)
            observer = threading.Thread(target=observe)
            observer.start()
            assert release.wait(10)
            observer.join()
            assert received == []
            await _keep_alives(manager)

    asyncio.run(scenario())


def test_the_status_is_sent_when_it_changes(manager: Manager) -> None:
    state = "starting"

    async def scenario() -> None:
        nonlocal state
        notifier = Notifier(manager.environment(watchdog=0.04))
        task = asyncio.create_task(notify_until_cancelled(notifier, lambda _: [], lambda: state))
        received: list[str] = []
        try:
            await _keep_alives(manager)
            state = "all well"
            while "STATUS=all well" not in received:
                await asyncio.sleep(0.01)
                received += manager.received()
            await _keep_alives(manager)
            assert not [line for line in manager.received() if line.startswith("STATUS")]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            notifier.close()
            manager.close()

    virtual_time.run(scenario())


@pytest.mark.parametrize(
    "environment",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"WATCHDOG_USEC": "1000000"}],
)
def test_nothing_is_sent_without_a_service_manager(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    assert notifier.watchdog is None
    notifier.send("READY=1")
    notifier.close()


def test_the_watchdog_of_another_pid_is_ignored(manager: Manager) -> None:
    environment = manager.environment(watchdog=5)
    with contextlib.closing(Notifier({**environment, "WATCHDOG_PID": "1"})) as notifier:
        assert notifier.watchdog is None
    with contextlib.closing(Notifier(environment)) as notifier:
        assert notifier.watchdog == 5
    with contextlib.closing(Notifier({**environment, "WATCHDOG_USEC": "soon"})) as notifier:
        assert notifier.watchdog is None
    manager.close()


def test_a_removed_socket_is_ignored(manager: Manager) -> None:
    with contextlib.closing(Notifier(manager.environment(watchdog=1))) as notifier:
        manager.close()
        Path(manager.path).unlink()
        notifier.send("WATCHDOG=1")


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0inference-exporter-test")
        with contextlib.closing(
            Notifier({"NOTIFY_SOCKET": "@inference-exporter-test"})
        ) as notifier:
            notifier.send("READY=1", "STATUS=here")
        assert manager.recv(4096) == b"READY=1\nSTATUS=here"


def test_a_suspended_machine_does_not_make_pollers_late(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a suspension everything is late; the pollers run only after this tick."""
    now, last_poll, slept = [1000.0], [1000.0], [0]

    class Stop(Exception):
        """Ends the notifications."""

    async def sleep(seconds: float) -> None:
        slept[0] += 1
        if slept[0] == 4:
            raise Stop
        suspended = slept[0] == 2
        now[0] += 23.0 if suspended else seconds
        if not suspended:
            last_poll[0] = now[0]

    monkeypatch.setattr("exporter.notify.time.monotonic", lambda: now[0])
    monkeypatch.setattr("exporter.notify.asyncio.sleep", sleep)
    notifier = Notifier(manager.environment(30))
    with pytest.raises(Stop):
        asyncio.run(
            notify_until_cancelled(
                notifier, lambda before: ["a"] if last_poll[0] < before else [], lambda: ""
            )
        )
    keep_alives = [datagram for datagram in manager.received() if "WATCHDOG=1" in datagram]
    notifier.close()
    manager.close()
    assert len(keep_alives) == 4, "at every tick, including the first after the suspension"
