"""The processes that listen on a port: file trees of /proc, and real sockets of this machine."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from exporter.cgroup_owner import container_cgroups
from exporter.sources.triton import listeners, net_tcp
from exporter.sources.triton.listeners import Endpoint, Listeners, ListenerSearch
from tests.fakes.procfs_processes import Proc, v2

A, B = "a" * 64, "b" * 64
HEADER = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout"
)
V4 = {"127.0.0.1": "0100007F", "0.0.0.0": "00000000", "192.0.2.7": "070200C0"}  # noqa: S104
V6 = {
    "::1": "00000000000000000000000001000000",
    "::": "0" * 32,
    "::ffff:127.0.0.1": "0000000000000000FFFF00000100007F",
    "fe80::1": "000080FE000000000000000001000000",
}
LOCALHOST = Endpoint(frozenset({"127.0.0.1"}), 8000)


class Host(Proc):
    """A fake /proc with sockets."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "self" / "net").mkdir(parents=True)
        self.gone = itertools.count()
        self.sockets: dict[str, list[str]] = {"tcp": [], "tcp6": []}
        self.write()

    def write(self) -> None:
        for name, lines in self.sockets.items():
            text = "".join(f"{line}\n" for line in (HEADER, *lines))
            (self.folder / "self" / "net" / name).write_text(text)

    def listen(self, inode: int, address: str = "127.0.0.1", port: int = 8000) -> None:
        self.add(inode, "0A", address, port)
        self.write()

    def add(self, inode: int, state: str, address: str = "127.0.0.1", port: int = 8000) -> None:
        name, table = ("tcp6", V6) if ":" in address else ("tcp", V4)
        self.sockets[name].append(
            f"   0: {table[address]}:{port:04X} 00000000:0000 {state} 00000000:00000000 "
            f"00:00000000 00000000  1000        0 {inode} 1 0000000000000000 100 0 0 10 0"
        )

    def open(self, pid: int, *inodes: int) -> None:
        folder = self.folder / str(pid) / "fd"
        folder.mkdir()
        for number, inode in enumerate(inodes, 3):
            (folder / str(number)).symlink_to(f"socket:[{inode}]")
        (folder / "0").symlink_to("/dev/null")

    def end(self, pid: int) -> None:
        """Ends a process; its directory's inode is not used again."""
        (self.folder / str(pid)).rename(self.folder / f"gone-{next(self.gone)}")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "proc")


def found(host: Host, *endpoints: Endpoint) -> list[Listeners]:
    search = ListenerSearch(str(host.folder))
    result = search.find(endpoints)
    assert not search.faults.count
    return [result[endpoint] for endpoint in endpoints]


def cgroups(container: str) -> object:
    return container_cgroups(v2(container))


def test_a_process_in_a_container(host: Host) -> None:
    host.listen(71)
    host.listen(72, port=9000)
    host.run(10, v2(A))
    host.open(10, 5, 71)
    host.run(11, v2(B))
    host.open(11, 72)
    host.run(12, "0::/system.slice/cron.service\n")
    host.open(12, 6)
    other = Endpoint(frozenset({"127.0.0.1"}), 9000)
    assert found(host, LOCALHOST, other) == [Listeners((cgroups(A),)), Listeners((cgroups(B),))]  # type: ignore[arg-type]  # a ContainerCgroups


def test_workers_of_one_socket_and_sockets_of_one_port(host: Host) -> None:
    host.listen(71)
    host.listen(72)  # SO_REUSEPORT
    for pid, container, inode in ((10, A, 71), (11, A, 71), (12, B, 72)):
        host.run(pid, v2(container))
        host.open(pid, inode)
    (answer,) = found(host, LOCALHOST)
    assert set(answer.cgroups) == {cgroups(A), cgroups(B)}


def test_a_process_outside_of_containers_counts(host: Host) -> None:
    host.listen(71)
    host.run(10, v2(A))
    host.open(10, 71)
    host.run(11, "0::/system.slice/proxy.service\n")
    host.open(11, 71)
    (answer,) = found(host, LOCALHOST)
    assert set(answer.cgroups) == {cgroups(A), ()}


@pytest.mark.parametrize(
    ("listening", "requested", "inodes"),
    [
        ({"127.0.0.1": 1, "192.0.2.7": 2}, {"127.0.0.1"}, {1}),
        ({"0.0.0.0": 1, "::": 2}, {"127.0.0.1"}, {1}),  # noqa: S104 - an address of a table
        ({"::": 2}, {"127.0.0.1"}, {2}),
        ({"::ffff:127.0.0.1": 3, "::": 2}, {"127.0.0.1"}, {3}),
        ({"0.0.0.0": 1}, {"::1"}, set()),  # noqa: S104 - as above
        ({"::1": 1, "127.0.0.1": 2}, {"::1", "127.0.0.1"}, {1, 2}),
        ({"127.0.0.1": 2}, {"::1", "127.0.0.1"}, {2}),
        ({"fe80::1": 4}, {"fe80::1%eth0"}, {4}),
        ({"192.0.2.7": 2}, {"127.0.0.1"}, set()),
    ],
)
def test_the_address_that_accepts_the_connection(
    host: Host, listening: dict[str, int], requested: set[str], inodes: set[int]
) -> None:
    for address, inode in listening.items():
        host.listen(inode, address)
        host.run(100 + inode, v2(f"{inode:x}" * 64))
        host.open(100 + inode, inode)
    (answer,) = found(host, Endpoint(frozenset(requested), 8000))
    assert set(answer.cgroups) == {cgroups(f"{inode:x}" * 64) for inode in inodes}
    assert answer.problem == ""


