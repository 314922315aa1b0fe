"""Several jobs in one boot of the virtual machine."""

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
COMPILE = ("-m", "compileall", "-q", "exporter")
# Seconds for the boots, the power-off and the reboot of the full form.
BOOT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the machine.

    seconds: time limit, in QEMU on shared cores. create: writes run.sh and its files into a
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
    packages = disk / "packages"
    unpacked(packages, PYTHON, TOOLS)
    compile_imported(
        packages,
        packages,
        COMPILE,
        # What the daemon imports, at its start and for its first readings.
        ("-c", "import exporter.app, prometheus_client, psutil"),
    )
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
    """Writes the bytecode of a source tree, of rewritten tests, and of what they import."""
    collect = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", *tests)
    compile_imported(tree, packages, COMPILE, collect)


def compile_imported(folder: Path, packages: Path, *commands: Sequence[str]) -> None:
    """Runs Python with arguments in a folder, which writes the bytecode of what is imported.

    The machine compiles slowly. Without effect if this Python is not the machine's: its bytecode
    would be ignored there.
    """
    if sys.version_info[:2] != tuple(map(int, PYTHON.split("."))):
        return
    for command in commands:
        subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)},
            check=True,
            capture_output=True,
            timeout=120,
        )
