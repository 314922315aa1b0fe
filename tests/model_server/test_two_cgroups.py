"""Two servers with known work in two cgroups: their joules against the card's counter."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.daemon import QUICK, off, running
from tests.fakes.nvml.standin import Driver
from tests.model_server.two_cgroups import millijoules, two_servers, unowned
from tests.waiting import until

log = logging.getLogger(__name__)

FLAGS = (*QUICK, *off("triton", "host", "joins"), "--model-server.discover=off")
GIB = 1 << 30
# Of an H100 under load, hardware.csv: its mean power in milliwatts.
LOADED = 631_950


@pytest.mark.real
@pytest.mark.timeout(180)
def test_joules_of_two_servers_on_the_figures_of_an_h100(tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=1)
    start = 2**40 + 7
    driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", start)
    with two_servers((30, 10)) as (a, b):
        pids = (a.process.pid, b.process.pid)
        # Of an H100 with three processes: two of them work.
        memory = ((pids[0], 15 * GIB), (pids[1], 2 * GIB), (1, GIB))
        driver.gpu(0).processes("Compute", *memory)
        flags = (
            *FLAGS, a.url, b.url, "--containers.enabled=off",
            "--gpu.timeout=5s", "--gpu.max-age=20s", "--model-server.max-age=20s",
            "--model-server.interval=100ms", "--model-server.timeout=5s",
        )  # fmt: skip
        with running(tmp_path, *flags, environment=driver.environment()) as daemon:
            owners = until(
                lambda: with_owners(millijoules(daemon.samples()), {"a", "b", "other", ""}),
                "the owners",
                seconds=60,
            )
            assert set(owners.values()) == {0}, "the series start at 0"
            risen = owned = rounds = second = 0
            energy = {"a": 0}
            while rounds < 8:  # a uses 60 % of each second, b 20 %
                second += 1
                assert second < 40, f"{rounds} of {second} increases are those of a and b"
                risen += LOADED + second
                with driver.batch():
                    driver.gpu(0).busy((pids[0], second, 60), (pids[1], second, 20))
                    driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", start + risen)
                before = energy["a"]
                energy = until(
                    lambda total=risen: with_sum(millijoules(daemon.samples()), total),  # type: ignore[misc]  # a default binds
                    "the increase on the page",
                    seconds=30,
                )
                # An increase and its samples may be in two polls: the energy is then the rest's.
                if energy["a"] > before:
                    rounds, owned = rounds + 1, owned + LOADED + second
            assert second <= 3 * rounds, "few increases come apart from their samples"
            assert unowned(daemon)[0] == start, "no millijoule is lost"
            assert energy["other"] == 0
            assert energy["a"] == pytest.approx(0.6 * owned, abs=rounds)
            assert energy["b"] == pytest.approx(0.2 * owned, abs=rounds)
            assert daemon.value("model_server_gpu_memory_used_bytes", server="a") == 15 * GIB
            assert daemon.value("model_server_gpu_utilization_ratio", server="a") in (0.6, 0.0)
            assert daemon.value("model_server_gpu_processes", engine="other") == 1


def with_owners(energy: dict[str, int], owners: set[str]) -> dict[str, int]:
    """Returns the energy by owner if it is of exactly these; else an empty dict."""
    return energy if energy.keys() == owners else {}


def with_sum(energy: dict[str, int], total: int) -> dict[str, int]:
    """Returns the energy by owner if that of all is the total; else an empty dict."""
    return energy if sum(energy.values()) == total else {}


def _needs_gpu() -> None:
    smi = shutil.which("nvidia-smi")
    listed = [smi or "", "--query-gpu=uuid", "--format=csv,noheader"]
    if smi is None or subprocess.run(listed, capture_output=True, check=False).returncode:
        pytest.skip("no NVIDIA GPU with its driver on this machine")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pytest.skip("no libcuda.so.1")
    output = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    if len(output.splitlines()) != 1:
        pytest.skip("needs a machine with one GPU")


@pytest.mark.gpu
@pytest.mark.timeout(240)
def test_joules_of_two_servers_on_a_gpu(tmp_path: Path) -> None:
    """One works 30 ms of every 50 ms, the other 10 ms: about 60 and 20 % of the energy.

    The driver samples whose kernel runs: on an H100 the estimates were 61 and 14 %.
    """
    _needs_gpu()
    with two_servers((30, 10), "cuda") as (a, b):
        flags = (
            "--web.listen-address=127.0.0.1:0", "--gpu.interval=1s", "--gpu.timeout=1s",
            "--model-server.interval=100ms", "--model-server.timeout=5s",
            "--model-server.discover=off", a.url, b.url, *off("triton", "host", "containers"),
        )  # fmt: skip
        with running(tmp_path, *flags, development_mode=False) as daemon:
            until(
                lambda: {"a", "b"} <= set(millijoules(daemon.samples())), "the owners", seconds=60
            )

            # Less than in the moments between a poll of the GPU and that of the servers.
            base = min(unowned(daemon)[0] for _ in range(50))
            _, before = unowned(daemon)
            joules = until(
                lambda: _grown(before, unowned(daemon)[1], 5_000_000), "5 kJ", seconds=120
            )
            assert joules is not None
            log.info("millijoules: %s", joules)
            until(lambda: unowned(daemon)[0] == base, "the sum of all owners to the millijoule")
            tokens = {
                name: daemon.value("model_server_generated_tokens_total", server=name) or 0
                for name in "ab"
            }
            work = tokens["a"] / tokens["b"]
            assert work == pytest.approx(3, rel=0.3), tokens
            total = sum(joules.values())
            assert joules["a"] / total == pytest.approx(0.6, abs=0.1), joules
            assert joules["b"] / total == pytest.approx(0.2, abs=0.1), joules
            assert daemon.value("model_server_gpu_processes", server="a") == 1
            assert (daemon.value("model_server_gpu_memory_used_bytes", server="b") or 0) > 1 << 20


def _grown(before: dict[str, int], after: dict[str, int], millijoule: int) -> dict[str, int] | None:
    """Returns the increases, if they are that large together."""
    increases = {owner: energy - before.get(owner, 0) for owner, energy in after.items()}
    return increases if sum(increases.values()) >= millijoule else None
