"""Builds the container image from the Dockerfile on a real dockerd.

No registry is needed: a plain Debian with its Python is imported under the base image's name. The
tests therefore cover the Dockerfile and its layers, not the real base image.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.deploy.vm import machine
from tests.parts import missing
from tests.paths import ROOT
from tests.sources.containers.engine import Engine

TAG = "inference-exporter:test"


def base_name() -> str:
    """Returns the base image of the Dockerfile."""
    match = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert match
    return match[1]


def import_base(engine: Engine, folder: Path) -> int:
    """Imports the replacement of the base image; returns its size in bytes.

    It gets this machine's pip configuration (index and certificates), so that a build inside it can
    download packages.
    """
    if shutil.which("mmdebstrap", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        missing("no mmdebstrap, which builds the replacement of the base image")
    (folder / "etc/ssl/certs").mkdir(parents=True)
    (folder / "etc/pip.conf").write_text(_pip_configuration(folder / "etc/ssl/certs"))
    (folder / "Dockerfile").write_text("FROM tree:1\nCOPY etc /etc\n")
    tree = machine.build_image() / "tree.tar"
    with engine.client() as client:
        client.api.import_image_from_file(str(tree), repository="tree", tag="1")
        client.images.build(path=str(folder), tag=base_name(), network_mode="none")
        return int(client.images.get(base_name()).attrs["Size"])


def _pip_configuration(certificates: Path) -> str:
    """Returns a pip.conf with this machine's index settings; copies the CA certificates."""
    output = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    # Lines such as global.index-url='https://…' and :env:.cert='/…'; the later ones win.
    settings = dict(re.findall(r"^[^=]*?\.([\w-]+)='(.*)'$", output.stdout, re.MULTILINE))
    bundle = Path(settings.get("cert") or os.environ.get("SSL_CERT_FILE", ""))
    if bundle.is_file():
        shutil.copy(bundle, certificates / "ca-certificates.crt")
    indexes = [f"{k} = {settings[k]}" for k in ("index-url", "extra-index-url") if k in settings]
    return "\n".join(["[global]", "cert = /etc/ssl/certs/ca-certificates.crt", *indexes, ""])


def build(engine: Engine) -> int:
    """Builds the image; returns its size in bytes, base included. Fails with the build log."""
    log: list[str] = []
    context = Path(tempfile.mkdtemp(prefix="context-"))
    try:
        # The build context of a clean checkout; .dockerignore filters it.
        for name in (".dockerignore", "Dockerfile", "LICENSE", "README.md", "pyproject.toml"):
            shutil.copy(ROOT / name, context)
        for name in ("exporter", "systemd"):
            shutil.copytree(ROOT / name, context / name)
        (context / "secret").write_text("excluded by .dockerignore")
        with engine.client() as client:
            steps = client.api.build(
                path=str(context),
                tag=TAG,
                network_mode="host",
                rm=True,
                forcerm=True,
                decode=True,
                buildargs={"VERSION": "1.2.3", "REVISION": "abc"},
            )
            for step in steps:
                log.append(step.get("stream", "") or step.get("error", ""))
                assert "error" not in step, "".join(log)[-4000:]
            return int(client.images.get(TAG).attrs["Size"])
    finally:
        shutil.rmtree(context)
