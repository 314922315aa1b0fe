"""Upgrades the systemd service from 0.1 to this version and back; runs in the virtual machine.

    python -m tests.deploy.vm_job.upgrade VERSION

The commands are those of docs/install.md, with the job's wheels instead of checkouts: `old` has the
wheel of 0.1, `new` that of this version. The dependencies are links to the job's unpacked ones: in
the machine, pip takes minutes for them. Prints and measures as check.py.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path

from tests.deploy.vm_job.check import (
    JOB,
    NVML,
    OUT,
    PACKAGES,
    PREFIX,
    UNIT,
    Measurements,
    Pace,
    drop_in,
    install_driver,
    journal,
    ok,
    page,
    pid,
    scrape,
    sh,
    start_containers,
    unit_property,
    until,
    value,
)

OLD = "0.1.0"
ETC = Path("/etc/inference-exporter")
BEFORE = Path("/etc/inference-exporter.before")
DROP_IN = Path(f"/etc/systemd/system/{UNIT}.service.d/kernel-log.conf")
INSTALL = f"{PREFIX}/share/inference-exporter/systemd/install.sh"
SETTINGS = "log: {level: debug}\ntriton: {enabled: off}\ncontainers: {interval: 2s}\n"
# Counters of the container and the GPU, not of the daemon: an upgrade must not reset them.
COUNTERS = (
    ("container_cpu_usage_seconds_total", 'name="limited"'),
    ("gpu_energy_joules_total", 'gpu="0"'),
)


def version() -> str:
    """Returns the version of the running daemon; empty before it listens."""
    found = re.search(r'^inference_exporter_build_info\{.*?version="(.*?)"', page(), re.MULTILINE)
    return found[1] if found else ""


def create_environment() -> None:
    """Creates the virtual environment, with the dependencies but without the exporter."""
    sh(f"/usr/bin/python3 -m venv {PREFIX}")
    (site,) = PREFIX.glob("lib/python3*/site-packages")
    for package in PACKAGES.iterdir():
        if not package.name.startswith(("bin", "share", "exporter", "inference_exporter")):
            (site / package.name).symlink_to(package)


def pip(arguments: str, folder: str) -> float:
    """Installs the wheel in a folder of the job, instead of `.`; returns the seconds it took."""
    started = time.monotonic()
    (wheel,) = (JOB / folder).glob("inference_exporter-*.whl")
    sh(f"{PREFIX}/bin/pip install --no-index --no-deps {arguments} {wheel}")
    return round(time.monotonic() - started, 1)


def complete() -> bool:
    """Returns whether the page has the values of GPUs, containers and host."""
    return (
        value("gpu_up", 'gpu="1"') == 1
        and value("container_spec_memory_limit_bytes", 'name="limited"') == 64 << 20
        and value("host_load1") is not None
        and all(value(*counter) is not None for counter in COUNTERS)
    )


def names() -> set[str]:
    """Returns the names of all samples of the page."""
    return set(re.findall(r"^([a-zA-Z_:]\w*)[{ ]", page(), re.MULTILINE))


def files() -> dict[str, tuple[str, str, str, str]]:
    """Returns content, owner, group and mode of the files in /etc/inference-exporter."""
    return {
        path.name: (path.read_text(), path.owner(), path.group(), oct(path.stat().st_mode))
        for path in ETC.iterdir()
    }


def restart(measurements: Measurements, step: str) -> None:
    started = time.monotonic()
    sh(f"systemctl restart {UNIT}")
    status, _ = scrape()
    assert status == 200, "not available when systemctl returns"
    measurements[f"{step}_restart_to_scrape_seconds"] = round(time.monotonic() - started, 1)


def install_old(measurements: Measurements) -> None:
    create_environment()
    measurements["pip_install_seconds"] = pip("", "old")
    sh(INSTALL)
    install_driver()
    drop_in(
        f"ReadWritePaths={NVML}",  # the stand-in counts its calls there
        f"TimeoutStartSec={max(60, 5 * Pace.seconds):.0f}s",
    )
    (ETC / "config.yaml").write_text(SETTINGS)
    sh(f"systemctl enable --now {UNIT}")
    until(complete, f"{OLD} reads GPUs, containers and host")
    assert version() == OLD


def upgrade(measurements: Measurements, new: str) -> None:
    before, old_names, process = files(), names(), pid()
    counts = {counter: value(*counter) or 0 for counter in COUNTERS}
    sh(f"cp -a {ETC} {BEFORE}")
    measurements["pip_upgrade_seconds"] = pip("--upgrade", "new")
    sh(f"{INSTALL} --kernel-log")
    assert DROP_IN.exists()
    assert (pid(), version()) == (process, OLD)
    assert complete()
    ok(f"{OLD} still serves scrapes after the installation of {new}")
    restart(measurements, "upgrade")
    assert version() == new
    until(complete, f"{new} reads GPUs, containers and host")
    until(lambda: not old_names - names(), "and has every metric of the page before", 60)
    for counter, count in counts.items():
        assert (value(*counter) or 0) >= count, counter
    assert files() == before, "install.sh changed the settings"
    assert unit_property("NRestarts") == "0"
    check = (
        f"runuser -u {UNIT} -- {PREFIX}/bin/inference-exporter check"
        f" --config.file={ETC}/config.yaml; echo exit code $?"
    )
    # The engine of a busy machine may respond too slowly once.
    until(
        lambda: re.search(r"^Containers +ok\b(.|\n)*^exit code 0$", sh(check), re.MULTILINE),
        "check of the service's user reads the containers",
    )
    ok(f"upgraded from {OLD} to {new}: {measurements}")


def roll_back(measurements: Measurements) -> None:
    with (ETC / "config.yaml").open("a") as file:
        file.write("model_server: {enabled: auto}\n")
    sh(f"systemctl reload {UNIT}")
    until(lambda: "settings reloaded" in journal(), "a key that 0.1 does not know is accepted")
    measurements["pip_rollback_seconds"] = pip("--force-reinstall", "old")
    DROP_IN.unlink()
    sh(INSTALL)
    # Without the old settings: one line, exit code 2, no restart.
    sh(f"systemctl restart {UNIT}", may_fail=True)
    until(lambda: unit_property("ActiveState") == "failed", f"{OLD} refuses the new key")
    assert unit_property("ExecMainStatus") == "2"
    assert unit_property("NRestarts") == "0"
    assert "config.yaml: model_server: unknown section" in journal()
    sh(f"cp -a {BEFORE}/. {ETC}/")
    restart(measurements, "rollback")
    assert version() == OLD
    until(complete, f"{OLD} reads GPUs, containers and host again")
    assert unit_property("ActiveState") == "active"
    ok(f"rolled back to {OLD}: {measurements}")


def main() -> None:
    new = sys.argv[1]
    measurements: Measurements = {}
    # The job before has left its installation and its container.
    sh(f"systemctl stop {UNIT}.socket {UNIT}.service", may_fail=True)
    for folder in (PREFIX, ETC, BEFORE, NVML):
        shutil.rmtree(folder, ignore_errors=True)
    sh("systemctl start docker; docker rm -f limited", may_fail=True)
    start_containers()
    try:
        install_old(measurements)
        upgrade(measurements, new)
        roll_back(measurements)
    except BaseException:
        print(journal()[-6000:])
        print(sh(f"systemctl --no-pager status {UNIT}", may_fail=True))
        raise
    (OUT / "measurements.json").write_text(json.dumps(measurements, indent=1))


if __name__ == "__main__":
    main()
