"""TLS and basic authentication of the daemon, tested with curl and openssl."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from exporter.errors import ConfigError
from exporter.web import config_reload
from exporter.web.config_reload import CHECK_INTERVAL
from tests import exporter_process
from tests.certificates import Pair, authority, fingerprint, fingerprint_of, signed
from tests.daemon import QUICK, Daemon, off, running
from tests.parts import missing
from tests.waiting import until
from tests.web.raw_client import GET, connected
from tests.web.test_abuse import open_sockets

OTHERS = off("gpu", "containers", "triton", "joins", "host")
USERS = {"alice": "right", "bob": "other"}


def basic_auth_users(**passwords: str) -> str:
    """Returns the `basic_auth_users` section."""
    lines = (
        f"  {name}: {bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()}\n"
        for name, password in passwords.items()
    )
    return "basic_auth_users:\n" + "".join(lines)


@dataclass(frozen=True, slots=True)
class WebConfigFolder:
    """A folder with a CA, a server certificate and a web configuration file."""

    folder: Path
    ca: Pair
    file: Path

    def renew(self, name: str) -> Pair:
        """Replaces the server certificate and key by new files, as a renewal does."""
        new = signed(self.ca, self.folder / "new", name)
        new.key.replace(self.folder / "server.key")
        new.cert.replace(self.folder / "server.crt")
        return Pair(self.folder / "server.crt", self.folder / "server.key")

    def write(self, text: str) -> None:
        """Replaces the web configuration file atomically."""
        new = self.folder / "new.yml"
        new.write_text(text)
        new.replace(self.file)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> WebConfigFolder:
    """A CA, a server certificate, and client certificates of this CA and of another."""
    folder = tmp_path_factory.mktemp("certificates")
    config = WebConfigFolder(folder, authority(folder), folder / "web.yml")
    config.renew("first")
    signed(authority(folder / "o", "other"), folder / "o", "stranger")
    signed(config.ca, folder / "c", "client")
    return config


@pytest.fixture
def config(certificates: WebConfigFolder, tmp_path: Path) -> WebConfigFolder:
    """A copy of the certificates, which the test may replace."""
    shutil.copytree(certificates.folder, tmp_path, dirs_exist_ok=True)
    ca = Pair(tmp_path / "authority.crt", tmp_path / "authority.key")
    return WebConfigFolder(tmp_path, ca, tmp_path / "web.yml")


TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"


@pytest.fixture
def daemon(config: WebConfigFolder) -> Iterator[Daemon]:
    config.write(TLS + basic_auth_users(**USERS))
    with running(config.folder, *QUICK, *OTHERS, f"--web.config.file={config.file}") as daemon:
        yield daemon


def curl(daemon: Daemon, *arguments: str | Path, path: str = "/metrics") -> tuple[int, str, int]:
    """Returns curl's exit code, the body and the HTTP status."""
    binary = shutil.which("curl") or missing("no curl")
    done = subprocess.run(
        [
            *(binary, "--silent", "--max-time", "10", "--write-out", "\n%{http_code}"),
            *map(str, arguments),
            f"https://localhost:{daemon.port}{path}",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    body, _, status = done.stdout.rpartition("\n")
    return done.returncode, body, int(status)


def test_curl_needs_the_ca_and_a_valid_password(config: WebConfigFolder, daemon: Daemon) -> None:
    trusted = ("--cacert", config.ca.cert)
    code, body, status = curl(daemon, *trusted, "--user", "alice:right")
    assert (code, status) == (0, 200), daemon.log_text()
    assert "inference_exporter_" in body
    assert curl(daemon, *trusted, "--user", "bob:other")[2] == 200
    for credentials in ("alice:wrong", "alice:other", "carol:right", ":", "alice:"):
        code, body, status = curl(daemon, *trusted, "--user", credentials)
        assert (code, body, status) == (0, "unauthorized\n", 401), credentials
    for path in ("/", "/-/healthy", "/-/ready", "/-/reload", "/nothing"):
        assert curl(daemon, *trusted, path=path)[2] == 401, "every path needs a password"
    code, body, _ = curl(daemon, "--user", "alice:right")
    assert code == 60, "an unknown CA"
    assert "right" not in daemon.log_text()


def test_tls_from_1_2_and_no_plain_http(config: WebConfigFolder, daemon: Daemon) -> None:
    credentials = ("--cacert", config.ca.cert, "--user", "alice:right")
    for version in ("1.2", "1.3"):
        code, _, status = curl(daemon, *credentials, f"--tlsv{version}", "--tls-max", version)
        assert (code, status) == (0, 200), version
    code, _, _ = curl(
        daemon, *credentials, "--tlsv1.1", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"
    )
    assert code == 35, "TLS 1.1 is refused in the handshake"
    code, _, status = curl(daemon, *credentials, "--http2")
    assert (code, status) == (0, 200), "a client that prefers HTTP/2 gets HTTP/1.1"
    with pytest.raises((OSError, ValueError)):
        daemon.get("/metrics")


def test_health_without_credentials(config: WebConfigFolder) -> None:
    config.write(TLS + basic_auth_users(**USERS))
    flags = (f"--web.config.file={config.file}", "--web.health-without-credentials")
    with running(config.folder, *QUICK, *OTHERS, *flags) as daemon:
        trusted = ("--cacert", config.ca.cert)
        assert curl(daemon, *trusted, path="/-/healthy") == (0, "OK\n", 200)
        until(lambda: curl(daemon, *trusted, path="/-/ready")[2] == 200)
        for path in ("/metrics", "/", "/-/reload", "/-/healthy/", "/-/healthy/../../metrics"):
            _, _, status = curl(daemon, *trusted, "--path-as-is", path=path)
            assert status == 401, path


@pytest.mark.parametrize(
    ("client_auth_type", "without_cert", "other_ca", "own_ca"),
    [
        ("NoClientCert", 200, 200, 200),
        ("RequestClientCert", 200, 200, 200),
        ("VerifyClientCertIfGiven", 200, 0, 200),
        ("RequireAndVerifyClientCert", 0, 0, 200),
    ],
)
def test_client_certificates(
    config: WebConfigFolder, client_auth_type: str, without_cert: int, other_ca: int, own_ca: int
) -> None:
    other_cert = Pair(config.folder / "o/stranger.crt", config.folder / "o/stranger.key")
    own_cert = Pair(config.folder / "c/client.crt", config.folder / "c/client.key")
    ca = (
        ""
        if client_auth_type in ("NoClientCert", "RequestClientCert")
        else ", client_ca_file: authority.crt"
    )
    config.write(
        f"tls_server_config: {{cert_file: server.crt, key_file: server.key, "
        f"client_auth_type: {client_auth_type}{ca}}}\n"
    )
    with running(config.folder, *QUICK, *OTHERS, f"--web.config.file={config.file}") as daemon:
        trusted = ("--cacert", config.ca.cert)
        assert curl(daemon, *trusted)[2] == without_cert
        assert (
            curl(daemon, *trusted, "--cert", other_cert.cert, "--key", other_cert.key)[2]
            == other_ca
        )
        assert curl(daemon, *trusted, "--cert", own_cert.cert, "--key", own_cert.key)[2] == own_ca
        if client_auth_type == "RequestClientCert":
            assert (
                "client_auth_type: RequestClientCert is treated as NoClientCert"
                in daemon.log_text()
            )


def test_client_allowed_sans(config: WebConfigFolder) -> None:
    allowed = signed(config.ca, config.folder / "c", "allowed", "DNS:scraper.example")
    denied = signed(config.ca, config.folder / "c", "denied", "DNS:scraper.example.org")
    config.write(
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_auth_type: "
        "RequireAndVerifyClientCert, client_ca_file: authority.crt, "
        "client_allowed_sans: [scraper.example]}\n"
    )
    with running(config.folder, *QUICK, *OTHERS, f"--web.config.file={config.file}") as daemon:
        for version in ("1.2", "1.3"):
            trusted = ("--cacert", config.ca.cert, "--tls-max", version)
            assert curl(daemon, *trusted, "--cert", allowed.cert, "--key", allowed.key)[2] == 200
            assert curl(daemon, *trusted, "--cert", denied.cert, "--key", denied.key)[2] == 0
        daemon.until_logged("without an allowed name")


def test_a_renewed_certificate_is_served_without_a_restart(
    config: WebConfigFolder, daemon: Daemon
) -> None:
    credentials = ("--cacert", config.ca.cert, "--user", "alice:right")
    first = fingerprint_of(Pair(config.folder / "server.crt", config.folder / "server.key"))
    assert fingerprint(daemon.port) == first
    renewed = fingerprint_of(config.renew("second"))
    until(lambda: fingerprint(daemon.port) == renewed, "the new certificate")
    assert curl(daemon, *credentials)[2] == 200
    # An invalid certificate: the previous stays in use, and the error is logged once.
    (config.folder / "nonsense").write_text("nonsense")
    (config.folder / "nonsense").replace(config.folder / "server.crt")
    until(
        lambda: (
            "refused, the previous configuration stays" in _log_after_request(daemon, credentials)
        ),
        "the error in the log",
        every=CHECK_INTERVAL / 5,
    )
    for _ in range(3):
        assert fingerprint(daemon.port) == renewed
    assert daemon.log_text().count("refused, the previous configuration stays") == 1
    daemon.until_logged("web.yml: tls_server_config.cert_file: ")
    # A valid certificate again.
    valid = fingerprint_of(config.renew("third"))
    until(lambda: fingerprint(daemon.port) == valid, "the valid certificate")


def _log_after_request(daemon: Daemon, credentials: tuple[str | Path, ...]) -> str:
    """Sends a request, as files are checked only while requests come in; returns the log."""
    curl(daemon, *credentials)
    return daemon.log_text()


def test_users_are_reloaded_but_a_truncated_file_removes_no_protection(
    config: WebConfigFolder, daemon: Daemon
) -> None:
    trusted = ("--cacert", config.ca.cert)
    assert curl(daemon, *trusted, "--user", "alice:right")[2] == 200
    config.write(TLS + basic_auth_users(alice="changed"))
    until(
        lambda: curl(daemon, *trusted, "--user", "alice:changed")[2] == 200,
        "the new password",
        every=CHECK_INTERVAL / 5,
    )
    assert curl(daemon, *trusted, "--user", "alice:right")[2] == 401
    assert curl(daemon, *trusted, "--user", "bob:other")[2] == 401
    for text, error in (
        ("", "tls_server_config: was removed"),
        (TLS, "basic_auth_users: was removed"),
        (basic_auth_users(alice="changed"), "tls_server_config: was removed"),
        ("]", "not valid YAML"),
    ):
        before = len(daemon.log_text())
        config.write(text)
        until(
            lambda: error in _log_after_request(daemon, trusted)[before:],  # noqa: B023 - used at once
            error,
            every=CHECK_INTERVAL / 5,
        )
        assert curl(daemon, *trusted)[2] == 401
        assert curl(daemon, *trusted, "--user", "alice:changed")[2] == 200
    # A reload by an operator removes it.
    config.write("")
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: 'msg="settings reloaded"' in daemon.log_text(), "reload")
    assert daemon.get("/-/healthy")[0] == 200


def test_a_half_written_file_does_not_disable_client_verification(config: WebConfigFolder) -> None:
    """The truncated file is valid YAML without client_auth_type; only a reload may apply that."""
    start = "tls_server_config: {cert_file: server.crt, key_file: server.key"
    ca = config.ca.cert
    config.write(f"{start}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: {ca}}}\n")
    before = config_reload.load_web_config(str(config.file))
    config.write(f"{start}}}\n")
    truncated = config_reload.load_web_config(str(config.file))

    async def scenario() -> None:
        reloader = config_reload.WebConfigReloader(before, str(config.file))
        with pytest.raises(ConfigError, match="client_auth_type: was removed"):
            reloader._apply_changed(truncated)
        assert reloader.loaded is before
        reloader.close()

    asyncio.run(scenario())


def test_an_invalid_file_is_one_line_and_exit_code_2_also_for_check(
    config: WebConfigFolder,
) -> None:
    config.write(TLS + "basic_auth_users: {alice: secret-in-plain}\n")
    for command in ("serve", "check"):
        done = exporter_process.run(
            command,
            "--web.listen-address=127.0.0.1:0",
            *OTHERS,
            f"--web.config.file={config.file}",
        )
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert f"{config.file}: basic_auth_users.alice: is not a bcrypt hash" in line
        assert "secret-in-plain" not in line


def test_check_reports_a_valid_file(config: WebConfigFolder) -> None:
    config.write(TLS + basic_auth_users(**USERS) + "http_server_config: {http2: true}\n")
    done = exporter_process.run("check", *OTHERS, f"--web.config.file={config.file}")
    assert done.returncode == 0, done.stderr
    assert "TLS 1.2 and newer, 2 users" in done.stdout
    assert "http_server_config.http2: not offered" in done.stdout


def test_a_reload_with_an_invalid_file_keeps_the_old_configuration(
    config: WebConfigFolder, daemon: Daemon
) -> None:
    credentials = ("--cacert", config.ca.cert, "--user", "alice:right")
    config.write("nonsense: 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until_logged("settings refused, the old ones stay")
    daemon.until_logged("nonsense: is not a key of the format")
    assert curl(daemon, *credentials)[2] == 200


def test_header_timeout_of_unfinished_handshakes(config: WebConfigFolder) -> None:
    config.write(TLS)
    limits = ("--web.header-timeout=3s", "--web.max-connections=60")
    flags = (f"--web.config.file={config.file}", *limits)
    with running(config.folder, *QUICK, *OTHERS, *flags) as daemon, contextlib.ExitStack() as held:
        for number in range(200):
            connection = held.enter_context(connected(daemon.port))
            # No data, the start of a handshake, or plain HTTP.
            connection.sendall((b"", b"\x16\x03\x01\x02\x00\x01", GET)[number % 3])
        assert curl(daemon, "--cacert", config.ca.cert)[2] == 200, "a valid client gets a response"
        until(lambda: open_sockets(daemon) < 20, "other connections closed", seconds=20)
        assert curl(daemon, "--cacert", config.ca.cert)[2] == 200
        daemon.until_logged("TLS handshakes failed")
