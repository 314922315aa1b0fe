"""Creates a CA and certificates for tests with openssl."""

from __future__ import annotations

import hashlib
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.parts import missing


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of a certificate and its key."""

    cert: Path
    key: Path


def openssl(*arguments: str | Path) -> str:
    """Runs openssl; returns its stdout."""
    binary = shutil.which("openssl") or missing("no openssl")
    done = subprocess.run(
        [binary, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def authority(folder: Path, name: str = "authority") -> Pair:
    """Creates a CA."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-days", "1", "-keyout", pair.key, "-out", pair.cert),
        # Python 3.13 verifies strictly (VERIFY_X509_STRICT).
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    return pair


def signed(
    ca: Pair, folder: Path, name: str, alternatives: str = "DNS:localhost,IP:127.0.0.1"
) -> Pair:
    """Creates a certificate signed by a CA. name: its CN. alternatives: its subjectAltName."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text(
        f"subjectAltName={alternatives}\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid,issuer\n"
    )
    openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-keyout", pair.key, "-out", request),
    )
    openssl(
        *("x509", "-req", "-in", request, "-CA", ca.cert, "-CAkey", ca.key, "-CAcreateserial"),
        *("-days", "1", "-extfile", extensions, "-out", pair.cert),
    )
    return pair


def fingerprint(port: int) -> str:
    """Returns the SHA-256 fingerprint of the certificate served on a port of 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the CAs of the system
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        certificate = secured.getpeercert(binary_form=True)
    assert certificate is not None
    return hashlib.sha256(certificate).hexdigest()


def fingerprint_of(pair: Pair) -> str:
    """Returns the SHA-256 fingerprint of a certificate file."""
    certificate = ssl.PEM_cert_to_DER_cert(pair.cert.read_text())
    return hashlib.sha256(certificate).hexdigest()
