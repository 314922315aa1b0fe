"""No call blocks the event loop: the whole daemon runs in this process under blockbuster."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from aiohttp import ClientSession, TCPConnector
from blockbuster import BlockingError, blockbuster_ctx

from exporter.app import App
from exporter.config import load
from tests.certificates import authority, signed
from tests.waiting import until_async, until_result


def in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.fixture
def blocking_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Raises BlockingError on a blocking call in the loop; yields the list of those calls.

    The list is needed because the daemon survives the exception. blockbuster covers sockets, files,
    sleep, locks and subprocesses; the system calls that read kernel files are added here.
    """
    calls: list[str] = []

    def guard(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **options: Any) -> Any:
            if in_loop():
                calls.append(name)
                raise BlockingError(name)
            return call(*arguments, **options)

        return guarded

    for name in ("pread", "preadv", "open", "listdir", "scandir", "stat", "readlink", "statvfs"):
        monkeypatch.setattr(os, name, guard(name, getattr(os, name)))
    # Long computations, and C code that reads files.
    monkeypatch.setattr(bcrypt, "checkpw", guard("checkpw", bcrypt.checkpw))
    for name in ("load_cert_chain", "load_verify_locations"):
        guarded_method = guard(name, getattr(ssl.SSLContext, name))
        monkeypatch.setattr(ssl.SSLContext, name, guarded_method)
    with blockbuster_ctx():
        yield calls


def test_blocking_calls_are_detected(blocking_calls: list[str]) -> None:
    async def reads_a_kernel_file() -> None:
        descriptor = 0
        with pytest.raises(BlockingError):
            os.pread(descriptor, 1, 0)
        with pytest.raises(BlockingError):
            Path("/proc/loadavg").read_text()  # noqa: ASYNC240 - the point

    asyncio.run(reads_a_kernel_file())
    assert blocking_calls


class _RecordList(logging.Handler):
    """Keeps log records without formatting them: formatting reads files."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def log_records() -> Iterator[list[logging.LogRecord]]:
    """Yields the daemon's log records, which do not reach pytest's own handlers."""
    log, handler = logging.getLogger("exporter"), _RecordList()
    log.addHandler(handler)
    log.propagate = False
    yield handler.records
    log.removeHandler(handler)
    log.propagate = True


def test_the_daemon_never_blocks_the_loop(
    blocking_calls: list[str], log_records: list[logging.LogRecord]
) -> None:
    flags = {
        f"{name}.interval": ["50ms"] for name in ("gpu", "containers", "triton", "host", "itself")
    }
    flags["web.listen_address"] = ["127.0.0.1:0"]
    settings = load(None, {}, flags)

    async def scenario() -> None:
        app = App(settings)
        await app.start()
        try:
            await until_async(lambda: app.ready, "the first polls", seconds=30)
            generation = max(app.store.generations().values())
            await until_async(
                lambda: max(app.store.generations().values()) > generation + 20,
                "20 more generations",
                seconds=60,
            )
            port = app.addresses[0][1]
            async with ClientSession() as session:
                for accept in ("text/plain", "application/openmetrics-text"):
                    url = f"http://127.0.0.1:{port}/metrics"
                    async with session.get(url, headers={"Accept": accept}) as reply:
                        assert reply.status == 200
                        assert "host_load1" in await reply.text()
                async with session.get(f"http://127.0.0.1:{port}/") as reply:
                    assert reply.status == 200
        finally:
            await app.close()

    asyncio.run(scenario())
    assert blocking_calls == [], [record.getMessage() for record in log_records]
    assert [r.getMessage() for r in log_records if "Blocking" in r.getMessage()] == []


@pytest.mark.usefixtures("restored_log")
def test_tls_users_and_sockets_never_block_the_loop(
    tmp_path: Path, blocking_calls: list[str], log_records: list[logging.LogRecord]
) -> None:
    ca = authority(tmp_path)
    signed(ca, tmp_path, "server")
    file = tmp_path / "web.yml"
    file.write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"
        f"basic_auth_users: {{a: {bcrypt.hashpw(b'right', bcrypt.gensalt(8)).decode()}}}\n"
    )
    flags = {f"{name}.enabled": ["off"] for name in ("gpu", "containers", "triton")}
    flags["web.listen_address"] = ["127.0.0.1:0", f"unix:{tmp_path}/page.sock"]
    flags["web.config_file"] = [str(file)]
    settings = load(None, {}, flags)
    context = ssl.create_default_context(cafile=str(ca.cert))
    good, bad = (f"Basic {b64encode(text).decode()}" for text in (b"a:right", b"a:wrong"))

    async def status(port: int, credentials: str) -> int:
        connector = TCPConnector(ssl=context)
        async with (
            ClientSession(connector=connector, headers={"Authorization": credentials}) as session,
            session.get(f"https://localhost:{port}/metrics") as reply,
        ):
            return reply.status

    async def scenario() -> None:
        app = App(settings)
        await app.start()
        try:
            await until_async(lambda: app.ready, "the first polls", seconds=30)
            port = app.addresses[0][1]
            assert await status(port, good) == 200
            assert await status(port, bad) == 401
            protection = app._web_server._reloader
            assert protection is not None
            before = protection.loaded
            await asyncio.to_thread(signed, ca, tmp_path, "server")  # a renewed certificate
            # Files are checked once a second, on requests.
            await until_result(
                lambda: status(port, good),
                lambda code: code != 200 or protection.loaded is not before,
                seconds=30,
            )
            assert await status(port, good) == 200
            assert protection.loaded is not before, [r.getMessage() for r in log_records]
            await app.reload()
            assert await status(port, good) == 200
        finally:
            await app.close()

    asyncio.run(scenario())
    assert blocking_calls == [], [record.getMessage() for record in log_records]
    assert [r.getMessage() for r in log_records if "Blocking" in r.getMessage()] == []
