"""The commands `release` and `resume`, and the re-execution after a driver update."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import exporter_process
from tests.daemon import QUICK, Daemon, find, lines_of, off, parse, running
from tests.fakes.nvml import standin
from tests.fakes.nvml.standin import Driver
from tests.waiting import until

OTHERS = off("containers", "triton", "host", "itself")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path, gpus=2)
    yield driver
    driver.heal()
    assert not driver.count("!shutdown-during-call").calls
    assert not driver.count("!shutdown-with-samples").calls


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return exporter_process.run(*arguments, f"--control.socket={folder / 'control'}")


def gpus_up(daemon: Daemon) -> list[float | None]:
    samples = parse(lines_of("gpu_up", daemon.get("/metrics")[2].decode()))
    return [find(samples, "gpu_up", gpu=str(gpu)) for gpu in (0, 1)]


def flags(folder: Path) -> tuple[str, ...]:
    return (*QUICK, *OTHERS, f"--control.socket={folder / 'control'}")


def test_release_and_resume(tmp_path: Path, driver: Driver) -> None:
    with running(tmp_path, *flags(tmp_path), environment=driver.environment()) as daemon:
        until(lambda: gpus_up(daemon) == [1, 1], "both GPUs")
        done = run_command(tmp_path, "release")
        assert done.returncode == 0, done.stderr
        assert "released until `inference-exporter resume`" in done.stdout
        # The driver is released before the command exits, and stays released.
        assert driver.system.count("nvmlShutdown").calls == 1
        calls = driver.system.count().calls
        until(lambda: gpus_up(daemon) == [0, 0], "gpu_up is 0")
        until(lambda: daemon.value("gpu_power_watts", gpu="0") is None, "the values are removed")
        assert driver.system.count().calls == calls
        daemon.until_logged("released by `inference-exporter release`")
        done = run_command(tmp_path, "resume")
        assert done.returncode == 0, done.stderr
        until(lambda: gpus_up(daemon) == [1, 1], "both GPUs again")
        until(lambda: daemon.value("gpu_power_watts", gpu="0") == 631.95, "its power")
        assert driver.system.count("nvmlInitWithFlags").calls == 2
    assert not (tmp_path / "control").exists()


def test_release_for_a_duration(tmp_path: Path, driver: Driver) -> None:
    with running(tmp_path, *flags(tmp_path), environment=driver.environment()) as daemon:
        until(lambda: gpus_up(daemon) == [1, 1], "both GPUs")
        done = run_command(tmp_path, "release", "--for=1s")
        assert "released for 1 s" in done.stdout
        assert driver.system.count("nvmlShutdown").calls == 1
        until(
            lambda: driver.system.count("nvmlInitWithFlags").calls == 2,
            "the driver initialised again",
        )
        until(lambda: gpus_up(daemon) == [1, 1], "both GPUs again")


def test_release_waits_for_a_hanging_call_and_reports_it(tmp_path: Path, driver: Driver) -> None:
    with running(tmp_path, *flags(tmp_path), environment=driver.environment()) as daemon:
        until(lambda: gpus_up(daemon) == [1, 1], "both GPUs")
        driver.gpu(1).delay("nvmlDeviceGetPowerUsage", 60)
        until(lambda: gpus_up(daemon) == [1, 0], "GPU 1 hangs")
        done = run_command(tmp_path, "release")
        assert done.returncode == 1
        assert "a call hangs in the NVIDIA driver" in done.stderr
        assert driver.system.count("nvmlShutdown").calls == 0
        driver.heal()
        until(lambda: driver.system.count("nvmlShutdown").calls == 1, "the release")


def test_the_daemon_runs_without_a_control_socket(tmp_path: Path, driver: Driver) -> None:
    socket = tmp_path / "file" / "control"
    socket.parent.write_text("")
    arguments = (*QUICK, *OTHERS, f"--control.socket={socket}")
    with running(tmp_path, *arguments, environment=driver.environment()) as daemon:
        until(lambda: gpus_up(daemon) == [1, 1], "both GPUs")
        daemon.until_logged("control.socket: not available")


def test_invalid_commands(tmp_path: Path) -> None:
    done = run_command(tmp_path, "release")
    assert done.returncode == 1
    assert "the daemon cannot be reached" in done.stderr
    for arguments in (("release", "--for=soon"), ("resume", "--for=5m"), ("once", "--for=5m")):
        done = run_command(tmp_path, *arguments)
        assert done.returncode == 2
        assert "--for" in done.stderr


def test_a_replaced_library_is_loaded_by_one_re_execution(tmp_path: Path, driver: Driver) -> None:
    """A driver update at run time: only a new process image can load the new library."""
    folder = tmp_path / "lib"
    folder.mkdir()
    library = folder / standin.LIBRARY
    shutil.copy(driver.library, library)
    environment = {**driver.environment(), "LD_LIBRARY_PATH": str(folder)}
    driver.system.fail("nvmlInitWithFlags", standin.LIB_RM_VERSION_MISMATCH)

    def re_executions(daemon: Daemon) -> int:
        return len(re.findall("restarting", daemon.log_text()))

    with running(
        tmp_path,
        *flags(tmp_path),
        environment=environment,
        development_mode=False,  # two new interpreters
        new_interpreter=True,
    ) as daemon:
        pid = daemon.process.pid
        until(
            lambda: "have different versions" in daemon.log_text(),
            "the version mismatch in the log",
        )
        daemon.until_logged("reload its kernel module or reboot")
        assert daemon.value("gpu_up") is None
        assert re_executions(daemon) == 0  # the same file: a re-execution would not help
        replacement = folder / "new"
        shutil.copy(driver.library, replacement)
        replacement.replace(library)
        until(lambda: re_executions(daemon) == 1, "the re-execution", seconds=30)
        until(lambda: _listen_count(daemon) == 2, "the second listen", seconds=30)
        daemon.port = _last_port(daemon)
        # Still a mismatch, and this file was tried: no second re-execution.
        calls = driver.system.count("nvmlInitWithFlags").calls
        until(
            lambda: driver.system.count("nvmlInitWithFlags").calls > calls, "another nvmlInit", 30
        )
        assert re_executions(daemon) == 1
        driver.heal()
        until(
            lambda: gpus_up(daemon) == [1, 1],
            "both GPUs after the reload of the kernel module",
            seconds=30,
        )
        assert daemon.process.pid == pid
        assert daemon.process.poll() is None


def _listen_count(daemon: Daemon) -> int:
    return len(re.findall(r"listening on 127\.0\.0\.1 port", daemon.log_text()))


def _last_port(daemon: Daemon) -> int:
    return int(re.findall(r"listening on 127\.0\.0\.1 port (\d+)", daemon.log_text())[-1])
