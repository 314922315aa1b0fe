"""The web configuration file: valid keys, error messages, warnings."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from exporter.errors import ConfigError
from exporter.web.config_reload import load_web_config
from exporter.web.configuration import read_web_config
from exporter.web.rate_limit import MAX_SHARES, SHARE_SECONDS, RateLimiter, SharedRateLimiter
from exporter.web.tls import has_allowed_san
from tests.certificates import Pair, authority, openssl, signed

# From the format's documentation.
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
SECRET = "s3cr3t-text"  # noqa: S105 - must not appear in any message


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """A CA, a server certificate and a client certificate."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = authority(folder)
    return {
        "ca": ca,
        "server": signed(ca, folder, "server"),
        "client": signed(ca, folder, "client", "DNS:scraper.example,URI:spiffe://a/b"),
    }


@pytest.fixture
def folder(tmp_path: Path, certificates: dict[str, Pair]) -> Path:
    """Returns a folder with the certificates as ca.crt, server.crt, client.crt and their keys."""
    for name, pair in certificates.items():
        (tmp_path / f"{name}.crt").write_bytes(pair.cert.read_bytes())
        (tmp_path / f"{name}.key").write_bytes(pair.key.read_bytes())
    return tmp_path


def written(folder: Path, text: str) -> str:
    file = folder / "web.yml"
    file.write_text(text)
    return str(file)


TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key"


def test_every_key_of_the_format(folder: Path) -> None:
    loaded = load_web_config(
        written(
            folder,
            f"""
{TLS},
  client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt,
  client_allowed_sans: [scraper.example], min_version: TLS12, max_version: TLS13,
  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256,
    TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256],
  prefer_server_cipher_suites: false, curve_preferences: [CurveP384]}}
http_server_config:
  http2: false
  headers: {{X-Frame-Options: sameorigin, Strict-Transport-Security: max-age=5,
    X-XSS-Protection: ""}}
basic_auth_users: {{alice: {HASH}}}
rate_limit: {{interval: 100ms, burst: 5}}
""",
        )
    )
    configuration, context = loaded.configuration, loaded.context
    assert loaded.warnings == ()
    assert configuration.basic_auth_users == {"alice": HASH}
    assert configuration.headers == {
        "X-Frame-Options": "sameorigin",
        "Strict-Transport-Security": "max-age=5",
    }
    assert configuration.rate_limit is not None
    assert (configuration.rate_limit.interval, configuration.rate_limit.burst) == (0.1, 5)
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    older = [c["name"] for c in context.get_ciphers() if c["protocol"] == "TLSv1.2"]
    assert older == ["ECDHE-ECDSA-AES256-GCM-SHA384"]
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert len(loaded.stamps) == 4, "the file and the three files it names are checked for changes"
    assert loaded.describe() == "TLS 1.2 and newer, client certificates, 1 user"


def test_an_empty_file_configures_nothing(folder: Path) -> None:
    loaded = load_web_config(written(folder, "basic_auth_users:\nhttp_server_config:\n"))
    assert (loaded.context, loaded.configuration.basic_auth_users) == (None, {})
    assert load_web_config("").configuration == loaded.configuration


