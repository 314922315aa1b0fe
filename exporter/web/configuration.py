"""Parses the web configuration file, in the format of Prometheus' exporters (exporter-toolkit).

Returns frozen structs and checks everything that needs no other file. A key of the format that
cannot be honoured is refused, or logged as a warning, by its name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from exporter.errors import ConfigError
from exporter.settings import Duration
from exporter.yaml_file import read_yaml

# Response headers the format allows, with their possible values; empty: any value.
ALLOWED_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$([./A-Za-z0-9]{53})\Z")
# bcrypt runs 2**cost rounds. At 16 a comparison takes about 5 s, about a scrape's timeout; each
# further step doubles it.
MAX_BCRYPT_COST = 16

ClientAuth = Literal[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]


class WebConfigSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the file's sections; an unknown key is an error."""


class TLSConfig(WebConfigSection, frozen=True):
    """`tls_server_config`. `read_web_config` makes the paths absolute."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: ClientAuth = "NoClientCert"
    client_allowed_sans: tuple[str, ...] | None = None
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the certificate, key and client CA that are set."""
        return tuple(filter(None, (self.cert_file, self.key_file, self.client_ca_file)))


class HTTPConfig(WebConfigSection, frozen=True):
    """`http_server_config`."""

    http2: bool | None = None
    headers: dict[str, str] = {}


class RateLimitConfig(WebConfigSection, frozen=True):
    """`rate_limit`: a token bucket of `burst` requests, refilled by 1 every `interval` seconds."""

    interval: Any = 0
    burst: int = 0


class WebConfiguration(WebConfigSection, frozen=True):
    """The whole file. basic_auth_users: bcrypt hashes by user name."""

    tls_server_config: TLSConfig | None = None
    http_server_config: HTTPConfig = HTTPConfig()
    basic_auth_users: dict[str, str] = {}
    rate_limit: RateLimitConfig | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every response; an empty value leaves the header out."""
        return {name: value for name, value in self.http_server_config.headers.items() if value}


def read_web_config(file: str) -> WebConfiguration:
    """Reads and checks the file. Raises ConfigError, which names the key."""
    document = read_yaml(file)
    if document is None:
        document = {}
    if isinstance(document, dict):  # a key without a value counts as missing
        document = {key: value for key, value in document.items() if value is not None}
    try:
        parsed = msgspec.convert(document, WebConfiguration)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        # The path may contain a user name from the file, never a value.
        raise ConfigError(file, path.rstrip("`"), text) from None
    try:
        tls = _check_tls(parsed.tls_server_config, Path(file).parent)
        _check_headers(parsed.http_server_config.headers)
        users = {name: _check_hash(name, text) for name, text in parsed.basic_auth_users.items()}
        limit = _check_rate_limit(parsed.rate_limit)
    except ConfigError as error:
        raise ConfigError(file, error.key, error.message) from None
    return WebConfiguration(
        tls_server_config=tls,
        http_server_config=parsed.http_server_config,
        basic_auth_users=users,
        rate_limit=limit,
    )


def _check_tls(tls: TLSConfig | None, folder: Path) -> TLSConfig | None:
    """Returns the section with absolute paths; None if it sets nothing. Raises ConfigError."""
    if tls is None or tls == TLSConfig():
        return None
    for name in ("cert", "key", "client_ca"):
        if getattr(tls, name) and getattr(tls, f"{name}_file"):
            raise _invalid(f"tls_server_config.{name}", f"is set beside {name}_file: set only one")
    for name in ("cert", "key"):
        if not (getattr(tls, name) or getattr(tls, f"{name}_file")):
            raise _invalid(f"tls_server_config.{name}_file", "is missing")
    paths = {
        name: str(folder.absolute() / path)
        for name in ("cert_file", "key_file", "client_ca_file")
        if (path := getattr(tls, name))
    }
    return msgspec.structs.replace(tls, **paths)


def _check_headers(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        key = f"http_server_config.headers.{name}"
        if name not in ALLOWED_HEADERS:
            raise _invalid(key, f"cannot be set; allowed: {', '.join(ALLOWED_HEADERS)}")
        if (allowed := ALLOWED_HEADERS[name]) and value and value not in allowed:
            raise _invalid(key, f"must be one of: {', '.join(allowed)}")
        if not value.isascii() or not (value.isprintable() or not value):
            raise _invalid(key, "contains a character that a header cannot contain")


def _check_hash(user: str, text: str) -> str:
    """Returns the hash in the form `bcrypt.checkpw` accepts.

    Raises ConfigError, whose message never contains the hash.
    """
    key = f"basic_auth_users.{user}"
    if ":" in user:
        raise _invalid(key, "basic authentication allows no colon in a user name")
    match = _BCRYPT.match(text)
    if match is None:
        raise _invalid(key, "is not a bcrypt hash ($2y$…, as `htpasswd -nBC 10 USER` prints)")
    if not 4 <= int(match[1]) <= MAX_BCRYPT_COST:
        raise _invalid(key, f"the bcrypt cost must be between 4 and {MAX_BCRYPT_COST}")
    # The salt's last character carries 2 bits; some tools leave garbage in the other 4.
    letters = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    last = letters[letters.index(match[2][21]) & 0x30]
    return f"{text[:7]}{match[2][:21]}{last}{match[2][22:]}"


def _check_rate_limit(limit: RateLimitConfig | None) -> RateLimitConfig | None:
    if limit is None or limit.interval in (0, "0", "0s"):
        return None
    if not isinstance(limit.interval, str):
        raise _invalid("rate_limit.interval", "needs a unit, such as 1s")
    try:
        interval = Duration.parse(limit.interval)
    except ValueError as error:
        raise _invalid("rate_limit.interval", str(error)) from None
    if limit.burst < 1:
        raise _invalid("rate_limit.burst", "must be at least 1; with 0 every request is refused")
    return RateLimitConfig(interval=interval, burst=limit.burst)


def _invalid(key: str, message: str) -> ConfigError:
    return ConfigError("", key, message)
