"""The source's settings, and the discovery of the engine's socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

from exporter.errors import Forbidden, NotFound
from exporter.settings import Paths
from exporter.sources.containers import settings as settings_module
from exporter.sources.containers.engine.api_types import parse_timestamp
from exporter.sources.containers.engine.status_text import may_have_restarted
from exporter.sources.containers.settings import Settings
from exporter.sources.containers.source import ContainersSource


@pytest.mark.parametrize(
    "host",
    [
        "tcp://user:s3cret@host:port",
        "tcp://user:s3cret@host:99999",
        "tcp://user:s3cret/s3cret@host:2375",
        "tcp://user:2375/s3cret@host",
        "tcp://user:2375?s3cret@host",
        "tcp://user:s3cret@",
        "ssh://user:s3cret@host",
        "unix://user:s3cret@host",
        "user:s3cret@host:2375",
        "tcp://user:s3cret@[host:2375",
    ],
)
def test_a_password_is_not_in_the_error(host: str) -> None:
    with pytest.raises(ValueError, match=r"^docker_host: '") as caught:
        Settings(docker_host=host)
    assert "s3cret" not in str(caught.value)


def test_a_user_and_password_are_not_in_the_address() -> None:
    settings = Settings(docker_host="tcp://user:s3cret@host:2375")
    assert settings.base_url == "tcp://host:2375"
    settings = Settings(docker_host="unix:///run/user@1000/docker.sock")
    assert settings.socket == "/run/user@1000/docker.sock"


@pytest.mark.parametrize(
    "host",
    [
        *("ftp://host", "docker", "/var/run/docker.sock", "ssh://host", "npipe:////./pipe/x"),
        *("unix://", "unix:///", "tcp://", "tcp://:2375", "tcp://host:port", "tcp://host:99999"),
        *("tcp://host:0", "tcp://[::1"),
    ],
)
def test_an_impossible_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"\Adocker_host: "):
        Settings(docker_host=host)
    with pytest.raises(msgspec.ValidationError, match="docker_host: "):
        msgspec.convert({"docker_host": host}, Settings)


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("", False, "unix:///var/run/docker.sock"),
        ("unix:///run/user/1000/docker.sock", True, "unix:///run/user/1000/docker.sock"),
        ("unix://run/podman.sock", False, "unix:///run/podman.sock"),
        ("tcp://host", False, "tcp://host:2375"),
        ("tcp://host", True, "tcp://host:2376"),
        ("tcp://[::1]:7", False, "tcp://[::1]:7"),
        ("https://host:7/base", False, "tcp://host:7/base"),
    ],
)
def test_the_address_of_the_engine(host: str, tls: bool, url: str) -> None:
    settings = Settings(docker_host=host, docker_tls_verify=tls)
    assert settings.base_url == url
    assert settings.tls is (settings.socket is None and (tls or host.startswith("https")))


@pytest.mark.parametrize(
    "host",
    [
        *("tcp://user:sekret@127.0.0.1:x", "tcp://user:sek/sekret@h:1", "ssh://user:sekret@host"),
        *("http://:sekret@:99", "unix://user:sekret@", "unix://user:sekret@/run/s"),
        *("tcp://h:0?token=sekret", "tcp://h:0#sekret", "tcp://user:sekret@h:99999"),
    ],
)
def test_no_message_contains_the_password_of_the_host(host: str) -> None:
    with pytest.raises(ValueError, match="docker_host: ") as caught:
        Settings(docker_host=host)
    assert "sek" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_address_has_no_password() -> None:
    settings = Settings(docker_host="tcp://user:sekret@10.0.0.1:2375/x?token=sekret")
    assert settings.base_url == "tcp://10.0.0.1:2375/x"


def test_dockers_own_variables_are_declared() -> None:
    hints = get_type_hints(Settings, include_extras=True)
    for name in ("docker_host", "docker_tls_verify", "docker_cert_path"):
        assert hints[name].__metadata__[0].extra == {"env": [name.upper()]}


def discover(settings: Settings) -> list[str]:
    async def run() -> list[str]:
        source = ContainersSource(settings, Paths())
        try:
            return [target.name for target in await source.discover()]
        finally:
            await source.close()

    return asyncio.run(run())


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the default socket during a test; `cri.sock` and `podman.sock` are beside it."""
    path = tmp_path / "docker.sock"
    monkeypatch.setattr(settings_module, "DOCKER_SOCKETS", (str(path), "{runtime_dir}/docker.sock"))
    monkeypatch.setattr(settings_module, "CRI_SOCKETS", (str(tmp_path / "cri.sock"),))
    monkeypatch.setattr(settings_module, "PODMAN_SOCKETS", (str(tmp_path / "podman.sock"),))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    return path


@pytest.fixture
def listening(default: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(default))
        yield default


@pytest.mark.usefixtures("default")
def test_without_a_socket_the_engine_is_not_found() -> None:
    with pytest.raises(NotFound, match=r"docker\.sock") as caught:
        discover(Settings())
    assert "is Docker installed" in caught.value.remedy
    assert "DOCKER_HOST" in caught.value.remedy


def test_a_folder_at_the_sockets_path_is_not_found(default: Path) -> None:
    default.mkdir()  # Docker creates a folder for a bind mount with a missing source
    with pytest.raises(NotFound, match="is not a socket"):
        discover(Settings())


