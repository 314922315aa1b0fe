"""Runs in the virtual machine, as root: installs by the documented steps and checks the service.

    check.py short | full

Prints `ok: …` for each thing found true, with seconds since the boot; leaves figures in
/job/out/figures.json. Ends at the first thing that is not true. The full form reboots once.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

JOB = Path("/job")
OUT = JOB / "out"
UNIT = "inference-exporter"
PREFIX = Path("/opt/inference-exporter")
NVML = Path("/var/lib/nvml-standin")
SLEEP = "exec sleep 1000000"

Figures = dict[str, object]


def sh(command: str, *, fails: bool = False, seconds: float = 300) -> str:
    """Run a shell command; gives what it printed."""
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if not fails:
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return (done.stdout + done.stderr).strip()


def ok(text: str) -> None:
    print(f"ok: {float(Path('/proc/uptime').read_text().split()[0]):6.1f} s  {text}")


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    ok(what)


def shown(name: str) -> str:
    """A property of the unit."""
    return sh(f"systemctl show {UNIT} --property={name} --value")


def pid() -> int:
    return int(shown("MainPID"))


def page() -> str:
    """The metrics now; empty while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", 10400, timeout=60)
    try:
        connection.request("GET", "/metrics")
        reply = connection.getresponse()
        return reply.read().decode() if reply.status == 200 else ""
    except OSError:
        return ""
    finally:
        connection.close()


def value(name: str, *labels: str) -> float | None:
    """The one sample of the name whose labels hold these texts."""
    lines = [
        line
        for line in page().splitlines()
        if re.match(rf"{name}[{{ ]", line) and all(label in line for label in labels)
    ]
    assert len(lines) < 2, lines
    return float(lines[0].rsplit(" ", 1)[1]) if lines else None


def journal(since: str = "") -> str:
    return sh(f"journalctl --no-pager -o cat -u {UNIT} {since}", fails=True)


def install() -> None:
    """As docs/install.md says, with the wheels that were brought along in place of an index.

    The short form finds them unpacked, as pip takes minutes under emulation.
    """
    if (JOB / "wheels").exists():
        sh(f"python3 -m venv {PREFIX}")
        sh(f"{PREFIX}/bin/pip install --no-index --find-links /job/wheels inference-exporter")
    else:
        sh(f"python3 -m venv --without-pip {PREFIX}")
        (site,) = PREFIX.glob("lib/python3*/site-packages")
        sh(f"cp -a /job/unpacked/. {site} && mv {site}/share {PREFIX}/share")
        command = PREFIX / "bin/inference-exporter"
        shutil.move(site / "bin/inference-exporter", command)
        sh(f"sed -i '1s|.*|#!{PREFIX}/bin/python|' {command}")
    ok("installed from the wheel")
    # For this test alone: SIGUSR1 blocks the event loop.
    (site,) = PREFIX.glob("lib/python3*/site-packages")
    shutil.copy(JOB / "block_on_signal.py", site)
    (site / "block_on_signal.pth").write_text("import block_on_signal\n")
    ok(sh(f"{PREFIX}/share/inference-exporter/systemd/install.sh"))
    sh(f"{PREFIX}/share/inference-exporter/systemd/install.sh")
    ok("installing again changes nothing")


def driver() -> None:
    """The driver's stand-in where the driver would be."""
    shutil.copy(JOB / "libnvidia-ml.so.1", "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")
    NVML.mkdir()
    shutil.copy(JOB / "nvml", NVML / "nvml")
    shutil.chown(NVML, "inference-exporter")
    with Path("/etc/inference-exporter/environment").open("a") as file:
        file.write(f"NVML_STANDIN_FILE={NVML}/nvml\n")
    drop_in("standin", f"[Service]\nReadWritePaths={NVML}\n")  # it counts its calls there


def drop_in(name: str, text: str) -> None:
    folder = Path(f"/etc/systemd/system/{UNIT}.service.d")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.conf").write_text(text)
    sh("systemctl daemon-reload")


def hang_gpus(*, hang: bool) -> None:
    lines = (JOB / "nvml").read_text()
    if hang:
        lines += "* * delay 600\nsystem * delay 600\n"
    new = NVML / "nvml.new"
    new.write_text(lines)
    os.utime(new, ns=(time.time_ns(), time.time_ns()))
    new.replace(NVML / "nvml")


