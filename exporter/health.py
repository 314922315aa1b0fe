"""Health probe of the daemon, for HEALTHCHECK and other probes that run a command.

    python -m exporter.health [ADDRESS]

ADDRESS: host:port or the path of a Unix socket; default: the first address of the environment
variable INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS, else port 10400. Exit code 0: the daemon responds.
Imports nothing of the project, as it is started every few seconds: importing the daemon's modules
would cost as much as the daemon.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys

# Timeout of connect and of each read, in seconds.
TIMEOUT = 4.0
_REQUEST = b"GET /-/healthy HTTP/1.0\r\nHost: localhost\r\n\r\n"


def probe(address: str) -> str:
    """Returns the status line of GET /-/healthy. Raises OSError without one, and for a 5xx.

    Any other status means alive: 401, as the probe has no password, and 404, as all paths may
    have a prefix.
    """
    with _connect(address) as connection:
        line = _request(connection)
    if not line.startswith("HTTP/"):
        # The server uses TLS. Verifying its certificate is up to its clients.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with _connect(address) as plain, context.wrap_socket(plain) as connection:
            line = _request(connection)
    if not line.startswith("HTTP/") or line.split()[1:2] >= ["500"]:
        raise OSError(f"unexpected response: {line!r}")
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
    # A server listens on the unspecified addresses; a client cannot connect to them.
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - replaced, not bound to
        host = "localhost"
    return socket.create_connection((host, int(port)), timeout=TIMEOUT)


def _request(connection: socket.socket) -> str:
    """Returns the first line of the response; empty if the peer closes the connection."""
    try:
        connection.sendall(_REQUEST)
        return connection.recv(4096).split(b"\r\n", 1)[0].decode("latin-1")
    except (ConnectionResetError, BrokenPipeError):
        return ""


def _listen_address() -> str:
    addresses = os.environ.get("INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS", "")
    first = addresses.replace(",", " ").split()
    return (first[0] if first else ":10400").removeprefix("unix://").removeprefix("unix:")


def main(arguments: list[str]) -> int:
    """Runs the probe, prints one line, and returns the exit code."""
    address = arguments[0] if arguments else _listen_address()
    try:
        status = probe(address)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"inference-exporter at {address} does not respond: {error}\n")
        return 1
    sys.stdout.write(f"{status}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
