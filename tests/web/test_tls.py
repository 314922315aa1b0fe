"""TLS and users on the real daemon, asked by curl and openssl: what is let in, what is not."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from exporter.errors import ConfigError
from exporter.web import config_reload
from tests.certificates import Pair, authority, fingerprint, fingerprint_of, signed
from tests.daemon import QUICK, Daemon, off, running
from tests.parts import missing
from tests.waiting import until
from tests.web.raw_client import GET, connected
from tests.web.test_abuse import connections

OTHERS = off("gpu", "containers", "triton")
USERS = {"alice": "right", "bob": "other"}


def users(**passwords: str) -> str:
    """The part of the file that names users."""
    lines = (
        f"  {name}: {bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()}\n"
        for name, password in passwords.items()
    )
    return "basic_auth_users:\n" + "".join(lines)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with certificates and a web configuration file."""

    folder: Path
    ca: Pair
    file: Path

    def serve(self, name: str) -> Pair:
        """Put a new certificate in place, as a renewal does: new files over the old."""
        new = signed(self.ca, self.folder / "new", name)
        new.key.replace(self.folder / "server.key")
        new.cert.replace(self.folder / "server.crt")
        return Pair(self.folder / "server.crt", self.folder / "server.key")

    def write(self, text: str) -> None:
        whole = self.folder / "written"
        whole.write_text(text)
        whole.replace(self.file)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path, authority(tmp_path), tmp_path / "web.yml")
    found.serve("first")
    return found


TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"


@pytest.fixture
def daemon(place: Place) -> Iterator[Daemon]:
    place.write(TLS + users(**USERS))
    with running(place.folder, *QUICK, *OTHERS, f"--web.config.file={place.file}") as found:
        yield found


def curl(daemon: Daemon, *arguments: str | Path, path: str = "/metrics") -> tuple[int, str, int]:
    """(curl's exit code, body, HTTP status)."""
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


def test_curl_is_let_in_with_a_password_and_the_authority_alone(
    place: Place, daemon: Daemon
) -> None:
    trusting = ("--cacert", place.ca.cert)
    code, body, status = curl(daemon, *trusting, "--user", "alice:right")
    assert (code, status) == (0, 200), daemon.log_text()
    assert "inference_exporter_" in body
    assert curl(daemon, *trusting, "--user", "bob:other")[2] == 200
    for credentials in ("alice:wrong", "alice:other", "carol:right", ":", "alice:"):
        code, body, status = curl(daemon, *trusting, "--user", credentials)
        assert (code, body, status) == (0, "unauthorized\n", 401), credentials
    for path in ("/", "/-/healthy", "/-/ready", "/-/reload", "/nothing"):
        assert curl(daemon, *trusting, path=path)[2] == 401, "all of it needs a password"
    code, body, _ = curl(daemon, "--user", "alice:right")
    assert code == 60, "an authority that is not known"
    assert "right" not in daemon.log_text()


def test_tls_from_1_2_and_no_plain_http(place: Place, daemon: Daemon) -> None:
    known = ("--cacert", place.ca.cert, "--user", "alice:right")
    for version in ("1.2", "1.3"):
        code, _, status = curl(daemon, *known, f"--tlsv{version}", "--tls-max", version)
        assert (code, status) == (0, 200), version
    code, _, _ = curl(
        daemon, *known, "--tlsv1.1", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"
    )
    assert code == 35, "TLS 1.1 is refused in the handshake"
    code, _, status = curl(daemon, *known, "--http2")
    assert (code, status) == (0, 200), "who prefers HTTP/2 is served HTTP/1.1"
    with pytest.raises((OSError, ValueError)):
        daemon.get("/metrics")


def test_health_paths_are_open_only_if_told_so(place: Place) -> None:
    place.write(TLS + users(**USERS))
    flags = (f"--web.config.file={place.file}", "--web.health-without-credentials")
    with running(place.folder, *QUICK, *OTHERS, *flags) as daemon:
        trusting = ("--cacert", place.ca.cert)
        assert curl(daemon, *trusting, path="/-/healthy") == (0, "OK\n", 200)
        until(lambda: curl(daemon, *trusting, path="/-/ready")[2] == 200)
        for path in ("/metrics", "/", "/-/reload", "/-/healthy/", "/-/healthy/../../metrics"):
            _, _, status = curl(daemon, *trusting, "--path-as-is", path=path)
            assert status == 401, path


