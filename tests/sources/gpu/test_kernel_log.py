"""XIDs in the kernel's log: formats, foreign text, overruns, and a real /dev/kmsg."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.errors import Forbidden, Unsupported
from exporter.sources.gpu.kernel_log import KernelLog, LoggedXid, open_kmsg, parse_record

BOOT = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "pci", "xid"),
    [
        (
            "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen",
            (0, 0x3B, 0),
            79,
        ),
        ("NVRM: Xid (PCI:0000:CB:00): 13, pid=1896, Graphics SM Warp Exception", (0, 0xCB, 0), 13),
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", (0, 3, 0), 14),
        ("NVRM: Xid (PCI:00000008:01:00.0): 119, Timeout waiting for RPC", (8, 1, 0), 119),
        ("NVRM: Xid (PCI:00010000:01:00): 119, Timeout waiting for RPC", (0x10000, 1, 0), 119),
        ("NVRM: Xid (PCI:0009:01:1f): 154, GPU recovery action changed", (9, 1, 31), 154),
        ("NVRM: Xid (PCI:0000:3b:00): 31", (0, 0x3B, 0), 31),
        ("Xid (PCI:0000:38:00): 31", (0, 0x38, 0), 31),
        ("Xid (PCI:0000:01:00 GPU-I:05): 94", (0, 1, 0), 94),
        ("NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, Contained: SM (0x1)", (0, 1, 0), 94),
        ("NVRM: Xid (PCI:0000:01:00 GPU-I:13 GPU-CI:00): 43, pid=7", (0, 1, 0), 43),
    ],
)
def test_an_xid(text: str, pci: tuple[int, int, int], xid: int) -> None:
    record = f"4,1234,98765432,-;{text}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n".encode()
    assert parse_record(record, BOOT) == LoggedXid(pci, xid, BOOT + 98.765432)


@pytest.mark.parametrize(
    "record",
    [
        b"6,1,2,-;nvidia: loading out-of-tree module taints kernel.\n",
        b"6,1,2,-;python[77]: NVRM: Xid (PCI:0000:3b:00): 79, a process named so\n",
        b"6,1,2,-;NVRM: Xid (PCI:[77]: segfault at 0 ip 0, a process with a name of 15 bytes\n",
        b"6,1,2,-;Xid (0000:03:00[77]: segfault at 0 ip 0, a process with a name of 15 bytes\n",
        b"12,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, written to /dev/kmsg by a program\n",
        b"4,1,2,-;NVRM: Xid (PCI:0000:3b:00): , no number\n",
        b"4,1,2,-;NVRM: Xid (PCI:0000:3b:00): 99999999, too large\n",
        b"4,1,2,-;NVRM: Xid (PCI:0000:3b:00): -79, negative\n",
        b"4,1,2,-;NVRM: Xid (PCI:0000:3b): 79, an address without device\n",
        b"4,1,2,-;NVRM: Xid (PCI:00000:3b:00): 79, a domain of five digits\n",
        b"4,1,2,-;NVRM: Xid (PCI:0000:01:00 GPU-I:x): 94, an instance that is no number\n",
        b"4,1,2,-;NVRM: GPU at PCI:0000:3b:00: GPU-b850f46d\n",
        b"4,1;NVRM: Xid (PCI:0000:3b:00): 79, a short prefix\n",
        b"x,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79\n",
        b"4,-1,2,-;NVRM: Xid (PCI:0000:3b:00): 79\n",
        b"4,1,99999999999999999999999999,-;NVRM: Xid (PCI:0000:3b:00): 79\n",
        b"no separator",
        b";" * 8000,
        b"4,1,2,-;" + b"NVRM: Xid (PCI:" * 500,
        b"4,1,2,-;\x00\xff\xfe\n",
        b"",
    ],
)
def test_other_records_are_ignored(record: bytes) -> None:
    assert parse_record(record, BOOT) is None


@pytest.fixture
def pipe() -> Iterator[tuple[KernelLog, socket.socket]]:
    """A log whose records are the messages sent to a socket: one read returns one, as of kmsg."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader.setblocking(False)
    log = KernelLog(lambda: os.dup(reader.fileno()))
    try:
        yield log, writer
    finally:
        log.close()
        reader.close()
        writer.close()


def record(sequence: int, xid: int) -> bytes:
    return f"4,{sequence},{sequence}000000,-;NVRM: Xid (PCI:0000:3b:00): {xid}, x\n".encode()


