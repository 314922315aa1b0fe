"""Runs a job in a Debian virtual machine with systemd, cgroup v2 and Docker.

    python -m tests.deploy.vm.machine FOLDER OUT        # runs FOLDER/run.sh in it; see README.md

The job's folder becomes a separate disk, mounted at /job; the output of `run.sh` and its files in
/job/out are returned. The system disk is a snapshot: a job's changes are discarded. Network:
loopback only. VM_MACHINE selects what runs it: user-mode Linux (uml, the default) or QEMU (qemu).
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
# uml: user-mode Linux, which is cheaper and has neither PSI nor cpuset. qemu: as on a real machine.
MACHINE = os.environ.get("VM_MACHINE", "uml")
UML_OPTIONS = (
    *("root=/dev/ubda", "rw", "init=/sbin/init", "con=null"),
    "lsm=",  # without a policy, SELinux only costs time
)
# A machine ends with this process, and all processes of a user-mode Linux (one for each of its own)
# with its kernel: without the kernel that traces them, their system calls would be the host's.
CONFINED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--pid", "--fork", "--kill-child=KILL"),
)
QEMU = "qemu-system-x86_64"
# Software emulation works on every QEMU host; set VM_ACCEL=kvm if KVM works.
ACCELERATOR = os.environ.get("VM_ACCEL", "tcg,thread=multi")
# x86-64-v2, which wheels need: newer instructions are slower, emulated.
CPU = "Nehalem"
QEMU_OPTIONS = (
    "root=/dev/vda rw console=ttyS0 panic=1 net.ifnames=0"
    # With AppArmor, Docker would need apparmor_parser for each container.
    " apparmor=0"
    # Emulated, a read of another clock leaves the CPU's loop, a mitigation or a new address layout
    # of each process makes translated code useless, and a wait of RCU takes long.
    " tsc=reliable clocksource=tsc mitigations=off norandmaps rcupdate.rcu_expedited=1"
)


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of a job.

    code: exit code of run.sh; None after a timeout or a failed boot. output: of run.sh.
    console: kernel and systemd messages. files: the folder with the files of /job/out.
    seconds: run time of the machine.
    """

    code: int | None
    output: str
    console: str
    files: Path
    seconds: float


def missing_requirements() -> str:
    """Returns what this host lacks to run the virtual machine; empty if nothing."""
    if os.uname().machine != "x86_64":
        return "the virtual machine needs an x86-64 host"
    if os.geteuid() != 0:
        return "mmdebstrap needs root"
    programs = {"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs"}
    if MACHINE == "qemu":
        programs[QEMU] = "qemu-system-x86"
    absent = [
        f"{name} (Debian's {package})" for name, package in programs.items() if not _has(name)
    ]
    return f"no {', no '.join(absent)}" if absent else ""