def test_sockets_and_processes_are_searched_again_when_they_change(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.listen(71)
    host.run(10, v2(A))
    host.open(10, 71)
    search = ListenerSearch(str(host.folder))
    made: list[str] = []
    run, read = listeners._Search.run, net_tcp.listening_sockets

    def counted_run(self: listeners._Search) -> object:
        made.append("search")
        return run(self)

    def counted_read(path: str, *arguments: Any) -> object:
        made.append(path.rpartition("/")[2])
        return read(path, *arguments)

    monkeypatch.setattr(listeners._Search, "run", counted_run)
    monkeypatch.setattr(listeners, "listening_sockets", counted_read)
    now = 1000.0
    monkeypatch.setattr(listeners, "monotonic", lambda: now)
    reads = ["tcp", "tcp6"]

    def find() -> tuple[object, list[str]]:
        made.clear()
        return {*search.find([LOCALHOST])[LOCALHOST].cgroups}, [*made]

    assert find() == ({cgroups(A)}, [*reads, "search"])
    assert find() == ({cgroups(A)}, [])
    now += 61
    assert find() == ({cgroups(A)}, reads), "once a minute, for another socket on the port"
    host.end(10)
    host.run(10, v2(B))  # the PID of another process, which holds the socket, too
    host.open(10, 71)
    assert find() == ({cgroups(B)}, [*reads, "search"])
    host.sockets["tcp"].clear()
    host.listen(99)
    (host.folder / "10" / "fd" / "3").unlink()  # the server listens on another socket
    (host.folder / "10" / "fd" / "4").symlink_to("socket:[99]")
    assert find() == ({cgroups(B)}, [*reads, "search"])
    (host.folder / "10" / "fd" / "4").unlink()
    assert find() == (set(), [*reads, "search"])
    assert find() == (set(), []), "without a process, once a minute"
    now += 61
    host.run(11, v2(A))
    host.open(11, 99)
    assert find() == ({cgroups(A)}, [*reads, "search"])
    other = Endpoint(frozenset({"127.0.0.1"}), 9000)
    assert search.find([LOCALHOST, other]).keys() == {LOCALHOST, other}


def test_processes_and_descriptors_that_vanish(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.listen(71)
    for pid in range(10, 30):
        host.run(pid, v2(A))
        host.open(pid, 71, 72)
    readlink, scandir, gone = os.readlink, os.scandir, iter(range(10, 20))

    def vanishing_link(path: str) -> str:
        Path(path).unlink()
        return readlink(path)

    def vanishing_process(path: str) -> object:
        if path.endswith("/fd") and (pid := next(gone, None)) is not None:
            host.end(pid)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing_process)
    (answer,) = found(host, LOCALHOST)
    assert answer.cgroups in {(cgroups(A),), ()}
    monkeypatch.setattr(os, "readlink", vanishing_link)
    (answer,) = found(host, LOCALHOST)
    assert answer.cgroups == ()
    assert "no process below" in answer.problem


def test_connections_are_not_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.listen(71)
    host.run(10, v2(A))
    host.open(10, 71)
    for number in range(100_000):
        host.add(1000 + number, "01")
    host.write()
    read, size = os.read, 0

    def counted(file: int, count: int) -> bytes:
        nonlocal size
        chunk = read(file, count)
        size += len(chunk)
        return chunk

    monkeypatch.setattr(os, "read", counted)
    assert found(host, LOCALHOST) == [Listeners((cgroups(A),))]  # type: ignore[arg-type]  # a ContainerCgroups
    assert size < 500_000, "of 15 MB"


def test_too_many_listening_sockets(host: Host) -> None:
    for number in range(40_000):
        host.add(1000 + number, "0A", port=9000)
    host.write()
    (answer,) = found(host, LOCALHOST)
    assert answer.cgroups == ()
    assert "more than 4 MiB of listening sockets" in answer.problem


@pytest.mark.parametrize("limit", ["_MAX_PROCESSES", "_MAX_DESCRIPTORS"])
def test_no_answer_from_a_part_of_the_processes(
    host: Host, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    host.listen(71)
    for pid in range(10, 30):
        host.run(pid, v2(A))
        host.open(pid, 71)
    monkeypatch.setattr(listeners, limit, 15)
    (answer,) = found(host, LOCALHOST)
    assert answer.cgroups == ()
    assert answer.problem.startswith("more than ")


def test_without_permission(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.listen(71)
    for pid in (10, 11):
        host.run(pid, v2(A))
        host.open(pid, 71)
    scandir = os.scandir

    def forbidden(path: str) -> object:
        if path.endswith("/fd"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    (answer,) = found(host, LOCALHOST)
    assert answer.cgroups == ()
    assert f"no permission to read {host.folder}/PID/fd of 2 processes" in answer.problem
    assert "CAP_SYS_PTRACE" in answer.problem


def test_without_a_table_of_sockets(tmp_path: Path) -> None:
    answer = ListenerSearch(str(tmp_path)).find([LOCALHOST])[LOCALHOST]
    assert answer.cgroups == ()
    assert "No such file or directory" in answer.problem


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_socket_of_this_process(family: socket.AddressFamily, address: str) -> None:
    try:
        server = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {address}")
    with server:
        endpoint = Endpoint(frozenset({address}), server.getsockname()[1])
        answer = ListenerSearch("/proc").find([endpoint])[endpoint]
    own = container_cgroups(Path("/proc/self/cgroup").read_text())
    assert answer == Listeners((own,))
