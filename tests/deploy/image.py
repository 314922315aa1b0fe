"""The container image, built from the Dockerfile on a real dockerd.

No registry is needed: in place of the base image, a plain Debian with its Python is imported under
the base image's name. So what is tested is the Dockerfile and what it adds, not that base.
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
    """The base image the Dockerfile names."""
    match = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert match
    return match[1]


def import_base(engine: Engine, folder: Path) -> int:
    """Import the stand-in for the base image; gives its size in bytes.

    It is told what this machine's pip is told (its index and certificates), as a build inside
    reaches packages on the same ways.
    """
    if shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        missing("no debootstrap, which makes the stand-in for the base image")
    (folder / "etc/ssl/certs").mkdir(parents=True)
    (folder / "etc/pip.conf").write_text(_pip_configuration(folder / "etc/ssl/certs"))
    (folder / "Dockerfile").write_text("FROM tree:1\nCOPY etc /etc\n")
    tree = machine.build() / "tree.tar"
    with engine.client() as client:
        client.api.import_image_from_file(str(tree), repository="tree", tag="1")
        client.images.build(path=str(folder), tag=base_name(), network_mode="none")
        return int(client.images.get(base_name()).attrs["Size"])


def _pip_configuration(certificates: Path) -> str:
    """This machine's settings of pip that say where packages come from; copies the certificates."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    # Lines such as global.index-url='https://…' and :env:.cert='/…'; the later ones win.
    found = dict(re.findall(r"^[^=]*?\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE))
    bundle = Path(found.get("cert") or os.environ.get("SSL_CERT_FILE", ""))
    if bundle.is_file():
        shutil.copy(bundle, certificates / "ca-certificates.crt")
    kept = [f"{key} = {found[key]}" for key in ("index-url", "extra-index-url") if key in found]
    return "\n".join(["[global]", "cert = /etc/ssl/certs/ca-certificates.crt", *kept, ""])


def build(engine: Engine) -> int:
    """Build the image; gives its size in bytes, base included. Fails with the build's own words."""
    said: list[str] = []
    context = Path(tempfile.mkdtemp(prefix="context-"))
    try:
        # The context as a clean checkout has it: .dockerignore takes its part from there.
        for name in (".dockerignore", "Dockerfile", "LICENSE", "README.md", "pyproject.toml"):
            shutil.copy(ROOT / name, context)
        for name in ("exporter", "systemd"):
            shutil.copytree(ROOT / name, context / name)
        (context / "secret").write_text("not to be sent")
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
                said.append(step.get("stream", "") or step.get("error", ""))
                assert "error" not in step, "".join(said)[-4000:]
            return int(client.images.get(TAG).attrs["Size"])
    finally:
        shutil.rmtree(context)
