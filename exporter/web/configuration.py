"""Parses the web configuration file, in the format of Prometheus' exporters (exporter-toolkit).

Returns frozen structs and checks everything that needs no other file. A key of the format that
cannot be honoured is refused, or logged as a warning, by its name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec

from exporter.errors import ConfigError
from exporter.setting_values import convert
from exporter.yaml_file import read_yaml
from exporter.yaml_mapping import Mapping

# Response headers the format allows, with their possible values; empty: any value.
ALLOWED_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}

# As Go's bcrypt reads a hash: any of the variants, and what follows the hash is ignored.
_BCRYPT = re.compile(r"\$2([abxy]?)\$(\d\d)\$([./A-Za-z0-9]{53})")
# bcrypt runs 2**cost rounds. At 16 a comparison takes about 5 s, about a scrape's timeout; each
# further step doubles it.
MAX_BCRYPT_COST = 16

# Go's time.ParseDuration.
_GO_DURATION = re.compile(r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+\Z", re.ASCII)
_GO_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_MAX_DURATION_LENGTH = 100
_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}

ClientAuth = Literal[
    "",
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]


class WebConfigSection(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the file's sections."""


S = TypeVar("S", bound=WebConfigSection)


class TLSConfig(WebConfigSection, frozen=True):
    """`tls_server_config`. `read_web_config` makes the paths absolute."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: ClientAuth = ""
    client_allowed_sans: tuple[str, ...] | None = None
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()

    @property
    def enabled(self) -> bool:
        """Whether TLS is served: a certificate, a key, a client CA or their use is configured."""
        inline = self.cert or self.key or self.client_ca
        return bool(inline or self.files or self.client_auth_type)

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

    interval: float
    burst: int


class _RateLimitKeys(WebConfigSection, frozen=True):
    """The keys of `rate_limit` as written."""

    interval: str = ""
    burst: int = 0


class WebConfiguration(WebConfigSection, frozen=True):
    """The whole file. basic_auth_users: bcrypt hashes by user name.

    warnings: a line for each section without effect.
    """

    tls_server_config: TLSConfig | None = None
    http_server_config: HTTPConfig = HTTPConfig()
    basic_auth_users: dict[str, str] = {}
    rate_limit: RateLimitConfig | None = None
    warnings: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every response; an empty value leaves the header out."""
        return {name: value for name, value in self.http_server_config.headers.items() if value}


def read_web_config(file: str) -> WebConfiguration:
    """Reads and checks the file. Raises ConfigError, which names the key."""
    document = read_yaml(file)
    try:
        return _parse(_mapping(document, ""), Path(file).parent)
    except ConfigError as error:
        raise ConfigError(file, error.key, error.message) from None


def _parse(document: Mapping, folder: Path) -> WebConfiguration:
    """Returns the checked configuration. Raises ConfigError, without the file's name."""
    for key in document:
        if key not in ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"):
            raise _invalid(key, "is not a key of the format")
    tls = _struct(document.get("tls_server_config"), "tls_server_config", TLSConfig)
    http = _struct(document.get("http_server_config"), "http_server_config", HTTPConfig)
    _check_headers(http.headers)
    users = _texts(document.get("basic_auth_users"), "basic_auth_users")
    limit = _struct(document.get("rate_limit"), "rate_limit", _RateLimitKeys)
    return WebConfiguration(
        tls_server_config=_check_tls(tls, folder) if tls.enabled else None,
        http_server_config=http,
        basic_auth_users={name: _check_hash(name, text) for name, text in users.items()},
        rate_limit=_rate_limit(limit),
        warnings=() if tls.enabled else _unused_tls(tls),
    )


def _mapping(value: Any, key: str) -> Mapping:
    """Returns a mapping of the file, empty for a null. Raises ConfigError."""
    if value is None:
        return Mapping()
    if not isinstance(value, Mapping):
        raise _invalid(key, "must be a mapping of keys")
    return value


