"""The command line: exit codes, one-line errors, reloads, clean exits."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from exporter import __version__
from tests import exporter_process
from tests.daemon import QUICK, find, off, parse, running
from tests.waiting import until

OTHERS = off("gpu", "containers", "triton")


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return exporter_process.run(*arguments, environment={**os.environ, **environment})


def test_version() -> None:
    done = run_command("--version")
    assert (done.returncode, done.stdout) == (0, f"inference-exporter {__version__}\n")


def test_once_prints_the_page() -> None:
    done = run_command("once", *OTHERS)
    assert done.returncode == 0, done.stderr
    samples = parse(done.stdout)
    memory = Path("/proc/meminfo").read_text().split()[1]
    assert find(samples, "host_memory_total_bytes") == int(memory) * 1024
    assert find(samples, "inference_exporter_source_up", source="host") == 1
    assert find(samples, "inference_exporter_source_up", source="itself") == 1


def test_no_reading_expires_while_a_later_source_is_slow() -> None:
    """The stages are polled one after the other, each once."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"--upstream.url=127.0.0.1:{silent.getsockname()[1]}"
        slow = (*off("gpu", "containers", "triton", "joins"), url, "--upstream.timeout=1s")
        short = ("--host.interval=100ms", "--host.max-age=100ms")
        once, check = (run_command(command, *slow, *short) for command in ("once", "check"))
    assert find(parse(once.stdout), "host_boot_time_seconds") is not None
    (host,) = (line for line in check.stdout.splitlines() if line.startswith("Host"))
    assert host.split()[1] == "ok"


def test_once_fails_only_for_a_wanted_source(tmp_path: Path) -> None:
    absent = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    others = off("gpu", "triton")
    assert run_command("once", *others, "--containers.enabled=on", **absent).returncode == 1
    done = run_command("once", *others, "--containers.enabled=auto")
    assert done.returncode == 0, done.stderr


def test_check_lists_missing_sources_with_remedies(tmp_path: Path) -> None:
    absent = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    done = run_command("check", "--triton.enabled=off", "--containers.enabled=on", **absent)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (containers,) = (i for i, line in enumerate(lines) if line.startswith("Containers"))
    assert "failed" in lines[containers]
    assert "absent.sock" in lines[containers + 1]
    assert lines[containers + 2].strip().startswith("-> ")
    (host,) = (line for line in lines if line.startswith("Host"))
    assert " ok " in host
    (triton,) = (line for line in lines if line.startswith("Triton"))
    assert triton.endswith(" off")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gpu.interval=x"], "flag --gpu.interval: gpu.interval: 'x' is not a duration"),
        (["--gpu.intervall=5s"], "unrecognized arguments: --gpu.intervall=5s (see --help)"),
        (["--gpu"], "unrecognized arguments: --gpu (see --help)"),
        (["serv"], "argument command: invalid choice: 'serv'"),
        (["--config.file=/nonexistent.yml"], "/nonexistent.yml: cannot be read: No such file"),
        (["--web.listen-address=a..b:1"], "web.listen_address: a..b:1: "),
        (["--web.listen-address=:99999"], "web.listen_address: ':99999' is not host:port"),
        (
            ["check", "--log.level=loud"],
            "log.level: 'loud' is not one of: debug, info, warning, error",
        ),
    ],
)
def test_bad_settings_are_one_line_and_exit_2(arguments: list[str], expected: str) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("inference-exporter: ")
    assert expected in line


def test_an_address_in_use_is_one_line_and_exit_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = run_command(f"--web.listen-address=127.0.0.1:{port}", *OTHERS)
    assert done.returncode == 2
    assert f"web.listen_address: 127.0.0.1:{port}: " in done.stderr
    assert "address already in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_first_scrape_is_not_empty(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, *OTHERS) as daemon:  # yields as soon as it listens
        assert daemon.value("host_load1") is not None


