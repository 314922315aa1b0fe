"""A Debian virtual machine with systemd, cgroup v2 and Docker, for as long as one job takes.

    python -m tests.deploy.vm.machine FOLDER OUT        # runs FOLDER/run.sh in it; see README.md

The job's folder becomes a disk of its own, mounted at /job; what `run.sh` prints and what it
leaves in /job/out come back. The machine's own disk is the same at every start: nothing a job
changes stays. There is no network beyond the loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("CACHE", ROOT / ".cache" / "vm"))
QEMU = "qemu-system-x86_64"
# Software emulation works wherever QEMU runs; set VM_ACCEL=kvm where there is a working KVM.
ACCELERATOR = os.environ.get("VM_ACCEL", "tcg,thread=multi")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job.

    code: of run.sh; None: it did not end in time, or the machine did not get so far.
    output: what run.sh printed. console: what the kernel and systemd printed.
    files: a folder with what the job left in /job/out. seconds: from start to end.
    """

    code: int | None
    output: str
    console: str
    files: Path
    seconds: float


def lacking() -> str:
    """What this machine lacks to run a virtual one; empty: nothing."""
    if os.uname().machine != "x86_64":
        return "the virtual machine is an x86-64 one"
    if os.geteuid() != 0:
        return "debootstrap needs root"
    programs = {QEMU: "qemu-system-x86", "debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs"}
    absent = [
        f"{name} (Debian's {package})" for name, package in programs.items() if not _has(name)
    ]
    return f"no {', no '.join(absent)}" if absent else ""


def _has(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def build() -> Path:
    """The folder with the machine's disk image and kernel; made where it is not there yet."""
    with _alone("build"):
        made = subprocess.run(
            [HERE / "build.sh"],
            env={**os.environ, "CACHE": str(CACHE)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return Path(ROOT, made.stdout.strip())


def built() -> bool:
    """Whether some image is in the cache, so that a start needs no debootstrap."""
    return any(CACHE.glob("*/image"))


@contextlib.contextmanager
def _alone(doing: str) -> Iterator[None]:
    """One build, one virtual machine at a time: two starve each other. Waits for the other."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{doing}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(
    job: Path,
    work: Path,
    *,
    seconds: float = 300,
    memory: int = 2048,
    cpus: int = 2,
    follow: bool = False,
) -> Outcome:
    """Start the machine, run the job, wait until the machine is off or the seconds are over.

    job: a folder with an executable run.sh. work: a folder for the disk, the logs and the result.
    memory: MiB. follow: print what the job prints as it comes. Blocks; waits for another
    machine to end first, which does not count.
    """
    work.mkdir(parents=True, exist_ok=True)
    with _alone("run"):
        base = build()
        disk = work / "job.disk"
        _make_disk(job, disk)
        started = time.monotonic()
        _boot(base, disk, work, seconds=seconds, memory=memory, cpus=cpus, follow=follow)
        taken = time.monotonic() - started
    files = work / "out"
    shutil.rmtree(files, ignore_errors=True)
    # The one way to read a file system without mounting it; it makes the folder itself.
    subprocess.run(
        ["/sbin/debugfs", "-R", f"rdump /out {work}", str(disk)], check=True, capture_output=True
    )
    disk.unlink()
    code = files / "rc"
    return Outcome(
        int(code.read_text()) if code.exists() else None,
        (work / "output").read_text(errors="replace"),
        (work / "console").read_text(errors="replace"),
        files,
        taken,
    )


def _make_disk(job: Path, disk: Path) -> None:
    """An ext4 image of the job's folder, with 512 MiB to spare."""
    disk.unlink(missing_ok=True)
    used = sum(file.lstat().st_size + 4096 for file in job.rglob("*"))
    with disk.open("wb") as image:
        image.truncate(used * 11 // 10 + (512 << 20))
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-d", str(job), str(disk)], check=True)


def _boot(
    base: Path,
    disk: Path,
    work: Path,
    *,
    seconds: float,
    memory: int,
    cpus: int,
    follow: bool,
) -> None:
    console, output = work / "console", work / "output"
    output.write_bytes(b"")
    command = [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"),
        *("-accel", ACCELERATOR, "-cpu", "max", "-m", str(memory), "-smp", str(cpus)),
        *("-kernel", str(base / "vmlinuz"), "-initrd", str(base / "initrd")),
        # Docker would need AppArmor's own tools for each container.
        *("-append", "root=/dev/vda rw console=ttyS0 panic=1 net.ifnames=0 apparmor=0"),
        *("-drive", f"file={base / 'image'},format=raw,if=virtio,snapshot=on"),
        *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"),
        *("-device", "virtio-rng-pci"),
        *("-serial", f"file:{console}", "-serial", f"file:{output}"),
    ]
    with (work / "qemu").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _watch(process, output, seconds, follow)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    if process.returncode > 0:
        raise RuntimeError(f"qemu: {(work / 'qemu').read_text(errors='replace')}")


def _watch(process: subprocess.Popen[bytes], output: Path, seconds: float, follow: bool) -> None:
    """Wait for the machine to end, at most so many seconds, showing what the job prints."""
    end = time.monotonic() + seconds
    with output.open("rb") as lines:
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):  # looked at again
                process.wait(0.2)
            if follow and (new := lines.read()):
                sys.stdout.buffer.write(new)
                sys.stdout.flush()


def main() -> int:
    """The command line: gives the job's exit code; 124 where it did not end in time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("job", type=Path, help="a folder with an executable run.sh")
    parser.add_argument(
        "work", type=Path, help="a folder for the logs, and for what comes back: out/"
    )
    parser.add_argument("--seconds", type=float, default=600, help="time limit (default: 600)")
    parser.add_argument("--memory", type=int, default=2048, help="MiB (default: 2048)")
    given = parser.parse_args()
    if reason := lacking():
        sys.stderr.write(f"tests.deploy.vm: {reason}\n")
        return 1
    outcome = run(given.job, given.work, seconds=given.seconds, memory=given.memory, follow=True)
    if outcome.code is None:
        sys.stderr.write(outcome.console[-3000:])
    sys.stderr.write(f"tests.deploy.vm: exit code {outcome.code} after {outcome.seconds:.0f} s\n")
    return 124 if outcome.code is None else outcome.code


if __name__ == "__main__":
    sys.exit(main())
