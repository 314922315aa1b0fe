"""The health check of HEALTHCHECK: over TCP, TLS, a Unix socket, and its failures."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests import clean_interpreter
from tests.certificates import authority, signed
from tests.daemon import QUICK, off, running
from tests.server_process import await_stopped

OTHERS = off("gpu", "containers", "triton", "host")


def run_health(*arguments: str, **environment: str) -> tuple[int, str]:
    """Runs the health check; returns its exit code and output."""
    done = clean_interpreter.run(
        "import runpy; runpy.run_module('exporter.health', run_name='__main__', alter_sys=True)",
        *arguments,
        after=("import runpy, socket, ssl",),
        environment={**os.environ, **environment},
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_connects_by_argument_environment_and_socket(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with running(tmp_path, *QUICK, *OTHERS, f"--web.listen-address=unix:{path}") as daemon:
        address = f"127.0.0.1:{daemon.port}"
        assert run_health(address) == (0, "HTTP/1.0 200 OK\n")
        variable = {"INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS": f":{daemon.port}, unix:/other"}
        assert run_health(**variable)[0] == 0
        variable = {"INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS": f"unix:{path}"}
        assert run_health(**variable)[0] == 0
        assert run_health(str(path))[0] == 0
    code, output = run_health(address)
    assert code == 1
    assert "does not respond" in output


def test_tls_and_a_password_are_healthy(tmp_path: Path) -> None:
    pair = signed(authority(tmp_path), tmp_path, "server")
    file = tmp_path / "web.yml"
    file.write_text(
        f"tls_server_config: {{cert_file: {pair.cert}, key_file: {pair.key}}}\n"
        "basic_auth_users: {anna: $2b$05$abcdefghijklmnopqrstuuZq2wQp0k7xg7zHjH8d1oZcZ0a9e2N8G}\n"
    )
    with running(tmp_path, *QUICK, *OTHERS, f"--web.config.file={file}") as daemon:
        code, output = run_health(f"127.0.0.1:{daemon.port}")
        assert code == 0, output
        assert " 401 " in output


def test_a_daemon_that_hangs_is_not_healthy(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, *OTHERS) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            await_stopped(daemon.process.pid)
            code, output = run_health(f"127.0.0.1:{daemon.port}")
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert code == 1
        assert "timed out" in output


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 503 Busy\r\n\r\n", b"SSH-2.0-nonsense\r\n"])
def test_an_invalid_reply_is_not_healthy(reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):  # it retries over TLS after a reply that is not HTTP
                try:
                    connection = server.accept()[0]
                except OSError:  # the test is over
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        code, output = run_health(f"127.0.0.1:{server.getsockname()[1]}")
        # Ends accept(); after close() alone it could resume on a later socket of that number.
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert code == 1, output
    assert "does not respond" in output


def test_an_invalid_address_is_in_the_error() -> None:
    code, output = run_health("nowhere")
    assert code == 1
    assert "nowhere" in output
