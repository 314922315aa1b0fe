"""Runs tests of this package with an old release of pynvml (`tests/sources/gpu/install.sh`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts import missing
from tests.paths import ROOT

OLD = ROOT / ".cache" / "pynvml-12.535.161"
# Tests that depend on the release: structures, missing functions, text decoding.
TESTS = (
    "standin",
    "values",
    "fields",
    "gpm",
    "mig",
    "processes",
    "profiles",
    "runtime_pm",
    "users",
)


@pytest.mark.real
@pytest.mark.timeout(450)
def test_an_old_release_of_pynvml(tmp_path: Path) -> None:
    if not (OLD / "pynvml.py").exists():
        missing("an old release of pynvml: run tests/sources/gpu/install.sh")
    environment = {**os.environ, "PYTHONPATH": str(OLD)}
    probe = [sys.executable, "-c", "import pynvml; print(pynvml.__file__)"]
    probed = subprocess.run(probe, env=environment, capture_output=True, text=True, check=True)
    assert probed.stdout.startswith(str(OLD))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--basetemp", str(tmp_path / "inner")),
            *(f"tests/sources/gpu/test_{name}.py" for name in TESTS),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