def test_inline_pem(folder: Path, certificates: dict[str, Pair]) -> None:
    def block(path: Path) -> str:
        return "|\n" + "".join(f"    {line}\n" for line in path.read_text().splitlines())

    text = (
        "tls_server_config:\n"
        f"  cert: {block(certificates['server'].cert)}  key: {block(certificates['server'].key)}"
        f"  client_ca: {block(certificates['ca'].cert)}"
        "  client_auth_type: VerifyClientCertIfGiven\n"
    )
    loaded = load_web_config(written(folder, text))
    assert loaded.context is not None
    assert loaded.context.verify_mode is ssl.CERT_OPTIONAL
    assert len(loaded.context.get_ca_certs()) == 1
    # No other file on disk contains the inline key.
    assert {path.name for path in folder.iterdir() if "PRIVATE" in path.read_text()} == {
        *("ca.key", "server.key", "client.key", "web.yml")
    }


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("tls_server_config: {cert_file: server.crt}", "tls_server_config.key_file", "is missing"),
        ("tls_server_config: {key_file: server.key}", "tls_server_config.cert_file", "is missing"),
        (
            "tls_server_config: {cert_file: absent.crt, key_file: server.key}",
            "tls_server_config.cert_file",
            "absent.crt: No such file or directory",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: client.key}",
            "tls_server_config.cert_file",
            "KEY_VALUES_MISMATCH",
        ),
        (
            "tls_server_config: {cert_file: web.yml, key_file: server.key}",
            "tls_server_config.cert_file",
            "cannot be loaded",
        ),
        (f"{TLS}, cert: a}}", "tls_server_config.cert", "beside cert_file"),
        (f"{TLS}, min_version: TLS11}}", "tls_server_config.min_version", "TLS12 or TLS13"),
        (f"{TLS}, max_version: SSL3}}", "tls_server_config.max_version", "TLS12 or TLS13"),
        (
            f"{TLS}, min_version: TLS13, max_version: TLS12}}",
            "tls_server_config.min_version",
            "above max_version",
        ),
        (
            f"{TLS}, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]}}",
            "tls_server_config.cipher_suites",
            "TLS_RSA_WITH_RC4_128_SHA is unknown or insecure",
        ),
        (f"{TLS}, curve_preferences: [P1]}}", "tls_server_config.curve_preferences", "P1 is not"),
        (
            f"{TLS}, client_auth_type: RequireAnyClientCert}}",
            "tls_server_config.client_auth_type",
            "cannot be honoured",
        ),
        (f"{TLS}, client_auth_type: Maybe}}", "tls_server_config.client_auth_type", "one of: "),
        (f"{TLS}, client_ca_file: ca.crt}}", "tls_server_config.client_auth_type", "is required"),
        (
            f"{TLS}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: no.crt}}",
            "tls_server_config.client_ca_file",
            "no.crt: No such file",
        ),
        (
            f"{TLS}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: server.key}}",
            "tls_server_config.client_ca_file",
            "no certificate",
        ),
        (
            f"{TLS}, client_auth_type: VerifyClientCertIfGiven, client_allowed_sans: [a]}}",
            "tls_server_config.client_allowed_sans",
            "requires client_auth_type",
        ),
        (f"{TLS}, clients: x}}", "tls_server_config.clients", "not a key of the format"),
        ("basic_auth: {a: b}", "basic_auth", "not a key of the format"),
        (f"basic_auth_users: {{bob: {SECRET}}}", "basic_auth_users.bob", "not a bcrypt hash"),
        (
            "basic_auth_users: {bob: " + HASH.replace("$10$", "$31$") + "}",
            "basic_auth_users.bob",
            "cost must be between 4 and 16",
        ),
        (f"basic_auth_users: {{'a:b': {HASH}}}", "basic_auth_users.a:b", "colon"),
        ("basic_auth_users: {bob: 5}", "basic_auth_users.bob", "not a bcrypt hash"),
        ("basic_auth_users: {bob: }", "basic_auth_users.bob", "not a bcrypt hash"),
        ("basic_auth_users: {bob: [x]}", "basic_auth_users.bob", "single value, not a list"),
        ("basic_auth_users: ''", "basic_auth_users", "must be a mapping"),
        ("tls_server_config: []", "tls_server_config", "must be a mapping"),
        (f"{TLS}, client_allowed_sans: ''}}", "tls_server_config.client_allowed_sans", "is empty"),
        (
            "tls_server_config: {client_allowed_sans: [a]}",
            "tls_server_config.client_allowed_sans",
            "requires client_auth_type",
        ),
        (
            "tls_server_config: {client_auth_type: NoClientCert}",
            "tls_server_config.cert_file",
            "is missing",
        ),
        (f"{TLS}, cipher_suites: {{}}}}", "tls_server_config.cipher_suites", "must be a list"),
        (f"{TLS}, cert: [x]}}", "tls_server_config.cert", "a single value, not a list"),
        (
            "a: &a {}\nbasic_auth_users: {x: y}",
            "a",
            "not a key of the format",
        ),
        (
            f"basic_auth_users: {{bob: {HASH}, <<: {{bob: {HASH}}}}}",
            "basic_auth_users.bob",
            "is set twice, once by a merge key",
        ),
        (
            "http_server_config: {headers: {Server: x}}",
            "http_server_config.headers.Server",
            "cannot",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: allow}}",
            "http_server_config.headers.X-Frame-Options",
            "must be one of: deny, sameorigin",
        ),
        (
            'http_server_config: {headers: {X-XSS-Protection: "a\\r\\nSet-Cookie: b"}}',
            "http_server_config.headers.X-XSS-Protection",
            "cannot",
        ),
        ("http_server_config: {http2: maybe}", "http_server_config.http2", "'maybe' is not true"),
        ("rate_limit: {interval: 5, burst: 1}", "rate_limit.interval", "unit"),
        ("rate_limit: {interval: x, burst: 1}", "rate_limit.interval", "not a duration"),
        ("rate_limit: {interval: 1d, burst: 1}", "rate_limit.interval", "not a duration"),
        ("rate_limit: {interval: -1s, burst: 1}", "rate_limit.interval", "is negative"),
        ("rate_limit: {interval: 1s, burst: x}", "rate_limit.burst", "'x' is not a whole number"),
        ("rate_limit: {interval: 1s}", "rate_limit.burst", "at least 1"),
        ("[1, 2]", "", "must be a mapping"),
        ("a: [", "", "is not valid YAML"),
        (f"basic_auth_users: {{a: {HASH}, a: {HASH}}}", "", "duplicate key"),
    ],
)
def test_an_error_is_one_line_with_file_and_key(
    folder: Path, text: str, key: str, message: str
) -> None:
    file = written(folder, text)
    with pytest.raises(ConfigError) as raised:
        load_web_config(file)
    line = str(raised.value)
    assert line.startswith(f"{file}: {key}")
    assert message in line
    assert "\n" not in line
    assert SECRET not in line