def test_page_head_health_and_landing(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, *OTHERS) as daemon:
        until(lambda: daemon.get("/-/ready")[0] == 200, "ready")
        assert daemon.get("/-/healthy")[::2] == (200, b"OK\n")
        status, headers, body = daemon.get("/metrics")
        assert (status, headers["Content-Type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        assert b"# EOF" not in body
        status, headers, empty = daemon.get("/metrics", method="HEAD")
        assert (status, empty) == (200, b"")
        assert int(headers["Content-Length"]) > 1000
        status, headers, body = daemon.get("/metrics", {"Accept": "application/openmetrics-text"})
        assert headers["Content-Type"] == (
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
        )
        assert body.endswith(b"\n# EOF\n")
        status, headers, body = daemon.get("/metrics", {"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert b"host_load1" in gzip.decompress(body)
        status, headers, body = daemon.get("/")
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert b"Host" in body
        assert headers["Server"] == "inference-exporter"
        assert daemon.get("/nothing")[0] == 404
        assert daemon.get("/metrics", method="POST")[0] == 405
        until(lambda: (daemon.value("inference_exporter_scrapes_total") or 0) >= 5, "scrapes")


def test_reload_applies_valid_settings_and_refuses_invalid_ones(tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_text("host: {interval: 200ms}\n")
    flags = (f"--config.file={file}", "--web.listen-address=127.0.0.1:0", "--itself.interval=200ms")
    with running(tmp_path, *flags, *OTHERS) as daemon:
        until(lambda: daemon.value("host_load1") is not None, "host")
        file.write_text("host: {enabled: never}\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_logged("refused")
        assert (
            "settings.yml: host.enabled: 'never' is not one of: auto, on, off" in daemon.log_text()
        )
        assert daemon.value("host_load1") is not None, "the old settings stay"
        file.write_text("host: {enabled: off}\n")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.value("host_load1") is None, "host is off")
        assert b"Host</h2>" in daemon.get("/")[2]
        file.write_text("host: {interval: 200ms}\n")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.value("host_load1") is not None, "host is back")


def test_sighup_during_start_is_handled_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_text("host: {interval: 200ms}\n")
    flags = (f"--config.file={file}", "--web.listen-address=127.0.0.1:0", "--itself.interval=200ms")
    with running(tmp_path, *flags, *OTHERS) as daemon:  # yields as soon as it listens
        file.write_text("host: {interval: 300ms}\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_logged("settings reloaded")
        until(lambda: daemon.value("host_load1") is not None, "host")
        file.write_text("host: {enabled: off}\n")
        daemon.process.send_signal(signal.SIGHUP)
        until(
            lambda: daemon.value("host_load1") is None,
            "the host source stops, and no second instance runs",
        )


def test_a_settings_file_that_blocks_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_text("host: {interval: 200ms}\n")
    flags = (f"--config.file={file}", "--web.listen-address=127.0.0.1:0", "--itself.interval=200ms")
    with running(tmp_path, *flags, *OTHERS) as daemon:
        until(lambda: daemon.value("host_load1") is not None, "host")
        file.unlink()
        os.mkfifo(file)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_logged("settings.yml: is not a regular file")
        assert daemon.value("host_load1") is not None


@pytest.mark.parametrize("shell", ["$0 -m exporter metrics 2>&-", "$0 -m exporter metrics >&-"])
def test_closed_standard_streams_do_not_crash(shell: str) -> None:
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(("output", "code"), [("/dev/full", 1), ("a pipe without a reader", 0)])
def test_standard_output_that_takes_nothing_does_not_crash(
    tmp_path: Path, output: str, code: int
) -> None:
    if output == "/dev/full":
        stdout = os.open(output, os.O_WRONLY)
    else:
        reader, stdout = os.pipe()
        os.close(reader)
    log = tmp_path / "log"
    try:
        with log.open("wb") as stderr:
            process = exporter_process.start(
                "metrics", stdout=stdout, stderr=stderr, development_mode=False
            )
    finally:
        os.close(stdout)
    assert process.wait(60) == code
    assert "Traceback" not in log.read_text()
    assert "Exception ignored" not in log.read_text()


def test_closed_standard_descriptors_are_opened_to_dev_null(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "import subprocess, sys\n"
        "from exporter.__main__ import open_standard_streams as open_\n"
        "open_()\n"
        "from pathlib import Path\n"
        "links = [str(Path(f'/proc/self/fd/{n}').readlink()) for n in range(3)]\n"
        # A child process inherits them.
        "child = subprocess.run(['ls', '/proc/self/fd'], capture_output=True, text=True)\n"
        f"Path({str(log)!r}).write_text(f'{{links}} {{child.stdout.split()[:3]}}')\n"
    )
    shell = 'exec "$0" -c "$1" 0<&- 1>&- 2>&-'
    subprocess.run(["sh", "-c", shell, sys.executable, script], timeout=60, check=True)
    assert log.read_text() == f"{['/dev/null'] * 3} {['0', '1', '2']}"


@pytest.mark.parametrize("command", ["serve", "once", "metrics"])
def test_too_little_address_space_is_one_line(command: str) -> None:
    shell = f'ulimit -v 400000 && exec "$0" -m exporter {command}'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("inference-exporter: the limit of address space (RLIMIT_AS, ulimit -v)")
    assert "is 390 MiB, at least 768 MiB are needed" in line


def test_a_path_that_is_not_utf8_does_not_break_the_page(tmp_path: Path) -> None:
    url = os.fsdecode(b"unix:///\xff.sock")
    flags = (*QUICK, *off("gpu", "triton"), "--containers.enabled=on")
    with running(tmp_path, *flags, environment={"DOCKER_HOST": url}) as daemon:
        until(lambda: daemon.value("container_engine_up") == 0, "the engine down")
        # Not the first failure: that can be a timeout while the SDK is imported.
        until(lambda: b"/?.sock" in daemon.get("/")[2], "the path on the page")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_daemon_during_an_open_request(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, *QUICK, *OTHERS, "--web.header-timeout=60s") as daemon:
        connection = socket.create_connection(("127.0.0.1", daemon.port))
        connection.sendall(b"GET /metrics HTTP/1.1\r\n")  # an incomplete request
        daemon.process.send_signal(number)
        assert daemon.process.wait(timeout=9) == 0, "TimeoutStopSec of the unit is 10 s"
        connection.close()