def _has(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def build_image() -> Path:
    """Builds the disk image and kernel unless cached; returns their folder."""
    with _lock("build"):
        build = subprocess.run(
            [HERE / "build.sh"],
            env={**os.environ, "CACHE": str(CACHE), "VM_MACHINE": MACHINE},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return Path(ROOT, build.stdout.strip())


def image_exists() -> bool:
    """Returns whether an image is cached, so that a start needs no mmdebstrap."""
    return any(CACHE.glob("*/image"))


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Waits for an exclusive file lock: parallel builds or machines starve each other."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
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
) -> JobResult:
    """Starts the machine, runs the job, and waits for power-off or the timeout of `seconds`.

    job: a folder with an executable run.sh. work: a folder for the disk, the logs and the result.
    memory: MiB. cpus: of QEMU; user-mode Linux has one. follow: print the job's output live.
    Blocks; first waits for another machine to end, outside of the timeout.
    """
    work.mkdir(parents=True, exist_ok=True)
    with _lock("run"):
        base = build_image()
        disk = work / "job.disk"
        _make_disk(job, disk)
        started = time.monotonic()
        try:
            _boot(base, disk, work, seconds=seconds, memory=memory, cpus=cpus, follow=follow)
            elapsed = time.monotonic() - started
            files = _job_files(disk, work)
        finally:
            disk.unlink()
            (work / "overlay").unlink(missing_ok=True)
    code = files / "rc"
    return JobResult(
        int(code.read_text()) if code.exists() else None,
        (work / "output").read_text(errors="replace"),
        (work / "console").read_text(errors="replace"),
        files,
        elapsed,
    )


def _job_files(disk: Path, work: Path) -> Path:
    """Copies /job/out from the job's disk; returns the folder."""
    files = work / "out"
    shutil.rmtree(files, ignore_errors=True)
    # debugfs reads a file system without mounting it, and creates the folder.
    subprocess.run(
        ["/sbin/debugfs", "-R", f"rdump /out {work}", str(disk)], check=True, capture_output=True
    )
    return files


def _make_disk(job: Path, disk: Path) -> None:
    """Writes an ext4 image of the job's folder, with 512 MiB of free space."""
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
    output = work / "output"
    output.write_bytes(b"")
    with output.open("ab") as terminal, (work / "console").open("wb") as console:
        if MACHINE == "qemu":
            command = _qemu(base, disk, output, memory, cpus)
        else:
            command = _uml(base, disk, work, memory, terminal.fileno())
        process = subprocess.Popen(
            [*CONFINED, *command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            pass_fds=(terminal.fileno(),),
        )
        try:
            _watch(process, output, seconds, follow)
        finally:
            process.kill()
            process.wait()
    if process.returncode > 0:
        raise RuntimeError(f"the machine: {(work / 'console').read_text(errors='replace')}")


def _uml(base: Path, disk: Path, work: Path, memory: int, terminal: int) -> tuple[str, ...]:
    """Returns the command of a user-mode Linux; its stdout is the console.

    terminal: the descriptor for the job's output.
    """
    overlay = work / "overlay"
    overlay.unlink(missing_ok=True)
    return (
        # One of its processes runs at a time; a change between two CPUs takes four times as long.
        *("taskset", "--cpu-list", str(max(os.sched_getaffinity(0)))),
        *("env", f"TMPDIR={_memory_folder(work, memory)}"),
        *(str(base / "linux.uml"), f"mem={memory}M", f"uml_dir={work}/", "umid=uml"),
        *(f"ubd0={overlay},{base / 'image'}", f"ubd1={disk}"),
        *("con0=null,fd:1", f"con1=null,fd:{terminal}", *UML_OPTIONS),
    )


def _memory_folder(work: Path, memory: int) -> Path:
    """Returns a folder for the file that is the memory of a user-mode Linux."""
    fast = Path("/dev/shm")  # noqa: S108 - the file is created by its mkstemp
    with contextlib.suppress(OSError):  # absent
        system = os.statvfs(fast)
        free = system.f_bavail * system.f_frsize
        # Programs of the machine are mapped from that file.
        if free > memory << 20 and not system.f_flag & os.ST_NOEXEC:
            return fast
    return work


def _qemu(base: Path, disk: Path, output: Path, memory: int, cpus: int) -> tuple[str, ...]:
    """Returns the command of an emulated machine; its stdout is the console."""
    return (
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"),
        *("-accel", ACCELERATOR, "-cpu", CPU, "-m", str(memory), "-smp", str(cpus)),
        *("-kernel", str(base / "vmlinuz"), "-initrd", str(base / "initrd")),
        *("-append", QEMU_OPTIONS),
        *("-drive", f"file={base / 'image'},format=raw,if=virtio,snapshot=on"),
        *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"),
        *("-device", "virtio-rng-pci"),
        *("-serial", "stdio", "-serial", f"file:{output}"),
    )


def _watch(process: subprocess.Popen[bytes], output: Path, seconds: float, follow: bool) -> None:
    """Waits for the machine to end, up to the timeout; prints the job's output if `follow`."""
    end = time.monotonic() + seconds
    with output.open("rb") as lines:
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):  # polls again
                process.wait(0.2)
            if follow and (new := lines.read()):
                sys.stdout.buffer.write(new)
                sys.stdout.flush()


def main() -> int:
    """Runs the command line; returns the job's exit code, 124 after a timeout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("job", type=Path, help="a folder with an executable run.sh")
    parser.add_argument(
        "work", type=Path, help="a folder for the logs and the job's output files (out/)"
    )
    parser.add_argument("--seconds", type=float, default=600, help="time limit (default: 600)")
    parser.add_argument("--memory", type=int, default=2048, help="MiB (default: 2048)")
    options = parser.parse_args()
    if reason := missing_requirements():
        sys.stderr.write(f"tests.deploy.vm: {reason}\n")
        return 1
    result = run(
        options.job, options.work, seconds=options.seconds, memory=options.memory, follow=True
    )
    if result.code is None:
        sys.stderr.write(result.console[-3000:])
    sys.stderr.write(f"tests.deploy.vm: exit code {result.code} after {result.seconds:.0f} s\n")
    return 124 if result.code is None else result.code


if __name__ == "__main__":
    sys.exit(main())
