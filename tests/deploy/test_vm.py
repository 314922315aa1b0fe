"""The service under the real systemd, in a virtual machine: tests/deploy/guest/check.py in it.

Short by default, within a time limit; `make vm` sets VM_FORM=full for all of it.
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

GUEST = Path(__file__).parent / "guest"
FORM = os.environ.get("VM_FORM", "short")
# Of the machine itself; emulated, on two cores that may be busy with something else.
SECONDS = {"short": 330, "full": 1200}


@pytest.mark.real
@pytest.mark.timeout(1500)
def test_the_service_in_a_virtual_machine(tmp_path: Path) -> None:
    if reason := machine.lacking():
        missing(reason)
    job = tmp_path / "job"
    shutil.copytree(GUEST, job)
    if FORM == "full":
        shutil.copytree(wheelhouse("3.11"), job / "wheels")
        shutil.copy(wheel(), job / "wheels")
    else:
        unpacked(job / "unpacked", "3.11")
    driver = Driver(tmp_path, gpus=2)
    shutil.copy(driver.library, job)
    shutil.copy(driver.file, job / "nvml")
    (job / "form").write_text(FORM)

    done = machine.run(job, tmp_path / "vm", seconds=SECONDS[FORM], follow=FORM == "full")

    ran_out = f"not done after {done.seconds:.0f} s" if done.code is None else ""
    assert done.code == 0, f"{ran_out}\n{done.output}\n{done.console[-2000:]}"
    figures = json.loads((done.files / "figures.json").read_text())
    print(f"the machine ran {done.seconds:.0f} s:", json.dumps(figures, indent=1))  # noqa: T201 - for the closing note: pytest -s
    assert float(figures["security"].split()[0]) <= 2.0
    assert done.output.count("ok:") >= 15
