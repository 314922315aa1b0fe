"""Whether a daemon answers: for HEALTHCHECK and other probes that run a command.

    python -m exporter.health [ADDRESS]

ADDRESS is host:port or the path of a Unix socket; without one, what the environment variable
INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS says (its first), else port 10400. Exit code 0: it answers.
It imports next to nothing, as it is started every few seconds: the daemon's own modules would cost
as much as the daemon.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys

# A probe waits no longer than this, in seconds.
TIMEOUT = 4.0
_REQUEST = b"GET /-/healthy HTTP/1.0\r\nHost: localhost\r\n\r\n"


def answers(address: str) -> str:
    """The first line of the daemon's answer. Raises OSError where there is none.

    Any HTTP answer is one, 401 too: the probe has no password, and the process lives.
    """
    with _connect(address) as connection:
        line = _ask(connection)
    if not line.startswith("HTTP/"):
        # It speaks TLS. Whether its certificate is a good one is its clients' business.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with _connect(address) as plain, context.wrap_socket(plain) as connection:
            line = _ask(connection)
    if not line.startswith("HTTP/") or line.split()[1:2] >= ["500"]:
        raise OSError(f"no good answer: {line!r}")
    return line


def _connect(address: str) -> socket.socket:
    if address.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    # The unspecified addresses are listened on, not connected to.
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - taken away, not bound to
        host = "localhost"
    return socket.create_connection((host, int(port)), timeout=TIMEOUT)


def _ask(connection: socket.socket) -> str:
    """Send the request; the first line of what comes back, empty where the peer hangs up."""
    try:
        connection.sendall(_REQUEST)
        return connection.recv(4096).split(b"\r\n", 1)[0].decode("latin-1")
    except (ConnectionResetError, BrokenPipeError):
        return ""


def _listens() -> str:
    given = os.environ.get("INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS", "")
    first = given.replace(",", " ").split()
    return (first[0] if first else ":10400").removeprefix("unix://").removeprefix("unix:")


def main(arguments: list[str]) -> int:
    """The command: one line on what was found, and the exit code."""
    address = arguments[0] if arguments else _listens()
    try:
        answer = answers(address)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"inference-exporter at {address} does not answer: {error}\n")
        return 1
    sys.stdout.write(f"{answer}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
