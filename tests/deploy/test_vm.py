"""The service under the real systemd: runs tests/deploy/vm_job/check.py in a virtual machine.

A short form by default, because of its time limit; `make vm` sets VM_FORM=full.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.deploy.vm import machine
from tests.deploy.wheel import unpacked, wheel, wheelhouse
from tests.fakes.nvml.standin import Driver
from tests.parts import missing

JOB_FILES = Path(__file__).parent / "vm_job"
FORM = os.environ.get("VM_FORM", "short")
# Time limits in seconds: emulated, on two shared cores.
TIMEOUTS = {"short": 600, "full": 1200}


@pytest.mark.real
@pytest.mark.timeout(1500)
def test_the_service_in_a_virtual_machine(tmp_path: Path) -> None:
    if reason := machine.missing_requirements():
        missing(reason)
    job = tmp_path / "job"
    shutil.copytree(JOB_FILES, job)
    if FORM == "full":
        shutil.copytree(wheelhouse("3.11"), job / "wheels")
        shutil.copy(wheel(), job / "wheels")
    else:
        unpacked(job / "unpacked", "3.11")
    driver = Driver(tmp_path, gpus=2)
    shutil.copy(driver.library, job)
    shutil.copy(driver.file, job / "nvml")
    (job / "form").write_text(FORM)

    result = machine.run(job, tmp_path / "vm", seconds=TIMEOUTS[FORM], follow=FORM == "full")

    timeout = f"timeout after {result.seconds:.0f} s" if result.code is None else ""
    assert result.code == 0, f"{timeout}\n{result.output}\n{result.console[-2000:]}"
    measurements = json.loads((result.files / "measurements.json").read_text())
    print(f"the virtual machine ran {result.seconds:.0f} s:", json.dumps(measurements, indent=1))  # noqa: T201 - for the closing note: pytest -s
    assert float(measurements["security"].split()[0]) <= 2.0
    assert result.output.count("ok:") >= 15
