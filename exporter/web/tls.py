"""Builds the server's TLS context from `tls_server_config`. All functions read files and block."""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from exporter.errors import ConfigError
from exporter.web.configuration import TLSConfig

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

# TLS 1.3 suites: OpenSSL and Go both always offer all of them.
_TLS13_SUITES = frozenset(
    ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
)
# OpenSSL's names of the older suites that Go lists as secure, by Go's names.
_CIPHERS = {
    f"TLS_ECDHE_{auth}_WITH_{go}": f"ECDHE-{auth}-{openssl}"
    for auth in ("ECDSA", "RSA")
    for go, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
} | {
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
_CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
_VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


def server_context(tls: TLSConfig, file: str, warnings: list[str]) -> ssl.SSLContext:
    """Returns the context for new connections. Raises ConfigError, which names the key.

    file: path of the web configuration file. warnings: extended by a line for each key that is
    not honoured.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    # Otherwise a client could make the server renegotiate in a loop.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        _set_versions(context, tls)
        _set_ciphers(context, tls, warnings)
        _set_curves(context, tls, warnings)
        _load_certificate(context, tls)
        _set_client_verification(context, tls, warnings)
    except ConfigError as error:
        raise ConfigError(file, f"tls_server_config.{error.key}", error.message) from None
    return context


def has_allowed_san(tls: TLSConfig, certificate: Mapping[str, Any] | None) -> bool:
    """Returns whether the certificate has a subject alternative name of `client_allowed_sans`.

    certificate: the client's verified certificate, as `SSLSocket.getpeercert` returns it.
    """
    if tls.client_allowed_sans is None:
        return True
    names: Iterable[tuple[str, str]] = (certificate or {}).get("subjectAltName", ())
    return any(
        kind in ("DNS", "email", "IP Address", "URI") and name in tls.client_allowed_sans
        for kind, name in names
    )


def _set_versions(context: ssl.SSLContext, tls: TLSConfig) -> None:
    for key in ("min_version", "max_version"):
        if getattr(tls, key) not in _VERSIONS:
            raise _invalid(key, "must be TLS12 or TLS13; older versions are insecure")
    if tls.min_version > tls.max_version:
        raise _invalid("min_version", "is above max_version")
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]


def _set_ciphers(context: ssl.SSLContext, tls: TLSConfig, warnings: list[str]) -> None:
    if not tls.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    for name in tls.cipher_suites:
        if name not in _CIPHERS and name not in _TLS13_SUITES:
            raise _invalid("cipher_suites", f"{name} is unknown or insecure")
    older = [_CIPHERS[name] for name in tls.cipher_suites if name in _CIPHERS]
    if older:
        try:
            context.set_ciphers(":".join(older))
        except ssl.SSLError:
            raise _invalid("cipher_suites", "this OpenSSL supports none of them") from None
    elif tls.cipher_suites:
        # No TLS 1.2 suite: as in Go, only TLS 1.3 remains.
        if tls.max_version == "TLS12":
            raise _invalid("cipher_suites", "lists no suite for TLS 1.2, the max_version")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if (
        tls.cipher_suites
        and tls.max_version == "TLS13"
        and not set(tls.cipher_suites) >= _TLS13_SUITES
    ):
        warnings.append("tls_server_config.cipher_suites: all TLS 1.3 suites are always offered")


def _set_curves(context: ssl.SSLContext, tls: TLSConfig, warnings: list[str]) -> None:
    for name in tls.curve_preferences:
        if name not in _CURVES:
            raise _invalid("curve_preferences", f"{name} is not one of: {', '.join(_CURVES)}")
    if not tls.curve_preferences:
        return
    names = [_CURVES[name] for name in tls.curve_preferences]
    if set_groups := getattr(context, "set_groups", None):  # Python 3.15
        set_groups(":".join(names))
    elif len(names) == 1 and names != ["X25519"]:
        context.set_ecdh_curve(names[0])
    else:
        warnings.append(
            "tls_server_config.curve_preferences: not honoured; this Python can set a single curve "
            "only, and not X25519; OpenSSL's default order (X25519 first) is used"
        )


def _load_certificate(context: ssl.SSLContext, tls: TLSConfig) -> None:
    for key in ("cert", "key"):
        _check_readable(f"{key}_file", getattr(tls, f"{key}_file"))
    with _as_path(tls.cert, tls.cert_file) as cert, _as_path(tls.key, tls.key_file) as key:
        setting = "cert_file" if tls.cert_file else "cert"
        try:
            # An empty pass phrase: otherwise OpenSSL would prompt on the terminal.
            context.load_cert_chain(cert, key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise _invalid(
                setting,
                "cannot be loaded with its key (which must have no pass phrase): "
                f"{getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error}",
            ) from None


def _set_client_verification(context: ssl.SSLContext, tls: TLSConfig, warnings: list[str]) -> None:
    kind = tls.client_auth_type or "NoClientCert"
    if kind in ("RequireAnyClientCert", "RequireClientCert"):
        raise _invalid(
            "client_auth_type",
            f"{kind} cannot be honoured: Python's ssl accepts no unverified client certificate; "
            "use RequireAndVerifyClientCert",
        )
    context.verify_mode = _VERIFY[kind]
    if kind == "RequestClientCert":
        warnings.append(
            "tls_server_config.client_auth_type: RequestClientCert is treated as NoClientCert, "
            "as an unverified certificate changes nothing"
        )
    if context.verify_mode is ssl.CERT_NONE and (tls.client_ca or tls.client_ca_file):
        raise _invalid("client_auth_type", "is required if a client CA is set")
    if tls.client_allowed_sans is not None and context.verify_mode is not ssl.CERT_REQUIRED:
        raise _invalid(
            "client_allowed_sans", "requires client_auth_type RequireAndVerifyClientCert"
        )
    if context.verify_mode is ssl.CERT_NONE:
        return
    _check_readable("client_ca_file", tls.client_ca_file)
    try:
        if tls.client_ca_file:
            context.load_verify_locations(cafile=tls.client_ca_file)
        elif tls.client_ca:
            context.load_verify_locations(cadata=tls.client_ca)
        else:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    except (ssl.SSLError, OSError, ValueError):
        key = "client_ca_file" if tls.client_ca_file else "client_ca"
        raise _invalid(key, "contains no certificate that can be loaded") from None


def _check_readable(key: str, path: str) -> None:
    """Raises ConfigError if the file cannot be opened: OpenSSL's error does not name the file.

    Nor if it is not regular: OpenSSL would wait for a pipe without end.
    """
    if not path:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _invalid(key, f"{path}: {error.strerror}") from None
    if not regular:
        raise _invalid(key, f"{path}: is not a regular file")


@contextlib.contextmanager
def _as_path(text: str, path: str) -> Iterator[str]:
    """Yields `path`, else the path of a memfd with the inline PEM text, which is on no disk."""
    if path:
        yield path
        return
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _invalid(key: str, message: str) -> ConfigError:
    return ConfigError("", key, message)
