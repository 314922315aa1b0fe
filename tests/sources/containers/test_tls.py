"""An engine behind TLS, with generated certificates: API calls and event stream."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
from pathlib import Path

import pytest

from exporter.errors import SourceError, Unreachable
from exporter.settings import Paths
from tests.certificates import authority, signed
from tests.fakes.container_engine import FakeEngine
from tests.ports import free_port
from tests.sources.containers.dockerd import Dockerd
from tests.sources.containers.polling import polled

NOWHERE = Paths(sysfs="/nonexistent", procfs="/nonexistent")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of DOCKER_CERT_PATH (ca.pem, cert.pem, key.pem), with the server's certificate."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = authority(folder, "ca")
    client = signed(ca, folder, "client", "IP:127.0.0.1")
    client.cert.rename(folder / "cert.pem")
    client.key.rename(folder / "key.pem")
    server = signed(ca, folder, "server", "IP:127.0.0.1")
    server.cert.rename(folder / "server.pem")
    server.key.rename(folder / "server-key.pem")
    ca.cert.rename(folder / "ca.pem")
    return folder


def server_context(folder: Path) -> ssl.SSLContext:
    """Returns the server's context: it requires a client certificate, as dockerd --tlsverify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_calls_and_events_use_tls(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Settings for other programs: requests would prefer them to the engine's own.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority(tmp_path, "other").cert))
    fake = FakeEngine()
    fake.offer_events()

    async def run(address: str) -> None:
        async with polled(
            address, NOWHERE, docker_tls_verify=True, docker_cert_path=str(folder)
        ) as source:
            end = time.monotonic() + 30
            while not source.has_events:
                assert set(await source.poll()) == {"c1", "c2"}
                assert time.monotonic() < end
            await source.engine.read()
            fake.set_containers(1, 2, 3)
            fake.send_event("start", 3)
            await source.until_listed(lambda rows: "c3" in rows)

    with fake.serving_tls(server_context(folder)) as address:
        asyncio.run(run(address))


class Secured(Dockerd):
    """A dockerd that also listens on TCP and requires client certificates."""

    def __init__(self, certificates: Path) -> None:
        super().__init__()
        self._certificates = certificates
        self.address = f"tcp://127.0.0.1:{free_port()}"

    def _command(self) -> tuple[str, ...]:
        folder = self._certificates
        return (
            *(*super()._command(), "-H", self.address, "--tlsverify"),
            *("--tlscacert", str(folder / "ca.pem"), "--tlscert", str(folder / "server.pem")),
            *("--tlskey", str(folder / "server-key.pem")),
        )


@pytest.mark.real
def test_a_real_engine_behind_tls(folder: Path) -> None:
    """Configured like Docker's own tools, by three variables."""

    async def run(engine: Secured) -> None:
        async with polled(
            engine.address, docker_tls_verify=True, docker_cert_path=str(folder)
        ) as source:
            await source.until_listed(lambda _: source.has_events)
            engine.run("secured", ("sleep", "1000000"), mem_limit=64 << 20)
            rows = await source.until_listed(lambda rows: "secured" in rows)
            assert rows["secured"].memory_limit == 64 << 20
        async with polled(engine.address) as unauthenticated:
            with pytest.raises(SourceError):
                await unauthenticated.engine.read()

    with Secured(folder) as engine:
        asyncio.run(run(engine))


@pytest.mark.parametrize("fault", ["authority", "no certificate", "no files"])
def test_certificate_errors_have_a_remedy(folder: Path, tmp_path: Path, fault: str) -> None:
    fake = FakeEngine()
    if fault == "authority":  # the engine's certificate is signed by another CA
        authority(tmp_path, "ca").cert.rename(tmp_path / "ca.pem")
        for name in ("cert.pem", "key.pem"):
            shutil.copy(folder / name, tmp_path)
    elif fault == "no certificate":
        shutil.copy(folder / "ca.pem", tmp_path)

    async def run(address: str) -> None:
        async with polled(
            address, NOWHERE, docker_tls_verify=True, docker_cert_path=str(tmp_path)
        ) as source:
            with pytest.raises(Unreachable) as caught:
                await source.engine.read()
            assert caught.value.message
            if fault != "no certificate":
                assert "DOCKER_CERT_PATH" in caught.value.remedy

    with fake.serving_tls(server_context(folder)) as address:
        asyncio.run(run(address))
