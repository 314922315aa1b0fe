"""Letting go of the driver by command, and being run anew when its library was replaced."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import QUICK, Daemon, off, running
from tests.fakes.nvml import standin
from tests.fakes.nvml.standin import Driver
from tests.waiting import until

REST = off("containers", "triton", "host", "itself")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path, gpus=2)
    yield driver
    driver.heal()
    assert not driver.count("!shutdown-during-call").calls
    assert not driver.count("!shutdown-with-samples").calls


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exporter", *words, f"--control.socket={folder / 'control'}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def up(daemon: Daemon) -> list[float | None]:
    return [daemon.value("gpu_up", gpu=str(gpu)) for gpu in (0, 1)]


def flags(folder: Path) -> tuple[str, ...]:
    return (*QUICK, *REST, f"--control.socket={folder / 'control'}")


def test_release_and_resume(tmp_path: Path, driver: Driver) -> None:
    with running(tmp_path, *flags(tmp_path), environment=driver.environment()) as daemon:
        until(lambda: up(daemon) == [1, 1], "both GPUs")
        done = command(tmp_path, "release")
        assert done.returncode == 0, done.stderr
        assert "let go until `inference-exporter resume`" in done.stdout
        # By the time the command has ended the driver is let go, and stays so.
        assert driver.system.count("nvmlShutdown").calls == 1
        calls = driver.system.count().calls
        until(lambda: up(daemon) == [0, 0], "the page says so")
        until(lambda: daemon.value("gpu_power_watts", gpu="0") is None, "the values are gone")
        assert driver.system.count().calls == calls
        assert "released by `inference-exporter release`" in daemon.log_text()
        done = command(tmp_path, "resume")
        assert done.returncode == 0, done.stderr
        until(lambda: up(daemon) == [1, 1], "both GPUs again")
        assert daemon.value("gpu_power_watts", gpu="0") == 631.95
        assert driver.system.count("nvmlInitWithFlags").calls == 2
    assert not (tmp_path / "control").exists()


def test_release_for_a_while(tmp_path: Path, driver: Driver) -> None:
    with running(tmp_path, *flags(tmp_path), environment=driver.environment()) as daemon:
        until(lambda: up(daemon) == [1, 1], "both GPUs")
        done = command(tmp_path, "release", "--for=1s")
        assert "let go for 1 s" in done.stdout
        assert driver.system.count("nvmlShutdown").calls == 1
        until(
            lambda: driver.system.count("nvmlInitWithFlags").calls == 2,
            "the driver taken up by itself",
        )
        until(lambda: up(daemon) == [1, 1], "both GPUs again")


def test_a_call_that_hangs_is_waited_for_and_said(tmp_path: Path, driver: Driver) -> None:
    with running(tmp_path, *flags(tmp_path), environment=driver.environment()) as daemon:
        until(lambda: up(daemon) == [1, 1], "both GPUs")
        driver.gpu(1).delay("nvmlDeviceGetPowerUsage", 60)
        until(lambda: up(daemon) == [1, 0], "GPU 1 hangs")
        done = command(tmp_path, "release")
        assert done.returncode == 1
        assert "a call hangs in the NVIDIA driver" in done.stderr
        assert driver.system.count("nvmlShutdown").calls == 0
        driver.heal()
        until(lambda: driver.system.count("nvmlShutdown").calls == 1, "it is let go then")


def test_without_a_socket_the_daemon_runs(tmp_path: Path, driver: Driver) -> None:
    socket = tmp_path / "file" / "control"
    socket.parent.write_text("")
    settings = (*QUICK, *REST, f"--control.socket={socket}")
    with running(tmp_path, *settings, environment=driver.environment()) as daemon:
        until(lambda: up(daemon) == [1, 1], "both GPUs")
        assert "no commands can be taken" in daemon.log_text()


def test_commands_that_cannot_be(tmp_path: Path) -> None:
    done = command(tmp_path, "release")
    assert done.returncode == 1
    assert "the daemon cannot be reached" in done.stderr
    for words in (("release", "--for=soon"), ("resume", "--for=5m"), ("once", "--for=5m")):
        done = command(tmp_path, *words)
        assert done.returncode == 2
        assert "--for" in done.stderr


def test_a_library_that_was_replaced_is_loaded_by_starting_over_once(
    tmp_path: Path, driver: Driver
) -> None:
    """A driver updated underneath: only a new process can load its library."""
    folder = tmp_path / "lib"
    folder.mkdir()
    library = folder / standin.LIBRARY
    shutil.copy(driver.library, library)
    environment = {**driver.environment(), "LD_LIBRARY_PATH": str(folder)}
    driver.system.fail("nvmlInitWithFlags", standin.LIB_RM_VERSION_MISMATCH)

    def starts(daemon: Daemon) -> int:
        return len(re.findall("starting over", daemon.log_text()))

    with running(tmp_path, *flags(tmp_path), environment=environment) as daemon:
        pid = daemon.process.pid
        until(lambda: "have different versions" in daemon.log_text(), "it says what is wrong")
        assert "reload its kernel module or reboot" in daemon.log_text()
        assert daemon.value("gpu_up") is None
        assert starts(daemon) == 0  # the same file: a new process would change nothing
        replacement = folder / "new"
        shutil.copy(driver.library, replacement)
        replacement.replace(library)
        until(lambda: starts(daemon) == 1, "it starts over", seconds=30)
        until(lambda: _ports(daemon) == 2, "it listens again", seconds=30)
        daemon.port = _last_port(daemon)
        # It still does not match, and that file has been tried.
        calls = driver.system.count("nvmlInitWithFlags").calls
        until(lambda: driver.system.count("nvmlInitWithFlags").calls > calls, "it tries", 30)
        assert starts(daemon) == 1
        driver.heal()
        until(lambda: up(daemon) == [1, 1], "the kernel module was reloaded", seconds=30)
        assert daemon.process.pid == pid
        assert daemon.process.poll() is None


def _ports(daemon: Daemon) -> int:
    return len(re.findall(r"listening on 127\.0\.0\.1 port", daemon.log_text()))


def _last_port(daemon: Daemon) -> int:
    return int(re.findall(r"listening on 127\.0\.0\.1 port (\d+)", daemon.log_text())[-1])
