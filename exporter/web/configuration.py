"""The web configuration file, in the format Prometheus' exporters share (exporter-toolkit).

From text to frozen structs, with everything checked that can be without opening another file. A
key of the format that cannot be honoured is refused, or warned of, by its name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from exporter.errors import ConfigError
from exporter.settings import Duration
from exporter.yaml_file import read_yaml

# Headers the format allows, with their possible values where they are few.
HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$([./A-Za-z0-9]{53})\Z")
# 2 to the power of this many rounds. At 16 one comparison takes some 5 s, about what a scrape
# waits; each further step doubles it.
HIGHEST_COST = 16

ClientAuth = Literal[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]


class WebConfigSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the file."""


class TLS(WebConfigSection, frozen=True):
    """`tls_server_config`. Paths are absolute once the file is read."""

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
        """The files it is made of."""
        return tuple(filter(None, (self.cert_file, self.key_file, self.client_ca_file)))


class HTTP(WebConfigSection, frozen=True):
    """`http_server_config`."""

    http2: bool | None = None
    headers: dict[str, str] = {}


class RateLimit(WebConfigSection, frozen=True):
    """`rate_limit`: a bucket of `burst` requests that fills by one each `interval` seconds."""

    interval: Any = 0
    burst: int = 0


class WebConfiguration(WebConfigSection, frozen=True):
    """The file. basic_auth_users: bcrypt hashes by user name."""

    tls_server_config: TLS | None = None
    http_server_config: HTTP = HTTP()
    basic_auth_users: dict[str, str] = {}
    rate_limit: RateLimit | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers every reply carries; a blank one is not set."""
        return {name: value for name, value in self.http_server_config.headers.items() if value}


def read_configuration(file: str) -> WebConfiguration:
    """Read and check the file. Raises ConfigError, which names the key."""
    document = read_yaml(file)
    if document is None:
        document = {}
    if isinstance(document, dict):  # a key without a value is one that is not given
        document = {key: value for key, value in document.items() if value is not None}
    try:
        found = msgspec.convert(document, WebConfiguration)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        # The path may hold what stands in the file; a user's name at most, never a value.
        raise ConfigError(file, path.rstrip("`"), text) from None
    try:
        tls = _tls(found.tls_server_config, Path(file).parent)
        _check_headers(found.http_server_config.headers)
        users = {name: _hash(name, given) for name, given in found.basic_auth_users.items()}
        limit = _rate_limit(found.rate_limit)
    except ConfigError as error:
        raise ConfigError(file, error.key, error.message) from None
    return WebConfiguration(
        tls_server_config=tls,
        http_server_config=found.http_server_config,
        basic_auth_users=users,
        rate_limit=limit,
    )


def _tls(tls: TLS | None, folder: Path) -> TLS | None:
    if tls is None or tls == TLS():
        return None
    for name in ("cert", "key", "client_ca"):
        if getattr(tls, name) and getattr(tls, f"{name}_file"):
            raise _wrong(f"tls_server_config.{name}", f"stands beside {name}_file: give one")
    for name in ("cert", "key"):
        if not (getattr(tls, name) or getattr(tls, f"{name}_file")):
            raise _wrong(f"tls_server_config.{name}_file", "is missing")
    paths = {
        name: str(folder.absolute() / path)
        for name in ("cert_file", "key_file", "client_ca_file")
        if (path := getattr(tls, name))
    }
    return msgspec.structs.replace(tls, **paths)


def _check_headers(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        key = f"http_server_config.headers.{name}"
        if name not in HEADERS:
            raise _wrong(key, f"cannot be set; these can: {', '.join(HEADERS)}")
        if (allowed := HEADERS[name]) and value and value not in allowed:
            raise _wrong(key, f"must be one of: {', '.join(allowed)}")
        if not value.isascii() or not (value.isprintable() or not value):
            raise _wrong(key, "holds a character that a header cannot")


def _hash(user: str, given: str) -> str:
    """The hash as the library takes it; the message never shows it."""
    key = f"basic_auth_users.{user}"
    if ":" in user:
        raise _wrong(key, "a user's name cannot hold a colon in basic authentication")
    match = _BCRYPT.match(given)
    if match is None:
        raise _wrong(key, "is not a bcrypt hash ($2y$…, as `htpasswd -nBC 10 USER` prints)")
    if not 4 <= int(match[1]) <= HIGHEST_COST:
        raise _wrong(key, f"its bcrypt cost must lie between 4 and {HIGHEST_COST}")
    # The salt's last character carries two bits; some tools leave rubbish in the other four.
    letters = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    last = letters[letters.index(match[2][21]) & 0x30]
    return f"{given[:7]}{match[2][:21]}{last}{match[2][22:]}"


def _rate_limit(limit: RateLimit | None) -> RateLimit | None:
    if limit is None or limit.interval in (0, "0", "0s"):
        return None
    if not isinstance(limit.interval, str):
        raise _wrong("rate_limit.interval", "needs a unit, such as 1s")
    try:
        interval = Duration.parse(limit.interval)
    except ValueError as error:
        raise _wrong("rate_limit.interval", str(error)) from None
    if limit.burst < 1:
        raise _wrong("rate_limit.burst", "must be at least 1, or no request is ever answered")
    return RateLimit(interval=interval, burst=limit.burst)


def _wrong(key: str, message: str) -> ConfigError:
    return ConfigError("", key, message)
