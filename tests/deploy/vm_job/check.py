"""Installs the service by the documented steps and checks it; runs as root in the virtual machine.

    check.py short | full

Prints `ok: …` for each passed check, with seconds since boot; writes measurements to
$OUT/measurements.json. Stops at the first failure. The full form reboots once.
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

JOB = Path.cwd()
PACKAGES = JOB.parent / "packages"  # the wheel and its dependencies, unpacked
REBOOT = JOB.parent / "reboot"
OUT = Path(os.environ["OUT"])
UNIT = "inference-exporter"
PREFIX = Path("/opt/inference-exporter")
NVML = Path("/var/lib/nvml-standin")
SLEEP = "exec sleep 1000000"

Measurements = dict[str, object]


def sh(command: str, *, may_fail: bool = False, seconds: float = 1500) -> str:
    """Runs a shell command; returns its stdout and stderr."""
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if not may_fail:
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return (done.stdout + done.stderr).strip()


def ok(text: str) -> None:
    print(f"ok: {float(Path('/proc/uptime').read_text().split()[0]):6.1f} s  {text}")


class Pace:
    """The speed of the machine, on a host that may be busy.

    seconds: for the start of Docker and of a container. Deadlines that a test waits for are
    multiples of it.
    """

    seconds = 0.0


def until(condition: Callable[[], object], check: str, seconds: float = 120) -> None:
    seconds = max(seconds, 10 * Pace.seconds)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {check}"
        time.sleep(0.3)
    ok(check)


def unit_property(name: str) -> str:
    return sh(f"systemctl show {UNIT} --property={name} --value")


def pid() -> int:
    return int(unit_property("MainPID"))


def scrape(path: str = "/metrics") -> tuple[int, str]:
    """Returns status and body of a page; 0 and the error without a response."""
    connection = http.client.HTTPConnection("127.0.0.1", 10400, timeout=60)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    except OSError as error:
        return 0, repr(error)
    finally:
        connection.close()


def page() -> str:
    """Returns the metrics page; empty before the daemon listens."""
    status, body = scrape()
    return body if status == 200 else ""


def value(name: str, *labels: str) -> float | None:
    """Returns the only sample of the name whose line contains these labels."""
    lines = [
        line
        for line in page().splitlines()
        if re.match(rf"{name}[{{ ]", line) and all(label in line for label in labels)
    ]
    assert len(lines) < 2, lines
    return float(lines[0].rsplit(" ", 1)[1]) if lines else None


def start_time() -> float:
    """Returns the start time of the daemon, in seconds since the epoch; 0 without a page."""
    return value("process_start_time_seconds") or 0


def journal(since: str = "") -> str:
    return sh(f"journalctl --no-pager -o cat -u {UNIT} {since}", may_fail=True)


def install() -> None:
    """Installs as in docs/install.md, from the job's wheels instead of an index.

    The short form links to them unpacked: in the machine, pip takes minutes.
    """
    if (JOB / "wheels").exists():
        sh(f"python3 -m venv {PREFIX}")
        sh(f"{PREFIX}/bin/pip install --no-index --find-links {JOB}/wheels inference-exporter")
    else:
        sh(f"python3 -m venv --without-pip {PREFIX}")
        (site,) = PREFIX.glob("lib/python3*/site-packages")
        site.rmdir()
        site.symlink_to(PACKAGES)
        shutil.copytree(site / "share", PREFIX / "share")
        command = PREFIX / "bin/inference-exporter"
        shutil.copy(site / "bin/inference-exporter", command)
        sh(f"sed -i '1s|.*|#!{PREFIX}/bin/python|' {command}")
    ok("installed from the wheel")
    # For this test: SIGUSR1 blocks the event loop.
    (site,) = PREFIX.glob("lib/python3*/site-packages")
    shutil.copy(JOB / "block_on_signal.py", site)
    (site / "block_on_signal.pth").write_text("import block_on_signal\n")
    ok(sh(f"{PREFIX}/share/inference-exporter/systemd/install.sh"))
    sh(f"{PREFIX}/share/inference-exporter/systemd/install.sh")
    ok("install.sh is idempotent")


def install_driver() -> None:
    """Installs the NVML stand-in as the driver's library, for the service's user."""
    shutil.copy(JOB / "libnvidia-ml.so.1", "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")
    NVML.mkdir()
    shutil.copy(JOB / "nvml", NVML / "nvml")
    shutil.chown(NVML, "inference-exporter")
    with Path("/etc/inference-exporter/environment").open("a") as file:
        file.write(f"NVML_STANDIN_FILE={NVML}/nvml\n")


def drop_in(*settings: str) -> None:
    """Changes settings of the unit."""
    folder = Path(f"/etc/systemd/system/{UNIT}.service.d")
    folder.mkdir(exist_ok=True)
    (folder / "test.conf").write_text("\n".join(["[Service]", *settings, ""]))
    sh("systemctl daemon-reload")


def hang_gpus(*, hang: bool) -> None:
    lines = (JOB / "nvml").read_text()
    if hang:
        lines += "* * delay 600\nsystem * delay 600\n"
    new = NVML / "nvml.new"
    new.write_text(lines)
    os.utime(new, ns=(time.time_ns(), time.time_ns()))
    new.replace(NVML / "nvml")


def start_containers() -> None:
    started = time.monotonic()
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
    Pace.seconds = time.monotonic() - started
    ok("dockerd uses " + sh("docker info -f '{{.CgroupDriver}} cgroup v{{.CgroupVersion}}'"))


def check_start(measurements: Measurements) -> None:
    started = time.monotonic()
    sh(f"systemctl enable --now {UNIT}")
    measurements["start_to_ready_seconds"] = round(time.monotonic() - started, 1)
    status, body = scrape()
    assert status == 200, f"not available when systemctl returns: {status} {body[:200]}"
    measurements["start_to_first_scrape_seconds"] = round(time.monotonic() - started, 1)
    assert unit_property("Type") == "notify"
    assert unit_property("ActiveState") == "active"
    ok(f"started, notified systemd, scraped: {measurements}")


def check_sources(measurements: Measurements) -> None:
    until(lambda: value("container_engine_up") == 1, "Docker's socket is read")
    limit = "container_spec_memory_limit_bytes"
    until(
        lambda: value(limit, 'name="limited"') == 64 << 20, "cgroup v2 is read: memory limit 64 MiB"
    )
    assert (value("container_memory_working_set_bytes", 'name="limited"') or 0) > 0
    until(lambda: value("gpu_up", 'gpu="1"') == 1, "the GPUs are read by NVML (stand-in)")
    until(lambda: value("host_load1") is not None, "the load is read")
    until(
        lambda: value("host_filesystem_read_only", 'mountpoint="/"') == 0,
        "the sandbox is read-only, the disk is not",
    )
    until(
        lambda: "Containers: ok" in unit_property("StatusText"),
        "systemctl status shows the sources' state",
    )
    measurements["resident_bytes"] = value("process_resident_memory_bytes")
    measurements["status"] = unit_property("StatusText")


def check_sandbox(measurements: Measurements) -> None:
    status = Path(f"/proc/{pid()}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert fields["Uid"].split()[0] != "0", "not root"
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    # No write access to disks, cgroups and kernel settings.
    enter = f"nsenter --target {pid()} --mount --setuid={fields['Uid'].split()[0]} --"
    for path in ("/etc/x", "/opt/x", "/var/x", "/sys/fs/cgroup/x", "/proc/sys/kernel/hostname"):
        assert "ead-only" in sh(f"{enter} sh -c ': >{path}'", may_fail=True), path
    score = sh(f"systemd-analyze security --no-pager {UNIT}", may_fail=True)
    (OUT / "security.txt").write_text(score)
    measurements["security"] = re.findall(r"exposure level.*?: (\S+ \w+)", score)[0]
    ok(f"confined: exposure level {measurements['security']}")


def install_kernel_log() -> None:
    """Installs the drop-in for the kernel's log; it takes effect at the next start."""
    status, body = scrape("/")
    assert status == 200, status
    assert "XIDs from NVML: the kernel&#x27;s log cannot be read: no permission" in body, body
    Path("/proc/sys/kernel/dmesg_restrict").write_text("1")  # reading needs CAP_SYSLOG
    sh(f"{PREFIX}/share/inference-exporter/systemd/install.sh --kernel-log")
    ok("without the drop-in, XIDs are from NVML")