def test_each_record_is_read_once(pipe: tuple[KernelLog, socket.socket]) -> None:
    log, writer = pipe
    writer.send(b"6,1,1000000,-;usb 1-1: new device\n")
    writer.send(record(2, 79))
    times, clocks = [time.time()], [time.monotonic()]
    (xid,) = log.read()
    times.append(time.time())
    clocks.append(time.monotonic())
    assert (xid.pci, xid.xid, xid.before) == ((0, 0x3B, 0), 79, True)
    # The zero of the log's clock plus 2 s; it took a moment to read the two clocks.
    assert times[0] - clocks[1] - 0.1 <= xid.time - 2 <= times[1] - clocks[0] + 0.1
    assert log.read() == []
    writer.send(record(3, 154))
    assert [(xid.xid, xid.before) for xid in log.read()] == [(154, False)]


def test_a_strange_record_costs_itself(pipe: tuple[KernelLog, socket.socket]) -> None:
    log, writer = pipe
    for text in (record(1, 48), b"\xff\x00;;;", b"4,x,y;NVRM: Xid (", record(4, 63)):
        writer.send(text)
    assert [xid.xid for xid in log.read()] == [48, 63]


def test_a_log_that_is_opened_again_is_not_counted_twice() -> None:
    """Of the records below, each descriptor returns all, as /dev/kmsg does; one read fails."""
    records = [record(1, 48)]
    readers: list[socket.socket] = []

    def open_log() -> int:
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader.setblocking(False)
        for text in records:
            writer.send(text)
        readers.append(writer)
        return reader.detach()

    log = KernelLog(open_log)
    assert [xid.xid for xid in log.read()] == [48]
    readers[0].close()  # the next read returns end of file
    log.close()
    records.append(record(2, 79))
    assert [(xid.xid, xid.before) for xid in log.read()] == [(79, False)]
    log.close()
    readers[1].close()


def test_the_records_of_one_read_are_limited(
    pipe: tuple[KernelLog, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records in the log at the first read are from before, however many reads that takes."""
    monkeypatch.setattr("exporter.sources.gpu.kernel_log._MAX_RECORDS", 2)
    log, writer = pipe
    for sequence in range(3):
        writer.send(record(sequence, 48))
    assert [xid.before for xid in log.read()] == [True, True]
    assert [xid.before for xid in log.read()] == [True]
    writer.send(record(3, 48))
    assert [xid.before for xid in log.read()] == [False]


def test_an_overrun_loses_only_what_was_overwritten(
    pipe: tuple[KernelLog, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, writer = pipe
    writer.send(record(2, 79))
    read, overruns = os.read, [BrokenPipeError()]

    def overrun_first(descriptor: int, size: int) -> bytes:
        if overruns:
            raise overruns.pop()
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", overrun_first)
    assert [xid.xid for xid in log.read()] == [79]


def test_a_log_that_cannot_be_opened() -> None:
    def refuse() -> int:
        raise PermissionError(1, "Operation not permitted")

    with pytest.raises(Forbidden) as refused:
        KernelLog(refuse).read()
    assert "CAP_SYSLOG" in refused.value.remedy
    with pytest.raises(Unsupported, match="No such file"):
        KernelLog(lambda: os.open("/dev/there-is-no-kmsg", os.O_RDONLY)).read()


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", __file__])
def test_another_file_is_not_the_kernels_log(path: str) -> None:
    """In a container, /dev/kmsg may be a link to /dev/null or to the console."""
    with pytest.raises(Unsupported, match="is not the kernel's log"):
        KernelLog(lambda: open_kmsg(path)).read()


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/kmsg").exists(), reason="needs /dev/kmsg")
def test_the_real_log_and_a_forged_record() -> None:
    """A record that a program writes has a facility that is not the kernel's."""
    marker = f"NVRM: Xid (PCI:0000:ff:00): 79, forged {uuid.uuid4()}"
    log = KernelLog()
    try:
        log.read()
        descriptor = open_kmsg()
        os.lseek(descriptor, 0, os.SEEK_END)
        Path("/dev/kmsg").write_text(f"<3>{marker}\n")
        records = b""
        with contextlib.suppress(BlockingIOError):  # no more records
            while True:  # the kernel may write others meanwhile
                records += os.read(descriptor, 8192)
        os.close(descriptor)
        assert marker.encode() in records
        assert not [xid for xid in log.read() if xid.pci == (0, 0xFF, 0)]
    finally:
        log.close()