def containers() -> None:
    sh("systemctl start docker")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tree:
        tree.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tree.addfile(link)
    subprocess.run(["docker", "import", "-", "busy:1"], input=buffer.getvalue(), check=True)
    sh(f"docker run -d --name limited --memory 64m --restart always busy:1 sh -c '{SLEEP}'")
    ok("dockerd runs " + sh("docker info -f '{{.CgroupDriver}} cgroup v{{.CgroupVersion}}'"))


def starts(figures: Figures) -> None:
    begun = time.monotonic()
    sh(f"systemctl enable --now {UNIT}")
    figures["start_to_ready_seconds"] = round(time.monotonic() - begun, 1)
    assert page(), "the page is there as soon as systemctl returns"
    figures["start_to_first_scrape_seconds"] = round(time.monotonic() - begun, 1)
    assert shown("Type") == "notify"
    assert shown("ActiveState") == "active"
    ok(f"started, told systemd, scraped: {figures}")


def reads_everything(figures: Figures) -> None:
    until(lambda: value("container_engine_up") == 1, "it reads Docker's socket")
    limit = "container_spec_memory_limit_bytes"
    until(lambda: value(limit, 'name="limited"') == 64 << 20, "and cgroup v2: 64 MiB of limit")
    assert (value("container_memory_working_set_bytes", 'name="limited"') or 0) > 0
    until(lambda: value("gpu_up", 'gpu="1"') == 1, "and the GPUs by NVML (the stand-in)")
    assert value("host_load1") is not None
    root = value("host_filesystem_read_only", 'mountpoint="/"')
    assert root == 0, "the sandbox is read-only, the disk is not"
    until(lambda: "Containers: ok" in shown("StatusText"), "systemctl status tells how it fares")
    figures["resident_bytes"] = value("process_resident_memory_bytes")
    figures["status"] = shown("StatusText")