@pytest.mark.parametrize(
    ("kind", "without", "stranger", "known"),
    [
        ("NoClientCert", 200, 200, 200),
        ("RequestClientCert", 200, 200, 200),
        ("VerifyClientCertIfGiven", 200, 0, 200),
        ("RequireAndVerifyClientCert", 0, 0, 200),
    ],
)
def test_client_certificates(
    place: Place, kind: str, without: int, stranger: int, known: int
) -> None:
    other = signed(authority(place.folder / "o", "other"), place.folder / "o", "stranger")
    ours = signed(place.ca, place.folder / "c", "client")
    ca = "" if kind in ("NoClientCert", "RequestClientCert") else ", client_ca_file: authority.crt"
    place.write(
        f"tls_server_config: {{cert_file: server.crt, key_file: server.key, "
        f"client_auth_type: {kind}{ca}}}\n"
    )
    with running(place.folder, *QUICK, *OTHERS, f"--web.config.file={place.file}") as daemon:
        trusting = ("--cacert", place.ca.cert)
        assert curl(daemon, *trusting)[2] == without
        assert curl(daemon, *trusting, "--cert", other.cert, "--key", other.key)[2] == stranger
        assert curl(daemon, *trusting, "--cert", ours.cert, "--key", ours.key)[2] == known
        if kind == "RequestClientCert":
            assert (
                "client_auth_type: RequestClientCert is taken as NoClientCert" in daemon.log_text()
            )


def test_client_names(place: Place) -> None:
    good = signed(place.ca, place.folder / "c", "good", "DNS:scraper.example")
    bad = signed(place.ca, place.folder / "c", "bad", "DNS:scraper.example.org")
    place.write(
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_auth_type: "
        "RequireAndVerifyClientCert, client_ca_file: authority.crt, "
        "client_allowed_sans: [scraper.example]}\n"
    )
    with running(place.folder, *QUICK, *OTHERS, f"--web.config.file={place.file}") as daemon:
        for version in ("1.2", "1.3"):
            trusting = ("--cacert", place.ca.cert, "--tls-max", version)
            assert curl(daemon, *trusting, "--cert", good.cert, "--key", good.key)[2] == 200
            assert curl(daemon, *trusting, "--cert", bad.cert, "--key", bad.key)[2] == 0
        assert "without an allowed name" in daemon.log_text()


def test_a_renewed_certificate_is_shown_without_a_restart(place: Place, daemon: Daemon) -> None:
    known = ("--cacert", place.ca.cert, "--user", "alice:right")
    first = fingerprint_of(Pair(place.folder / "server.crt", place.folder / "server.key"))
    assert fingerprint(daemon.port) == first
    renewed = fingerprint_of(place.serve("second"))
    until(lambda: fingerprint(daemon.port) == renewed, "the new certificate")
    assert curl(daemon, *known)[2] == 200
    # A broken one: the old is kept, and the log says so once.
    (place.folder / "server.crt").write_text("nonsense")
    until(lambda: "refused, the old one stays" in _poked(daemon, known), "the complaint")
    for _ in range(3):
        assert fingerprint(daemon.port) == renewed
    assert daemon.log_text().count("refused, the old one stays") == 1
    assert "web.yml: tls_server_config.cert_file: " in daemon.log_text()
    # And mended again.
    mended = fingerprint_of(place.serve("third"))
    until(lambda: fingerprint(daemon.port) == mended, "the mended certificate")


def _poked(daemon: Daemon, known: tuple[str | Path, ...]) -> str:
    """The log, after a request: files are looked at only while somebody asks."""
    curl(daemon, *known)
    return daemon.log_text()