def check_kernel_log() -> None:
    """Checks that the daemon's user reads the kernel's log, with one capability and no other."""
    until(
        lambda: "XIDs from the kernel&#x27;s log" in scrape("/")[1],
        "with the drop-in, XIDs are from the kernel's log",
    )
    status = Path(f"/proc/{pid()}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert fields["Uid"].split()[0] != "0", "not root"
    capabilities = {int(fields[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd", "Amb")}
    assert capabilities == {1 << 34}, "CAP_SYSLOG"
    assert fields["NoNewPrivs"] == "1"
    assert value("gpu_xid_errors_total", 'gpu="0"', 'xid="79"') == 0


def check_reload() -> None:
    config = Path("/etc/inference-exporter/config.yaml")
    before = pid()
    config.write_text("triton: {enabled: on}\n")
    sh(f"systemctl reload {UNIT}")
    until(lambda: value("inference_exporter_source_up", 'source="triton"') == 0, "reloaded")
    config.write_text("triton: {enabled: perhaps}\n")
    sh(f"systemctl reload {UNIT}")
    until(lambda: "settings refused" in journal(), "an invalid file is refused")
    assert unit_property("ActiveState") == "active"
    config.write_text("")
    sh(f"systemctl reload {UNIT}")
    assert pid() == before, "still the same process"


def check_restart_after(fault: str, inject: Callable[[int], None], seconds: float) -> None:
    before, restarts = pid(), int(unit_property("NRestarts"))
    started = start_time()
    inject(before)
    # Asks the daemon, not systemctl: a process for each question slows down the restart.
    until(lambda: start_time() > started, f"restarted after: {fault}", seconds)
    until(lambda: unit_property("ActiveState") == "active", "active again", seconds)
    assert int(unit_property("NRestarts")) > restarts
    assert pid() not in (0, before)


def check_hangs(watchdog: float) -> None:
    """Checks that hanging GPUs and a hanging Docker cause no watchdog restart.

    Waits longer than the watchdog's timeout plus the lateness of a stuck poller, 10 s.
    """
    # Otherwise the first read hangs, and no GPU is known.
    until(
        lambda: value("gpu_up", 'gpu="0"') == 1 and value("container_engine_up") == 1,
        "GPUs and Docker are read after the restart",
    )
    before, restarts = pid(), unit_property("NRestarts")
    engine = int(Path("/run/docker.pid").read_text())
    hang_gpus(hang=True)
    os.kill(engine, signal.SIGSTOP)
    until(lambda: value("gpu_up", 'gpu="0"') == 0, "the GPUs hang")
    until(lambda: value("container_engine_up") == 0, "Docker hangs")
    time.sleep(watchdog + 12)
    assert (pid(), unit_property("NRestarts")) == (before, restarts), (
        "restarted for a hanging source"
    )
    ok("not restarted while they hang")
    hang_gpus(hang=False)
    os.kill(engine, signal.SIGCONT)
    until(lambda: value("gpu_up", 'gpu="0"') == 1, "the GPUs are up again")
    until(lambda: value("container_engine_up") == 1, "Docker is up again")


def check_stop(measurements: Measurements) -> None:
    started = time.monotonic()
    sh(f"systemctl stop {UNIT}")
    measurements["stop_seconds"] = round(time.monotonic() - started, 1)
    assert unit_property("Result") == "success", unit_property("Result")
    assert unit_property("ExecMainStatus") == "0"
    ok(f"stopped cleanly in {measurements['stop_seconds']} s")


def check_socket_activation() -> None:
    """Checks that the first request starts the service, and that a restart refuses none."""
    with Path("/etc/inference-exporter/environment").open("a") as file:
        file.write("INFERENCE_EXPORTER_WEB_SYSTEMD_SOCKET=true\n")
    sh(f"systemctl enable --now {UNIT}.socket")
    assert unit_property("ActiveState") == "inactive"
    assert page(), "the first request starts the service and gets a response"
    before = pid()
    sh(f"systemctl restart --no-block {UNIT}")
    until(lambda: pid() not in (0, before), "restarted with its socket held by systemd")
    assert page(), "a request right after the restart gets a response"
    ok("socket activation")


def check_removal() -> None:
    ok(sh(f"{PREFIX}/share/inference-exporter/systemd/install.sh --remove"))
    assert not Path(f"/etc/systemd/system/{UNIT}.service").exists()
    drop_in_file = Path(f"/etc/systemd/system/{UNIT}.service.d/kernel-log.conf")
    assert not drop_in_file.exists()
    assert "no such user" in sh(f"id {UNIT}", may_fail=True)


def first_boot(form: str) -> None:
    measurements: Measurements = {}
    watchdog = 30.0
    install()
    install_driver()
    start_containers()
    settings = [
        f"ReadWritePaths={NVML}",  # the stand-in counts its calls there
        f"TimeoutStartSec={max(60, 5 * Pace.seconds):.0f}s",
    ]
    if form == "short":
        watchdog = max(8.0, Pace.seconds / 2)
        settings += [f"WatchdogSec={watchdog:.1f}s", "TimeoutAbortSec=2s", "RestartSec=1s"]
    drop_in(*settings)
    check_start(measurements)
    check_sources(measurements)
    check_sandbox(measurements)
    check_reload()
    install_kernel_log()
    check_restart_after("SIGKILL", lambda main: os.kill(main, signal.SIGKILL), 180)
    check_kernel_log()
    check_restart_after(
        "event loop blocked", lambda main: os.kill(main, signal.SIGUSR1), watchdog + 60
    )
    assert "Fatal Python error: Aborted" in journal(), "the journal has the stacks"
    if form == "full":
        check_restart_after("SIGSTOP", lambda main: os.kill(main, signal.SIGSTOP), watchdog + 180)
        check_hangs(watchdog)
    check_stop(measurements)
    (OUT / "measurements.json").write_text(json.dumps(measurements, indent=1))


def second_boot() -> None:
    """Checks that the service starts at boot, after Docker, and discovers the containers."""
    until(lambda: unit_property("ActiveState") == "active", "active after a boot", 120)

    def unit_time(unit: str, name: str) -> int:
        return int(sh(f"systemctl show {unit} --property={name} --value"))

    docker = unit_time("docker.service", "ActiveEnterTimestampMonotonic")
    exporter = unit_time(f"{UNIT}.service", "ExecMainStartTimestampMonotonic")
    assert 0 < docker <= exporter, (docker, exporter)
    ok(f"started {(exporter - docker) / 1e6:.1f} s after docker.service was up")
    assert unit_property("NRestarts") == "0"
    until(lambda: value("container_up", 'name="limited"') != 0 and page(), "scraped")
    until(
        lambda: value("container_spec_memory_limit_bytes", 'name="limited"') == 64 << 20,
        "the container that Docker restarted is listed",
    )
    sh(f"systemctl stop {UNIT}")
    check_socket_activation()
    check_removal()


def main() -> None:
    form = sys.argv[1]
    try:
        if (JOB / "rebooted").exists():
            second_boot()
        else:
            first_boot(form)
            if form == "full":
                (JOB / "rebooted").touch()
                REBOOT.touch()
    except BaseException:
        print(journal()[-6000:])
        print(sh(f"systemctl --no-pager status {UNIT}", may_fail=True))
        raise


if __name__ == "__main__":
    main()