def test_a_rootless_engine_is_found_without_a_system_engine(default: Path, tmp_path: Path) -> None:
    rootless = tmp_path / "runtime" / "docker.sock"
    rootless.parent.mkdir()

    async def address() -> str:
        source = ContainersSource(Settings(docker_host=""), Paths())
        try:
            await source.discover()
            assert source._engine is not None
            return source._engine._address
        finally:
            await source.close()

    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as system:
        server.bind(str(rootless))
        assert asyncio.run(address()) == f"unix://{rootless}"
        system.bind(str(default))
        assert asyncio.run(address()) == f"unix://{default}"


def engine_of(settings: Settings) -> str:
    """Returns the address of the engine that is chosen, with `cri` for the CRI."""

    async def run() -> str:
        source = ContainersSource(settings, Paths())
        try:
            await source.discover()
            assert source._engine is not None
            api = "cri" if source._engine.is_cri else "docker"
            return f"{api} {source._engine._address}"
        finally:
            await source.close()

    return asyncio.run(run())


@pytest.mark.usefixtures("default")
def test_the_engine_is_chosen_by_the_sockets_that_exist(tmp_path: Path) -> None:
    docker, cri, podman = (f"{tmp_path}/{name}.sock" for name in ("docker", "cri", "podman"))
    with contextlib.ExitStack() as stack:

        def listen(path: str) -> None:
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(path)

        listen(podman)
        assert engine_of(Settings()) == f"docker unix://{podman}"
        with pytest.raises(NotFound, match=r"cri\.sock") as caught:
            engine_of(Settings(engine="cri"))
        assert "is containerd or CRI-O running" in caught.value.remedy
        listen(cri)
        assert engine_of(Settings()) == f"cri unix://{cri}", "a Kubernetes node has Podman, too"
        assert engine_of(Settings(engine="docker")) == f"docker unix://{podman}"
        listen(docker)
        assert engine_of(Settings()) == f"docker unix://{docker}", "Docker has a containerd, too"
        assert engine_of(Settings(engine="cri")) == f"cri unix://{cri}"
        other = f"{tmp_path}/other.sock"
        listen(other)
        for endpoint in (other, f"unix://{other}"):
            assert engine_of(Settings(cri_endpoint=endpoint)) == f"cri unix://{other}"
        both = Settings(docker_host=f"unix://{docker}", cri_endpoint=other)
        assert engine_of(both) == f"cri unix://{other}", "the endpoint is more specific"
        by_docker = Settings(engine="docker", cri_endpoint=other)
        assert engine_of(by_docker) == f"docker unix://{docker}"
        host_only = Settings(docker_host=f"unix://{podman}")
        assert engine_of(host_only) == f"docker unix://{podman}"


@pytest.mark.parametrize("endpoint", ["tcp://1.2.3.4:5", "unix://", "unix://relative", "http:/x"])
def test_an_endpoint_is_a_unix_socket(endpoint: str) -> None:
    with pytest.raises(ValueError, match="cri_endpoint"):
        Settings(cri_endpoint=endpoint)


def test_a_configured_engine_is_wanted(tmp_path: Path) -> None:
    targets = ["engine", "resources"]
    assert discover(Settings(docker_host=f"unix://{tmp_path}/missing.sock")) == targets
    assert discover(Settings(docker_host="tcp://192.0.2.1:2375")) == targets


def test_the_targets_stay_after_the_first_discovery(listening: Path) -> None:
    async def run() -> None:
        source = ContainersSource(Settings(), Paths())
        first = await source.discover()
        listening.unlink()  # noqa: ASYNC240 - nothing else runs in this loop
        assert [*await source.discover()] == [*first]
        await source.close()

    asyncio.run(run())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_without_permission_the_remedy_names_the_group(listening: Path) -> None:
    listening.chmod(0o600)
    for folder in (listening.parent, *listening.parent.parents[:2]):
        if folder.stat().st_mode & 0o005 != 0o005:  # folders created by the tests
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(Forbidden) as caught:
            discover(Settings())
    finally:
        os.seteuid(0)
    assert "group" in caught.value.remedy
    assert "root on this host" in caught.value.remedy


@pytest.mark.parametrize(
    ("before", "now", "elapsed", "expected"),
    [
        ("Up 2 hours", "Up 2 hours", 60, False),
        ("Up 2 hours", "Up 3 hours", 60, False),
        ("Up 59 minutes", "Up About an hour", 60, False),
        ("Up 20 hours", "Up 2 days", 60, False),
        ("Up 2 hours (healthy)", "Up 2 hours (unhealthy)", 60, False),
        ("Up 3 seconds", "Up 8 seconds", 5, False),
        ("Up 3 seconds", "Up 8 seconds", 8, True),
        ("Up 2 seconds", "Up 2 seconds", 4, True),
        ("Up Less than a second", "Up Less than a second", 0.1, True),
        ("Up 2 hours", "Up 2 minutes", 60, True),
        ("Up 3 days", "Up Less than a second", 60, True),
        ("Up 2 hours", "Up 2 hours", 6000, True),
        ("Up 2 weeks", "Restarting (1) 3 seconds ago", 60, True),
        ("Exited (0) 2 hours ago", "Exited (0) 2 hours ago", 60, False),
        ("something else", "Up 1 second", 60, True),
    ],
)
def test_a_restart_by_the_status_text(
    before: str, now: str, elapsed: float, expected: bool
) -> None:
    assert may_have_restarted(before, now, elapsed) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("2026-11-21T02:04:01.416539161+01:00", 1_795_223_041.416539),
        ("0001-01-01T00:00:00Z", None),
        ("2026-11-21T02:04:01", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_timestamps(text: str, expected: float | None) -> None:
    assert parse_timestamp(text) == (
        None if expected is None else pytest.approx(expected, abs=1e-6)
    )
