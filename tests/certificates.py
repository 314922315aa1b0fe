"""Certificates for tests, made by openssl: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.parts import missing


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, each a file."""

    cert: Path
    key: Path


def openssl(*arguments: str | Path) -> str:
    """What the program prints."""
    binary = shutil.which("openssl") or missing("no openssl")
    done = subprocess.run(
        [binary, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def authority(folder: Path, name: str = "authority") -> Pair:
    """A new authority."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-days", "1", "-keyout", pair.key, "-out", pair.cert),
    )
    return pair


def signed(
    by: Pair, folder: Path, name: str, alternatives: str = "DNS:localhost,IP:127.0.0.1"
) -> Pair:
    """A certificate of that name, signed by the authority. alternatives: subjectAltName."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={alternatives}\n")
    openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-keyout", pair.key, "-out", request),
    )
    openssl(
        *("x509", "-req", "-in", request, "-CA", by.cert, "-CAkey", by.key, "-CAcreateserial"),
        *("-days", "1", "-extfile", extensions, "-out", pair.cert),
    )
    return pair


def fingerprint(port: int) -> str:
    """SHA-256 of the certificate that is shown on a port of this machine."""
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost"],
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256"],
        input=shown.stdout,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()


def fingerprint_of(pair: Pair) -> str:
    """SHA-256 of a certificate file, in the same words."""
    return openssl("x509", "-noout", "-fingerprint", "-sha256", "-in", pair.cert).strip()
