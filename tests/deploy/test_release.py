"""The release artifacts: the wheel and the sdist contain exactly the required files."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from exporter import __version__
from tests.deploy.wheel import build, sdist, unpacked, wheel
from tests.paths import ROOT

pytestmark = pytest.mark.real  # a wheel is built with tools from PyPI

EXTRAS = {"dev"}


def test_the_version_is_defined_once() -> None:
    assert wheel().name == f"inference_exporter-{__version__}-py3-none-any.whl"
    assert sdist().name == f"inference_exporter-{__version__}.tar.gz"
    for path in ("exporter", "pyproject.toml"):
        files = subprocess.run(
            ["grep", "-rlF", f'"{__version__}"', "--include=*.py", "--include=*.toml", path],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        # negotiate.py: the version of OpenMetrics.
        files = [file for file in files if file != "exporter/exposition/negotiate.py"]
        assert files == (["exporter/__init__.py"] if path == "exporter" else [])
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()


def test_the_wheel_contains_the_package_and_the_systemd_files() -> None:
    with zipfile.ZipFile(wheel()) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        headers = email.message_from_bytes(archive.read(metadata))
    data = f"inference_exporter-{__version__}.data/data/share/inference-exporter/systemd/"
    drop_in = "inference-exporter.service.d/kernel-log.conf"
    for name in ("install.sh", "inference-exporter.service", "inference-exporter.socket", drop_in):
        assert data + name in names
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "exporter").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert modules <= names
    others = {name for name in names - modules if not name.startswith("inference_exporter-")}
    assert {name for name in others if not name.startswith("exporter/")} == set()
    assert headers["Requires-Python"] == ">=3.11"
    assert set(headers.get_all("Provides-Extra", [])) >= EXTRAS
    required = [name for name in headers.get_all("Requires-Dist", []) if "extra ==" not in name]
    assert any(name.startswith("aiohttp") for name in required)
    assert "docs/metrics.md" in str(headers.get_payload()), "the README"


def test_the_sdist_contains_the_files_of_tests_and_images() -> None:
    with tarfile.open(sdist()) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        *("Dockerfile", "LICENSE", "Makefile", "README.md", "CHANGELOG.md", "pyproject.toml"),
        *("exporter/app.py", "systemd/install.sh", "docs/metrics.md", "tests/install.sh"),
        *("deploy/compose/compose.yaml", "deploy/kubernetes/daemonset.yaml"),
        "deploy/helm/inference-exporter/templates/daemonset.yaml",
    } <= names
    dashboards = {f"grafana/{path.name}" for path in (ROOT / "grafana").glob("*.json")}
    assert dashboards
    assert dashboards <= names
    assert not [name for name in names if ".venv" in name or name.startswith((".cache", ".ci"))]


def test_wheel_and_sdist_are_reproducible(tmp_path: Path) -> None:
    """Other paths, times, modes and a tree without git: the bytes are those of the checkout."""
    with tarfile.open(sdist()) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    (source / "PKG-INFO").unlink()  # generated again
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
    for target, expected in (("wheel", wheel()), ("sdist", sdist())):
        built = build(target, source, tmp_path / target)
        assert built.name == expected.name
        assert built.read_bytes() == expected.read_bytes()


@pytest.mark.timeout(300)
def test_the_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    (site,) = environment.glob("lib/python3*/site-packages")
    unpacked(site, "{}.{}".format(*sys.version_info))
    program: list[str | Path] = [environment / "bin" / "python", "-I", "-m", "exporter"]
    version = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == f"inference-exporter {__version__}"
    page = subprocess.run(
        [*program, "once", "--containers.enabled=off", "--triton.enabled=off", "--gpu.enabled=off"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout
    assert "host_load1 " in page
    assert f'version="{__version__}"' in page