def _struct(value: Any, key: str, struct: type[S]) -> S:
    """Returns a section; a key without a value, or with an empty one, has its default.

    Raises ConfigError.
    """
    types = get_type_hints(struct, include_extras=True)
    values: dict[str, Any] = {}
    for name, item in _mapping(value, key).items():
        if name not in types:
            raise _invalid(f"{key}.{name}", "is not a key of the format")
        if item is None or item == "":
            continue
        values[name] = _convert(item, types[name], f"{key}.{name}")
    if _mapping(value, key).get("client_allowed_sans") == "":  # not the same as no restriction
        raise _invalid(f"{key}.client_allowed_sans", "is empty: name at least one")
    return struct(**values)


def _convert(value: Any, type_: Any, key: str) -> Any:
    if type_ == dict[str, str]:
        return _texts(value, key)
    try:
        return convert(value, type_)
    except ValueError as error:
        raise _invalid(key, str(error)) from None


def _texts(value: Any, key: str) -> dict[str, str]:
    """Returns a mapping of texts; a null is an empty one. Raises ConfigError."""
    mapping = _mapping(value, key)
    for name in mapping.overridden:
        raise _invalid(f"{key}.{name}", "is set twice, once by a merge key (<<)")
    return {
        name: _convert(text, str, f"{key}.{name}") if text is not None else ""
        for name, text in mapping.items()
    }


def _check_tls(tls: TLSConfig, folder: Path) -> TLSConfig:
    """Returns the section with absolute paths. Raises ConfigError."""
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


def _unused_tls(tls: TLSConfig) -> tuple[str, ...]:
    """Returns a warning if a section that does not enable TLS sets anything. Raises ConfigError."""
    if tls.client_allowed_sans is not None:
        raise _invalid(
            "tls_server_config.client_allowed_sans",
            "requires client_auth_type RequireAndVerifyClientCert",
        )
    if tls == TLSConfig():
        return ()
    return ("tls_server_config: names no certificate, so plain HTTP is served",)


def _check_headers(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        key = f"http_server_config.headers.{name}"
        if name not in ALLOWED_HEADERS:
            raise _invalid(key, f"cannot be set; allowed: {', '.join(ALLOWED_HEADERS)}")
        if (allowed := ALLOWED_HEADERS[name]) and value and value not in allowed:
            raise _invalid(key, f"must be one of: {', '.join(allowed)}")
        if not value.replace("\t", "").isprintable():
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
    variant, cost, rest = match.groups()
    if not 4 <= int(cost) <= MAX_BCRYPT_COST:
        raise _invalid(key, f"the bcrypt cost must be between 4 and {MAX_BCRYPT_COST}")
    # The salt's last character carries 2 bits; some tools leave garbage in the other 4.
    letters = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    last = letters[letters.index(rest[21]) & 0x30]
    # `$2$` and `$2x$` are compared as Go compares them: like every other.
    variant = variant if variant in ("a", "b", "y") else "b"
    return f"$2{variant}${cost}${rest[:21]}{last}{rest[22:]}"


def _rate_limit(keys: _RateLimitKeys) -> RateLimitConfig | None:
    if not keys.interval:
        return None
    seconds = _go_duration(keys.interval)
    if seconds is None:
        raise _invalid("rate_limit.interval", "is not a duration with a unit, such as 1s or 100ms")
    if seconds == 0:
        return None
    if seconds < 0:
        raise _invalid("rate_limit.interval", "is negative")
    if keys.burst < 1:
        raise _invalid("rate_limit.burst", "must be at least 1; with 0 every request is refused")
    return RateLimitConfig(interval=seconds, burst=keys.burst)


def _go_duration(text: str) -> float | None:
    """Returns the seconds of a duration in Go (1m30s, 100ms, 0); None for another text."""
    if text in ("0", "+0", "-0"):
        return 0.0
    if len(text) > _MAX_DURATION_LENGTH or not _GO_DURATION.match(text):
        return None
    sign = -1 if text.startswith("-") else 1
    return sign * sum(float(number) * _GO_UNITS[unit] for number, unit in _GO_PART.findall(text))


def _invalid(key: str, message: str) -> ConfigError:
    return ConfigError("", key, message)
