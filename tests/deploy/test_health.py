"""The health check as HEALTHCHECK runs it: over TCP, TLS, a Unix socket, and when it fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.certificates import authority, signed
from tests.daemon import QUICK, off, running

OTHERS = off("gpu", "containers", "triton", "host")


def health(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run it; gives the exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "exporter.health", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_finds_the_daemon_by_port_environment_and_socket(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with running(tmp_path, *QUICK, *OTHERS, f"--web.listen-address=unix:{path}") as daemon:
        address = f"127.0.0.1:{daemon.port}"
        assert health(address) == (0, "HTTP/1.0 200 OK\n")
        variable = {"INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS": f":{daemon.port}, unix:/other"}
        assert health(**variable)[0] == 0
        variable = {"INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS": f"unix:{path}"}
        assert health(**variable)[0] == 0
        assert health(str(path))[0] == 0
    code, said = health(address)
    assert code == 1
    assert "does not respond" in said


def test_tls_and_a_password_are_no_hindrance(tmp_path: Path) -> None:
    pair = signed(authority(tmp_path), tmp_path, "server")
    file = tmp_path / "web.yml"
    file.write_text(
        f"tls_server_config: {{cert_file: {pair.cert}, key_file: {pair.key}}}\n"
        "basic_auth_users: {anna: $2b$05$abcdefghijklmnopqrstuuZq2wQp0k7xg7zHjH8d1oZcZ0a9e2N8G}\n"
    )
    with running(tmp_path, *QUICK, *OTHERS, f"--web.config.file={file}") as daemon:
        code, said = health(f"127.0.0.1:{daemon.port}")
        assert code == 0, said
        assert " 401 " in said


def test_a_daemon_that_hangs_is_not_healthy(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, *OTHERS) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            code, said = health(f"127.0.0.1:{daemon.port}")
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert code == 1
        assert "timed out" in said


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 503 Busy\r\n\r\n", b"SSH-2.0-nonsense\r\n"])
def test_what_is_no_good_answer(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):  # it asks again, by TLS, where the answer is no HTTP
                try:
                    connection = server.accept()[0]
                except OSError:  # the test is over
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        code, said = health(f"127.0.0.1:{server.getsockname()[1]}")
    assert code == 1, said
    assert "does not respond" in said


def test_an_address_that_is_none_is_said() -> None:
    code, said = health("nowhere")
    assert code == 1
    assert "nowhere" in said