def test_users_are_read_again_but_a_gap_in_the_file_opens_nothing(
    place: Place, daemon: Daemon
) -> None:
    trusting = ("--cacert", place.ca.cert)
    assert curl(daemon, *trusting, "--user", "alice:right")[2] == 200
    place.write(TLS + users(alice="changed"))
    until(lambda: curl(daemon, *trusting, "--user", "alice:changed")[2] == 200, "the new password")
    assert curl(daemon, *trusting, "--user", "alice:right")[2] == 401
    assert curl(daemon, *trusting, "--user", "bob:other")[2] == 401
    for text, gone in (
        ("", "tls_server_config: is gone"),
        (TLS, "basic_auth_users: is gone"),
        (users(alice="changed"), "tls_server_config: is gone"),
        ("]", "not valid YAML"),
    ):
        before = len(daemon.log_text())
        place.write(text)
        until(lambda: gone in _poked(daemon, trusting)[before:], gone)  # noqa: B023 - used at once
        assert curl(daemon, *trusting)[2] == 401
        assert curl(daemon, *trusting, "--user", "alice:changed")[2] == 200
    # A person's word is needed to open it.
    place.write("")
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: 'msg="settings reloaded"' in daemon.log_text(), "reload")
    assert daemon.get("/-/healthy")[0] == 200


def test_a_file_caught_half_written_does_not_let_strangers_in(place: Place) -> None:
    """Valid YAML that ends before client_auth_type: only a person's word may mean that."""
    pair = "tls_server_config: {cert_file: server.crt, key_file: server.key"
    authority_ = place.ca.cert
    place.write(
        f"{pair}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: {authority_}}}\n"
    )
    before = config_reload.load_web_config(str(place.file))
    place.write(f"{pair}}}\n")
    half = config_reload.load_web_config(str(place.file))

    async def scenario() -> None:
        guarded = config_reload.WebConfigReloader(before, str(place.file))
        with pytest.raises(ConfigError, match="client_auth_type: is gone"):
            guarded._take_over(half)
        assert guarded.loaded is before
        guarded.close()

    asyncio.run(scenario())


def test_a_bad_file_is_one_line_and_exit_2_also_for_check(place: Place) -> None:
    place.write(TLS + "basic_auth_users: {alice: secret-in-plain}\n")
    for command in ("serve", "check"):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "exporter", command, "--web.listen-address=127.0.0.1:0"),
                *(*OTHERS, f"--web.config.file={place.file}"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert f"{place.file}: basic_auth_users.alice: is not a bcrypt hash" in line
        assert "secret-in-plain" not in line


def test_check_tells_of_a_good_file(place: Place) -> None:
    place.write(TLS + users(**USERS) + "http_server_config: {http2: true}\n")
    done = subprocess.run(
        [*(sys.executable, "-m", "exporter", "check"), *OTHERS, f"--web.config.file={place.file}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "TLS 1.2 and newer, 2 users" in done.stdout
    assert "http_server_config.http2: not offered" in done.stdout


def test_a_reload_with_a_bad_file_keeps_the_old(place: Place, daemon: Daemon) -> None:
    known = ("--cacert", place.ca.cert, "--user", "alice:right")
    place.write("nonsense: 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "settings refused, the old ones stay" in daemon.log_text(), "refused")
    assert "unknown field `nonsense`" in daemon.log_text()
    assert curl(daemon, *known)[2] == 200


def test_handshakes_that_never_end_are_ended(place: Place) -> None:
    place.write(TLS)
    limits = ("--web.header-timeout=1s", "--web.max-connections=60")
    flags = (f"--web.config.file={place.file}", *limits)
    with running(place.folder, *QUICK, *OTHERS, *flags) as daemon, contextlib.ExitStack() as held:
        for number in range(200):
            connection = held.enter_context(connected(daemon.port))
            # Nothing at all, the beginning of a handshake, or no handshake at all.
            connection.sendall((b"", b"\x16\x03\x01\x02\x00\x01", GET)[number % 3])
        assert curl(daemon, "--cacert", place.ca.cert)[2] == 200, "a good one is served meanwhile"
        until(lambda: connections(daemon) < 20, "the rest is closed", seconds=6)
        assert curl(daemon, "--cacert", place.ca.cert)[2] == 200
        assert "TLS handshakes failed" in daemon.log_text()
