"""TLS as the web configuration file asks for it. All calls here block: they read files."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from exporter.errors import ConfigError
from exporter.web.configuration import TLS

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

# Suites of TLS 1.3: OpenSSL and Go alike always offer all of them.
_TLS13 = frozenset(
    ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
)
# The other suites Go knows as secure, by Go's names, with OpenSSL's.
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


def server_context(tls: TLS, file: str, warnings: list[str]) -> ssl.SSLContext:
    """The context new connections are made with. Raises ConfigError, which names the key.

    file: the web configuration file. warnings: gets a line for each key that is not honoured.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    # A client could make a server renegotiate again and again.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        _set_versions(context, tls)
        _set_ciphers(context, tls, warnings)
        _set_curves(context, tls, warnings)
        _load_certificate(context, tls)
        _set_clients(context, tls, warnings)
    except ConfigError as error:
        raise ConfigError(file, f"tls_server_config.{error.key}", error.message) from None
    return context


def allowed(tls: TLS, certificate: Mapping[str, Any] | None) -> bool:
    """Whether the client's verified certificate carries an allowed subject alternative name."""
    if tls.client_allowed_sans is None:
        return True
    names: Iterable[tuple[str, str]] = (certificate or {}).get("subjectAltName", ())
    return any(
        kind in ("DNS", "email", "IP Address", "URI") and name in tls.client_allowed_sans
        for kind, name in names
    )


def _set_versions(context: ssl.SSLContext, tls: TLS) -> None:
    for key in ("min_version", "max_version"):
        if getattr(tls, key) not in _VERSIONS:
            raise _wrong(key, "must be TLS12 or TLS13; older ones are broken")
    if tls.min_version > tls.max_version:
        raise _wrong("min_version", "is above max_version")
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]


def _set_ciphers(context: ssl.SSLContext, tls: TLS, warnings: list[str]) -> None:
    if not tls.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    for name in tls.cipher_suites:
        if name not in _CIPHERS and name not in _TLS13:
            raise _wrong("cipher_suites", f"{name} is unknown or insecure")
    older = [_CIPHERS[name] for name in tls.cipher_suites if name in _CIPHERS]
    if older:
        try:
            context.set_ciphers(":".join(older))
        except ssl.SSLError:
            raise _wrong("cipher_suites", "this OpenSSL has none of them") from None
    elif tls.cipher_suites:
        # None for TLS 1.2: as with Go, only TLS 1.3 is left.
        if tls.max_version == "TLS12":
            raise _wrong("cipher_suites", "names none that TLS 1.2, the max_version, can use")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if tls.cipher_suites and tls.max_version == "TLS13" and not set(tls.cipher_suites) >= _TLS13:
        warnings.append("tls_server_config.cipher_suites: those of TLS 1.3 are always all offered")


def _set_curves(context: ssl.SSLContext, tls: TLS, warnings: list[str]) -> None:
    for name in tls.curve_preferences:
        if name not in _CURVES:
            raise _wrong("curve_preferences", f"{name} is not one of: {', '.join(_CURVES)}")
    if not tls.curve_preferences:
        return
    names = [_CURVES[name] for name in tls.curve_preferences]
    if set_groups := getattr(context, "set_groups", None):  # Python 3.15
        set_groups(":".join(names))
    elif len(names) == 1 and names != ["X25519"]:
        context.set_ecdh_curve(names[0])
    else:
        warnings.append(
            "tls_server_config.curve_preferences: not honoured, this Python can be told a single "
            "curve alone, and not X25519; OpenSSL's own order (X25519 first) is used"
        )


def _load_certificate(context: ssl.SSLContext, tls: TLS) -> None:
    for key in ("cert", "key"):
        _readable(f"{key}_file", getattr(tls, f"{key}_file"))
    with _as_file(tls.cert, tls.cert_file) as cert, _as_file(tls.key, tls.key_file) as key:
        which = "cert_file" if tls.cert_file else "cert"
        try:
            # An empty pass phrase: otherwise OpenSSL would ask the terminal for one.
            context.load_cert_chain(cert, key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise _wrong(
                which,
                "certificate and key (without a pass phrase) cannot be loaded: "
                f"{getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error}",
            ) from None


def _set_clients(context: ssl.SSLContext, tls: TLS, warnings: list[str]) -> None:
    kind = tls.client_auth_type
    if kind in ("RequireAnyClientCert", "RequireClientCert"):
        raise _wrong(
            "client_auth_type",
            f"{kind} cannot be honoured: OpenSSL under Python takes no certificate unverified; "
            "RequireAndVerifyClientCert can",
        )
    context.verify_mode = _VERIFY[kind]
    if kind == "RequestClientCert":
        warnings.append(
            "tls_server_config.client_auth_type: RequestClientCert is taken as NoClientCert, "
            "as a certificate that is not verified changes nothing"
        )
    if context.verify_mode is ssl.CERT_NONE and (tls.client_ca or tls.client_ca_file):
        raise _wrong("client_auth_type", "is needed where a client CA is given")
    if tls.client_allowed_sans is not None and context.verify_mode is not ssl.CERT_REQUIRED:
        raise _wrong("client_allowed_sans", "needs client_auth_type RequireAndVerifyClientCert")
    if context.verify_mode is ssl.CERT_NONE:
        return
    _readable("client_ca_file", tls.client_ca_file)
    try:
        if tls.client_ca_file:
            context.load_verify_locations(cafile=tls.client_ca_file)
        elif tls.client_ca:
            context.load_verify_locations(cadata=tls.client_ca)
        else:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    except (ssl.SSLError, OSError, ValueError):
        key = "client_ca_file" if tls.client_ca_file else "client_ca"
        raise _wrong(key, "holds no certificate that can be loaded") from None


def _readable(key: str, path: str) -> None:
    """OpenSSL does not say which of its files it could not open."""
    if not path:
        return
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise _wrong(key, f"{path}: {error.strerror}") from None


@contextlib.contextmanager
def _as_file(text: str, path: str) -> Iterator[str]:
    """A path to the text where it stands in the configuration itself: in memory, on no disk."""
    if path:
        yield path
        return
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _wrong(key: str, message: str) -> ConfigError:
    return ConfigError("", key, message)
