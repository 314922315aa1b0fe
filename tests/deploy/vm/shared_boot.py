"""Several jobs in one boot of the virtual machine: under emulation, a boot outlasts most jobs."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.vm.machine import HERE, JobResult, run
from tests.deploy.wheel import unpacked

FULL = os.environ.get("VM_FORM") == "full"
PYTHON = "3.11"  # of Debian 12
# The tools of the dev extra that jobs need.
TOOLS = ("pytest", "pytest-timeout", "hypothesis")
# Seconds for the boots, the power-off and the reboot of the full form.
BOOT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the machine.

    seconds: time limit, as emulated on shared cores. create: writes run.sh and its files into a
    folder; beside it, the folder `packages` has the wheel, its dependencies and TOOLS, unpacked.
    """

    name: str
    seconds: int
    create: Callable[[Path], None]


class SharedBoot:
    """Runs its jobs when the first result is requested."""

    def __init__(self, jobs: Sequence[Job], folder: Path) -> None:
        self._jobs = jobs
        self._folder = folder
        self._machine: JobResult | None = None

    def result(self, job: Job) -> JobResult:
        """Returns the result of a job; its code is None if the machine did not end it."""
        if self._machine is None:
            disk = self._folder / "disk"
            create_disk(self._jobs, disk)
            seconds = BOOT_SECONDS + sum(job.seconds for job in self._jobs)
            self._machine = run(disk, self._folder / "vm", seconds=seconds, follow=FULL)
        files = self._machine.files / job.name
        code = files / "rc"
        return dataclasses.replace(
            self._machine,
            code=int(code.read_text()) if code.exists() else None,
            output=output_of(job.name, self._machine.output),
            files=files,
        )


def create_disk(jobs: Sequence[Job], disk: Path) -> None:
    """Writes the folder of the jobs' disk."""
    unpacked(disk / "packages", PYTHON, TOOLS, compiled=True)
    for job in jobs:
        folder = disk / job.name
        folder.mkdir()
        job.create(folder)
    (disk / "jobs").write_text("".join(f"{job.name} {job.seconds}\n" for job in jobs))
    shutil.copy(HERE / "run-jobs", disk / "run.sh")


def output_of(name: str, output: str) -> str:
    """Returns the lines that a job printed, of all boots."""
    sections = re.findall(
        rf"^job {name}: start\n(.*?)(?:^job {name}: exit code \d+\n|\Z)",
        output,
        re.MULTILINE | re.DOTALL,
    )
    return "".join(sections)


def compile_tests(tree: Path, packages: Path, tests: Sequence[str]) -> None:
    """Writes the bytecode of a source tree, also pytest's: emulation compiles slowly.

    Without effect if this Python is not the machine's: its own bytecode would be ignored there.
    """
    if sys.version_info[:2] != tuple(map(int, PYTHON.split("."))):
        return
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)}
    for arguments in (
        ("compileall", "-q", "exporter"),
        ("pytest", "-q", "-p", "no:cacheprovider", "--collect-only", *tests),
    ):
        subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tree,
            env=environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