def is_confined(figures: Figures) -> None:
    status = Path(f"/proc/{pid()}/status").read_text()
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert facts["Uid"].split()[0] != "0", "not root"
    assert {facts[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    # What a program in its place could do: nothing to the disks, the devices, the kernel.
    enter = f"nsenter --target {pid()} --mount --setuid={facts['Uid'].split()[0]} --"
    for path in ("/etc/x", "/opt/x", "/var/x", "/sys/fs/cgroup/x", "/proc/sys/kernel/hostname"):
        assert "ead-only" in sh(f"{enter} sh -c ': >{path}'", fails=True), path
    score = sh(f"systemd-analyze security --no-pager {UNIT}", fails=True)
    (OUT / "security.txt").write_text(score)
    figures["security"] = re.findall(r"exposure level.*?: (\S+ \w+)", score)[0]
    ok(f"confined: exposure level {figures['security']}")


def reloads() -> None:
    config = Path("/etc/inference-exporter/config.yaml")
    before = pid()
    config.write_text("triton: {enabled: on}\n")
    sh(f"systemctl reload {UNIT}")
    until(lambda: value("inference_exporter_source_up", 'source="triton"') == 0, "reloaded")
    config.write_text("triton: {enabled: perhaps}\n")
    sh(f"systemctl reload {UNIT}")
    until(lambda: "settings refused" in journal(), "a bad file is refused")
    assert shown("ActiveState") == "active"
    config.write_text("")
    sh(f"systemctl reload {UNIT}")
    assert pid() == before, "the same process all the while"


def comes_back_after(what: str, harm: Callable[[int], None], seconds: float) -> None:
    before, restarts = pid(), int(shown("NRestarts"))
    harm(before)
    until(
        lambda: int(shown("NRestarts")) > restarts and shown("ActiveState") == "active",
        f"restarted after {what}",
        seconds,
    )
    assert pid() not in (0, before)
    assert page()


def survives_hangs(watchdog: float) -> None:
    """Longer than the watchdog's time and the lateness allowed to a poller: 10 s."""
    before, restarts = pid(), shown("NRestarts")
    engine = int(Path("/run/docker.pid").read_text())
    hang_gpus(hang=True)
    os.kill(engine, signal.SIGSTOP)
    until(lambda: value("gpu_up", 'gpu="0"') == 0, "the GPUs hang")
    until(lambda: value("container_engine_up") == 0, "Docker hangs")
    time.sleep(watchdog + 12)
    assert (pid(), shown("NRestarts")) == (before, restarts), "restarted for a hang not its own"
    ok("not restarted while they hang")
    hang_gpus(hang=False)
    os.kill(engine, signal.SIGCONT)
    until(lambda: value("gpu_up", 'gpu="0"') == 1, "the GPUs are back")
    until(lambda: value("container_engine_up") == 1, "Docker is back")


def stops(figures: Figures) -> None:
    begun = time.monotonic()
    sh(f"systemctl stop {UNIT}")
    figures["stop_seconds"] = round(time.monotonic() - begun, 1)
    assert shown("Result") == "success", shown("Result")
    assert shown("ExecMainStatus") == "0"
    ok(f"stopped cleanly in {figures['stop_seconds']} s")


def socket_activated() -> None:
    """With its socket held by systemd: the first request starts it, a restart refuses none."""
    with Path("/etc/inference-exporter/environment").open("a") as file:
        file.write("INFERENCE_EXPORTER_WEB_SYSTEMD_SOCKET=true\n")
    sh(f"systemctl enable --now {UNIT}.socket")
    assert shown("ActiveState") == "inactive"
    assert page(), "the first request started the service and was answered"
    before = pid()
    sh(f"systemctl restart --no-block {UNIT}")
    until(lambda: pid() not in (0, before), "restarted under its socket")
    assert page(), "asked at once, answered"
    ok("socket activation")


def removes() -> None:
    ok(sh(f"{PREFIX}/share/inference-exporter/systemd/install.sh --remove"))
    assert not Path(f"/etc/systemd/system/{UNIT}.service").exists()
    assert "no such user" in sh(f"id {UNIT}", fails=True)


def first_boot(form: str) -> None:
    figures: Figures = {}
    watchdog = 30.0
    install()
    driver()
    containers()
    if form == "short":
        watchdog = 8.0
        drop_in("quick", f"[Service]\nWatchdogSec={watchdog:g}s\nTimeoutAbortSec=2s\n")
    starts(figures)
    reads_everything(figures)
    is_confined(figures)
    reloads()
    comes_back_after("SIGKILL", lambda main: os.kill(main, signal.SIGKILL), 60)
    comes_back_after(
        "its event loop was blocked", lambda main: os.kill(main, signal.SIGUSR1), watchdog + 60
    )
    assert "Fatal Python error: Aborted" in journal(), "the stacks are in the journal"
    if form == "full":
        comes_back_after(
            "it was stopped (SIGSTOP)", lambda main: os.kill(main, signal.SIGSTOP), watchdog + 60
        )
        survives_hangs(watchdog)
    stops(figures)
    (OUT / "figures.json").write_text(json.dumps(figures, indent=1))


def second_boot() -> None:
    """Whether it comes up by itself, after Docker, and finds what is there."""
    until(lambda: shown("ActiveState") == "active", "up by itself after a boot", 120)

    def since(unit: str, name: str) -> int:
        return int(sh(f"systemctl show {unit} --property={name} --value"))

    docker = since("docker.service", "ActiveEnterTimestampMonotonic")
    ours = since(f"{UNIT}.service", "ExecMainStartTimestampMonotonic")
    assert 0 < docker <= ours, (docker, ours)
    ok(f"started {(ours - docker) / 1e6:.1f} s after docker.service was up")
    assert shown("NRestarts") == "0"
    until(lambda: value("container_up", 'name="limited"') != 0 and page(), "scraped")
    until(
        lambda: value("container_spec_memory_limit_bytes", 'name="limited"') == 64 << 20,
        "the container that Docker started again is there",
    )
    sh(f"systemctl stop {UNIT}")
    socket_activated()
    removes()


def main() -> None:
    form = sys.argv[1]
    OUT.mkdir(exist_ok=True)
    try:
        if (JOB / "rebooted").exists():
            second_boot()
        else:
            first_boot(form)
            if form == "full":
                (JOB / "rebooted").touch()
                (JOB / "reboot").touch()
    except BaseException:
        print(journal()[-6000:])
        print(sh(f"systemctl --no-pager status {UNIT}", fails=True))
        raise


if __name__ == "__main__":
    main()