@pytest.mark.parametrize("key", ["cert_file", "key_file", "client_ca_file"])
def test_a_pipe_is_refused_and_not_waited_for(folder: Path, key: str) -> None:
    os.mkfifo(folder / "pipe")
    files = {"cert_file": "server.crt", "key_file": "server.key", "client_ca_file": "ca.crt"}
    keys = ", ".join(f"{name}: {path}" for name, path in {**files, key: "pipe"}.items())
    text = f"tls_server_config: {{{keys}, client_auth_type: RequireAndVerifyClientCert}}"
    with pytest.raises(ConfigError, match=f"{key}: .*pipe: is not a regular file"):
        load_web_config(written(folder, text))


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("http_server_config: {http2: true}", "http_server_config.http2: not offered"),
        (f"{TLS}, client_auth_type: RequestClientCert}}", "client_auth_type: RequestClientCert is"),
        (f"{TLS}, curve_preferences: [X25519, CurveP256]}}", "curve_preferences: not honoured"),
        (f"{TLS}, cipher_suites: [TLS_AES_128_GCM_SHA256]}}", "cipher_suites: all TLS 1.3"),
    ],
)
def test_a_key_that_is_not_honoured_gets_a_warning(folder: Path, text: str, warning: str) -> None:
    (line,) = load_web_config(written(folder, text)).warnings
    assert warning in line


def test_tls_13_suites_only_require_tls_13(folder: Path) -> None:
    loaded = load_web_config(written(folder, f"{TLS}, cipher_suites: [TLS_AES_128_GCM_SHA256]}}"))
    assert loaded.context is not None
    assert loaded.context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_a_key_with_a_pass_phrase_is_refused_without_a_prompt(folder: Path) -> None:
    openssl(
        "ec", "-in", folder / "server.key", "-aes256", "-passout", "pass:x", "-out", folder / "e"
    )
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_web_config(written(folder, "tls_server_config: {cert_file: server.crt, key_file: e}"))


def test_allowed_sans_match_exactly_and_of_every_type(folder: Path) -> None:
    def tls(*names: str) -> bool:
        sans = ", ".join(names)
        configuration = read_web_config(
            written(
                folder,
                f"{TLS}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt, "
                f"client_allowed_sans: [{sans}]}}",
            )
        )
        assert configuration.tls_server_config is not None
        return has_allowed_san(
            configuration.tls_server_config,
            {
                "subjectAltName": (
                    ("DNS", "a.example"),
                    ("URI", "spiffe://a/b"),
                    ("IP Address", "::1"),
                )
            },
        )

    assert tls("a.example")
    assert tls("b", "'spiffe://a/b'")
    assert tls("'::1'")
    assert not tls("example")
    assert not tls()


def test_token_bucket_allows_a_burst_and_then_a_request_per_interval() -> None:
    now = [0.0]
    bucket = RateLimiter(2.0, 3, clock=lambda: now[0])
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]
    now[0] = 1.9
    assert not bucket.take()
    now[0] = 2.1
    assert [bucket.take(), bucket.take()] == [True, False]
    now[0] = 1000
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_the_shares_of_a_rate() -> None:
    now = [0.0]
    bucket = SharedRateLimiter(10, clock=lambda: now[0])

    def taken(client: str, times: int) -> int:
        return sum(bucket.take(client) for _ in range(times))

    assert taken("flood", 100) == 11, "all, and the first of a new client"
    assert taken("other", 100) == 1, "the first of a new client"
    now[0] += 1
    assert taken("flood", 100) == 5
    assert taken("other", 3) == 3
    now[0] += 0.5
    assert taken("flood", 100) == 2, "of 2.5"
    steps = 0
    for _ in range(10):
        now[0] += 0.1
        steps += taken("flood", 1)
    assert 8 <= steps <= 10, "what no longer fits into the other's share, too"
    assert taken("other", 100) == 5
    now[0] += SHARE_SECONDS + 1
    assert taken("flood", 100) == 11, "the others have sent nothing for long"
    now[0] += SHARE_SECONDS + 1
    assert sum(bucket.take(str(number)) for number in range(1000)) <= 10 + MAX_SHARES
