"""The release's wheel and sdist, and the wheels of its dependencies."""

from __future__ import annotations

import atexit
import functools
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from tests.parts import missing
from tests.paths import ROOT

CACHE = ROOT / ".cache"
UV = CACHE / "model-servers" / "uv" / "bin" / "uv"
# aiohttp's dependency below Python 3.13; pip evaluates that for its own Python, not the target's.
_MARKED = ("typing_extensions",)
# Platform tags that Debian bookworm's glibc (2.36) supports.
PLATFORMS = (
    "manylinux2014_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_34_x86_64",
)
# The latest of them, as uv names it.
PLATFORM = "x86_64-manylinux_2_34"


@functools.cache
def wheel() -> Path:
    """Builds the wheel of this checkout, once per test run; returns its path."""
    folder = _temporary("wheel")
    _pip("wheel", "--no-deps", f"--wheel-dir={folder}", str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@functools.cache
def released_wheel(version: str) -> Path:
    """Builds the wheel of a released version, once per test run; returns its path.

    The release is its tag or, as 0.1.0 has none, the last commit of its date in CHANGELOG.md.
    Skips the test without the commit.
    """
    date = re.search(
        rf"^## {re.escape(version)} / (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert date, f"CHANGELOG.md has no {version}"
    tag = _git("rev-parse", "--verify", "--quiet", f"refs/tags/v{version}^{{commit}}")
    commit = tag or _git("log", "-1", "--format=%H", f"--until={date[1]} 23:59:59 +0000")
    found = _git("show", f"{commit}:exporter/__init__.py") if commit else ""
    if f'__version__ = "{version}"' not in found:
        missing(f"the commit of {version}: the tests need a git clone with its history")
    source, folder = _temporary("source"), _temporary("released")
    archive = source / "tree.tar"
    subprocess.run(["git", "archive", "-o", archive, commit], cwd=ROOT, check=True)
    with tarfile.open(archive) as files:
        files.extractall(source / "tree", filter="data")
    return build("wheel", source / "tree", folder)


def _git(*arguments: str) -> str:
    """Returns the output of a git command; empty if it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def sdist() -> Path:
    """Builds the sdist of this checkout, once per test run; returns its path."""
    return build("sdist", ROOT, _temporary("sdist"))


def build(target: str, source: Path, folder: Path) -> Path:
    """Builds "sdist" or "wheel" of a source tree into an empty folder; returns its path."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=source,
        env={"PYTHONPATH": str(_backend()), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
    )
    (built,) = folder.iterdir()
    return built


@functools.cache
def _backend() -> Path:
    """Installs hatchling into a folder, once per test run; returns the folder."""
    folder = _temporary("backend")
    _pip("install", f"--target={folder}", "hatchling")
    return folder


def wheelhouse(python: str = "3.11", tools: tuple[str, ...] = ()) -> Path:
    """Downloads the dependencies' wheels for PLATFORMS; returns their folder.

    tools: names of the dev extra to add. Cached until the requirements change.
    """
    dependencies = [*_project()["dependencies"], *_pinned(tools), *_MARKED]
    digest = hashlib.sha256(repr((python, dependencies)).encode()).hexdigest()[:12]
    folder = CACHE / "wheelhouse" / digest
    if not (folder / ".complete").exists():
        _pip(
            *("download", "--only-binary=:all:", f"--python-version={python}"),
            *(f"--platform={name}" for name in PLATFORMS),
            *(f"--dest={folder}", *dependencies),
        )
        (folder / ".complete").touch()
    return folder


def unpacked(folder: Path, python: str = "3.11", tools: tuple[str, ...] = ()) -> None:
    """Installs the wheel and its dependencies into a folder, without the target's Python.

    tools: names of the dev extra to add. By uv, in a tenth of pip's CPU time.
    """
    if not UV.exists():
        missing("no uv; tests/model_server/servers/install.sh installs it")
    command = [
        *(str(UV), "pip", "install", "--quiet", f"--target={folder}", f"--python={sys.executable}"),
        *(f"--python-version={python}", f"--python-platform={PLATFORM}", "--only-binary=:all:"),
        str(wheel()),
        *_pinned(tools),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _pinned(tools: tuple[str, ...]) -> list[str]:
    """Returns the requirements of these tools in the dev extra."""
    requirements = _project()["optional-dependencies"]["dev"]
    return [line for line in requirements if line.partition("==")[0] in tools]


def _temporary(name: str) -> Path:
    """Returns a temporary folder, removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
