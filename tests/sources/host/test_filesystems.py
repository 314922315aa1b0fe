"""File systems: of a fake mountinfo, of this machine, and a mount that really hangs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import BadData, DeadlineExceeded, NotFound
from exporter.faults import Faults
from exporter.model import Reading
from exporter.settings import Duration, Paths
from exporter.sources.host import filesystems
from exporter.sources.host.filesystems import MAX_HUNG_MOUNTS, FilesystemsTarget
from exporter.sources.host.metrics import METRICS
from exporter.sources.host.mounts import is_on_file_system, parse_mountinfo
from exporter.sources.host.settings import Settings
from tests.fakes.procfs import MOUNTINFO, make_tree
from tests.parts import missing
from tests.paths import ROOT
from tests.sources.samples import Samples, samples
from tests.waiting import until, until_result

# A call takes at most a quarter of it: more than a busy machine needs.
AMPLE = Duration(60)
SIZE = os.statvfs_result((4096, 1024, 1000, 600, 500, 200, 150, 150, 0, 255))


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the limit of a call to the settings; a test of hung calls has a short one there."""
    monkeypatch.setattr(filesystems, "MOUNT_TIMEOUT", AMPLE)


def always_visible(_path: str, _number: str) -> bool:
    """Replaces is_on_file_system, for paths that do not exist here."""
    return True


def read(
    proc: Path,
    settings: Settings | None = None,
    statvfs: Callable[[str], os.statvfs_result] = lambda _: SIZE,
    rootfs: str = "/",
    is_on_file_system: Callable[[str, str], bool] = always_visible,
) -> tuple[dict[str, Samples], Reading]:
    async def once() -> Reading:
        paths = Paths(procfs=str(proc), rootfs=rootfs)
        chosen = settings or Settings(timeout=AMPLE)
        target = FilesystemsTarget(chosen, paths, statvfs, is_on_file_system)
        try:
            return await target.read()
        finally:
            target.close()

    reading = asyncio.run(once())
    return samples(METRICS, reading), reading


def test_every_value(tmp_path: Path) -> None:
    called: list[str] = []

    def statvfs(path: str) -> os.statvfs_result:
        called.append(path)
        return SIZE

    values, reading = read(make_tree(tmp_path), statvfs=statvfs, rootfs="/host/")
    root, data = ("/dev/sda1", "ext4", "/"), ("/dev/sdb1", "xfs", "/data disk")
    boot = ("/dev/sda2", "vfat", "/boot")
    assert values["host_filesystem_size_bytes"] == dict.fromkeys((root, data, boot), 1000 * 1024)
    assert values["host_filesystem_free_bytes"][root] == 600 * 1024
    assert values["host_filesystem_available_bytes"][root] == 500 * 1024
    assert values["host_filesystem_inodes"][root] == 200
    assert values["host_filesystem_inodes_free"][root] == 150
    assert values["host_filesystem_read_only"] == {root: 0, data: 1, boot: 0}
    assert set(values["host_filesystem_error"].values()) == {0}
    assert called == ["/host/", "/host/data disk", "/host/boot"]
    assert reading.problems == ()


def test_inodes_are_absent_if_the_file_system_reports_none(tmp_path: Path) -> None:
    without_inodes = os.statvfs_result((4096, 4096, 10, 5, 5, 0, 0, 0, os.ST_RDONLY, 255))
    values, _ = read(make_tree(tmp_path), statvfs=lambda _: without_inodes)
    assert "host_filesystem_inodes" not in values
    assert "host_filesystem_inodes_free" not in values


def test_read_only_mounts_of_a_sandbox_are_not_read_only_file_systems(tmp_path: Path) -> None:
    sandboxed = os.statvfs_result((4096, 4096, 10, 5, 5, 7, 7, 7, os.ST_RDONLY, 255))
    values, _ = read(make_tree(tmp_path), statvfs=lambda _: sandboxed)
    assert sorted(values["host_filesystem_read_only"].values()) == [0, 0, 1]
    line = b"30 1 8:9 / /x ro,nosuid - ext4 /dev/x rw\n"
    failed = b"31 1 8:8 / /y rw - ext4 /dev/y ro,errors=remount-ro\n"
    for own, expected in ((False, [True, True]), (True, [False, True])):
        mounts = parse_mountinfo(line + failed, Faults(), sandboxed=own)
        assert [mount.read_only for mount in mounts] == expected


def test_the_top_mount_is_used_and_the_number_is_limited(tmp_path: Path) -> None:
    over = "30 1 8:9 / /boot rw - ext4 /dev/new rw\n"
    many = "".join(f"{n} 1 9:{n} / /m{n} rw - ext4 /dev/m{n} rw\n" for n in range(40, 80))
    values, reading = read(
        make_tree(tmp_path, mountinfo=MOUNTINFO + over + many),
        Settings(max_devices=5, timeout=AMPLE),
    )
    exported = values["host_filesystem_size_bytes"]
    assert ("/dev/new", "ext4", "/boot") in exported
    assert ("/dev/sda2", "vfat", "/boot") not in exported
    assert len(exported) == 5
    assert [problem.kind for problem in reading.problems] == ["unsupported"]


# Lines of other people's machines: docker/for-win#13318 (WSL: blanks in the options), moby's own
# test (CIFS), podman with pasta (a mount from ""), node_exporter#3662 and #3468.
ODD_MOUNTS: dict[bytes, tuple[str, str, str, bool]] = {
    b"2260 190 0:311 / /Docker/host rw,noatime - 9p drvfs rw,aname=drvfs;path=C:\\Program"
    b" Files\\Docker\\ro,mmap,access=client,msize=262144,trans=virtio": (
        *("drvfs", "9p", "/Docker/host"),
        False,
    ),
    b"31 21 0:23 / /DATA rw,relatime - cifs //foo/BLA\\040BLA/ rw,unc=\\\\foo\\BLA BLA": (
        *("//foo/BLA BLA/", "cifs", "/DATA"),
        False,
    ),
    b"880 845 0:93 / / ro,nosuid - tmpfs  ro,size=0k,nr_inodes=2,inode64": (
        *("none", "tmpfs", "/"),
        True,
    ),
    b"31 21 8:1 / /mnt/cass\xe9 rw - ext4 /dev/sda1 rw": (
        *("/dev/sda1", "ext4", "/mnt/cass\N{REPLACEMENT CHARACTER}"),
        False,
    ),
    b"54 24 8:1 / /mnt/stateful_partition rw,relatime - ext4 /dev/sda1 rw,commit=30": (
        *("/dev/sda1", "ext4", "/mnt/stateful_partition"),
        False,
    ),
}


@pytest.mark.parametrize("line", ODD_MOUNTS)
def test_odd_lines_are_mounts(line: bytes) -> None:
    faults = Faults()
    (mount,) = parse_mountinfo(line + b"\n", faults)
    assert (*mount.labels, mount.read_only) == ODD_MOUNTS[line]
    assert faults.count == 0


@pytest.mark.parametrize("content", ["1 2 3\n", "a - b\n", "1 0 8:1 / / rw ext4 /dev/x rw\n"])
def test_an_invalid_mountinfo_is_bad_data(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadData):
        read(make_tree(tmp_path, mountinfo=content))


def test_no_mountinfo(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        read(tmp_path)
    assert "--path.procfs" in caught.value.remedy


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_the_parser_raises_nothing(noise: bytes) -> None:
    for content in (noise, MOUNTINFO.encode()[:150] + noise):
        mounts = parse_mountinfo(content, Faults())
        assert all(label.encode() for mount in mounts for label in mount.labels)


def test_a_failed_call_is_an_error_of_its_file_system(tmp_path: Path) -> None:
    def statvfs(path: str) -> os.statvfs_result:
        if path == "/boot":
            raise OSError(5, "Input/output error")
        return SIZE

    values, reading = read(make_tree(tmp_path), statvfs=statvfs)
    assert values["host_filesystem_error"]["/dev/sda2", "vfat", "/boot"] == 1
    assert len(values["host_filesystem_size_bytes"]) == 2
    assert [problem.kind for problem in reading.problems] == ["unreachable"]


async def read_until(
    target: FilesystemsTarget, condition: Callable[[dict[str, Samples]], object]
) -> tuple[dict[str, Samples], Reading, float]:
    """Reads until the values are as in the condition; returns them, the reading and its seconds.

    With a short timeout, calls that are only late on a busy machine count as hung, until the next
    read.
    """

    async def timed() -> tuple[dict[str, Samples], Reading, float]:
        started = time.monotonic()
        try:
            reading = await target.read()
        except DeadlineExceeded:  # the list of the mounts was late
            reading = Reading(())
        return samples(METRICS, reading), reading, time.monotonic() - started

    return await until_result(timed, lambda result: condition(result[0]))


def test_a_hung_mount_is_skipped_until_its_call_returns(tmp_path: Path) -> None:
    unblock = threading.Event()
    called: list[str] = []

    def statvfs(path: str) -> os.statvfs_result:
        called.append(path)
        if path == "/data disk":
            unblock.wait(60)
        return SIZE

    async def scenario() -> None:
        paths = Paths(procfs=str(make_tree(tmp_path)))
        target = FilesystemsTarget(Settings(timeout=Duration(1)), paths, statvfs, always_visible)
        data = ("/dev/sdb1", "xfs", "/data disk")

        def others_have_values(values: dict[str, Samples]) -> bool:
            if "/data disk" not in called or not values:
                return False
            assert errors(values) == 1
            return len(values.get("host_filesystem_size_bytes", {})) == 2

        def errors(values: dict[str, Samples]) -> float:
            return values.get("host_filesystem_error", {}).get(data, 1)

        try:
            _, reading, _ = await read_until(target, lambda _: "/data disk" in called)
            (problem,) = (each for each in reading.problems if "/data disk" in each.message)
            assert problem.kind == "timeout"
            results = [await read_until(target, others_have_values) for _ in range(4)]
            assert min(seconds for _, _, seconds in results) < 0.25, (
                "only the first call takes its timeout"
            )
            assert called.count("/data disk") == 1
            unblock.set()
            await read_until(target, lambda values: not errors(values))
        finally:
            unblock.set()
            target.close()

    asyncio.run(scenario())


def test_several_hung_mounts_are_skipped_over_several_polls(
    tmp_path: Path,
) -> None:
    unblock = threading.Event()
    hanging = "".join(f"{n} 1 9:{n} / /m{n} rw - ext4 /dev/m{n} rw\n" for n in range(3))
    good = "9 1 9:9 / /good rw - ext4 /dev/good rw\n"

    def statvfs(path: str) -> os.statvfs_result:
        if path.startswith("/m"):
            unblock.wait(60)
        return SIZE

    async def scenario() -> None:
        tree = make_tree(tmp_path, mountinfo=hanging + good)
        short_timeout, paths = Settings(timeout=Duration(0.4)), Paths(procfs=str(tree))
        target = FilesystemsTarget(short_timeout, paths, statvfs, always_visible)
        before = {*threading.enumerate()}

        async def exported() -> bool:
            try:
                async with asyncio.timeout(0.25):  # shorter than the three hung mounts take
                    values = samples(METRICS, await target.read())
            except (TimeoutError, DeadlineExceeded):
                return False
            return ("/dev/good", "ext4", "/good") in values.get("host_filesystem_size_bytes", {})

        try:
            end = time.monotonic() + 10
            while not await exported():
                assert time.monotonic() < end, "the good mount is never exported"
            unblock.set()
            end = time.monotonic() + 10
            while len({*threading.enumerate()} - before) > 1:
                assert time.monotonic() < end, "threads of returned calls remain"
                await exported()
                await asyncio.sleep(0.02)
        finally:
            unblock.set()
            target.close()

    asyncio.run(scenario())


def test_hung_threads_are_limited(tmp_path: Path) -> None:
    unblock = threading.Event()
    many = "".join(f"{n} 1 9:{n} / /m{n} rw - ext4 /dev/m{n} rw\n" for n in range(30))

    def statvfs(_: str) -> os.statvfs_result:
        unblock.wait(60)
        return SIZE

    async def scenario() -> None:
        tree = make_tree(tmp_path, mountinfo=many)
        short_timeout, paths = Settings(timeout=Duration(0.2)), Paths(procfs=str(tree))
        target = FilesystemsTarget(short_timeout, paths, statvfs, always_visible)
        before = {*threading.enumerate()}
        try:
            for _ in range(2):
                with contextlib.suppress(DeadlineExceeded):  # the list of the mounts was late
                    await target.read()
                assert len({*threading.enumerate()} - before) <= MAX_HUNG_MOUNTS + 1
            await read_until(target, lambda _: len(target._hung) == MAX_HUNG_MOUNTS)
            assert len({*threading.enumerate()} - before) <= MAX_HUNG_MOUNTS + 1
        finally:
            unblock.set()
            target.close()

    asyncio.run(scenario())


def test_this_machine() -> None:
    """The values are those of df, which calls statvfs(3) of the C library."""
    df = shutil.which("df")
    if df is None:
        missing("no df")
    done = subprocess.run(
        [str(df), "--block-size=1", "--output=target,size,itotal", "/"],
        capture_output=True,
        text=True,
        check=True,
    )
    mountpoint, size, inodes = done.stdout.splitlines()[1].split()
    everything = Settings(filesystem_type_exclude="", mountpoint_exclude="", timeout=AMPLE)

    def without_problems() -> dict[str, Samples]:
        """Returns the values of a read during which no mount, such as a container's, ended."""
        values, reading = read(
            Path("/proc"), everything, os.statvfs, is_on_file_system=is_on_file_system
        )
        return {} if reading.problems else values

    values = until(without_problems, "every mount read")
    sizes = {labels[2]: value for labels, value in values["host_filesystem_size_bytes"].items()}
    assert sizes[mountpoint] == int(size)
    inode_counts = {labels[2]: value for labels, value in values["host_filesystem_inodes"].items()}
    assert inode_counts[mountpoint] == int(inodes)


@contextlib.contextmanager
def hung_mount(mountpoint: Path) -> Iterator[None]:
    """Mounts a FUSE file system without a server: calls on it hang until its device is closed."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        missing("a mount that hangs needs root and /dev/fuse")
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if libc.mount(b"hangs", os.fsencode(mountpoint), b"fuse", 0, options) != 0:
            missing(f"FUSE cannot be mounted here: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            os.close(device)
            device = -1
            libc.umount2(os.fsencode(mountpoint), 2)  # MNT_DETACH
    finally:
        if device >= 0:
            os.close(device)


def test_a_mount_that_really_hangs() -> None:
    # Not in `tmp_path`: the default of `mountpoint_exclude` matches what is below /dev.
    mountpoint = Path(tempfile.mkdtemp())

    async def scenario() -> None:
        settings = Settings(filesystem_type_exclude="", timeout=Duration(1))
        target = FilesystemsTarget(settings, Paths())
        try:
            with hung_mount(mountpoint):
                labels = ("hangs", "fuse", str(mountpoint))

                def alone(values: dict[str, Samples]) -> bool:
                    """Whether it has an error, and others have values."""
                    return (
                        values.get("host_filesystem_error", {}).get(labels) == 1
                        and len(values.get("host_filesystem_size_bytes", {})) > 1
                    )

                results = [await read_until(target, alone) for _ in range(5)]
                assert min(seconds for _, _, seconds in results) < 0.25, (
                    "only the first call takes its timeout"
                )
        finally:
            target.close()

    asyncio.run(scenario())
    mountpoint.rmdir()


def test_file_systems_of_the_host_that_are_not_visible(tmp_path: Path) -> None:
    """As in a container with the host's /proc, but not its root directory."""
    mounted = parse_mountinfo(Path("/proc/self/mountinfo").read_bytes(), Faults())
    (root,) = (mount for mount in mounted if mount.mountpoint == "/")
    data = tmp_path / "data"
    data.mkdir()
    lines = (
        f"1 0 {root.number} / / rw - ext4 /dev/visible rw\n"
        f"2 1 250:77 / {data} rw - ext4 /dev/hidden rw\n"
        f"3 1 250:78 / {tmp_path}/absent rw - xfs /dev/gone rw\n"
    )
    tree = make_tree(tmp_path / "proc", mountinfo=lines)
    everything = Settings(filesystem_type_exclude="", mountpoint_exclude="", timeout=AMPLE)

    async def scenario() -> None:
        target = FilesystemsTarget(everything, Paths(procfs=str(tree)))
        try:
            first = await target.read()
            assert {row.labels[0] for row in first.rows} == {"/dev/visible"}
            (problem,) = first.problems
            assert problem.kind == "unsupported"
            assert "--path.rootfs" in problem.remedy
            for text in (problem.message, first.note):
                assert str(data) in text
                assert f"{tmp_path}/absent" in text
            second = await target.read()
            assert second.problems == ()  # a lasting state is reported once
            assert second.note == first.note  # for `check`
            assert second.rows[0].labels == first.rows[0].labels
        finally:
            target.close()

    asyncio.run(scenario())


SCRIPT = """
import asyncio, json, os, re, sys
from exporter.settings import Paths
from exporter.settings import Duration
from exporter.sources.host import filesystems
from exporter.sources.host.filesystems import FilesystemsTarget
from exporter.sources.host.settings import Settings
filesystems.MOUNT_TIMEOUT = 15
place, rootfs = sys.argv[1:]
# Every other path: it ends before a character of place, differs in one, or is longer.
others = [f"{re.escape(place[:i])}([^{c}].*)?" for i, c in enumerate(place)]
others.append(re.escape(place) + ".+")
async def main():
    chosen = Settings(
        filesystem_type_exclude="", mountpoint_exclude="|".join(others), timeout=Duration(60))
    target = FilesystemsTarget(chosen, Paths(rootfs=rootfs))
    reading = await target.read()
    target.close()
    print(json.dumps({
        "sizes": {row.labels[2]: row.size for row in reading.rows},
        "problems": [problem.kind for problem in reading.problems]}))
asyncio.run(main())
"""


@pytest.mark.parametrize("rootfs", ["/", "host"])
def test_a_view_of_the_host_that_lacks_a_mount(tmp_path: Path, rootfs: str) -> None:
    """PID 1 has a 3 MiB file system mounted, which is here only visible under --path.rootfs."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        missing("new namespaces need root and unshare")
    place, host = tmp_path / "mounted", tmp_path / "host"
    place.mkdir()
    host.mkdir()
    shell = f"""
        mount -t tmpfs -o size=3m three {place}
        exec unshare --mount sh -c 'mount --rbind / {host} && umount {place} && exec "$@"' \
            sh "$@" & wait $!
    """
    done = subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", shell, "sh"),
            *(sys.executable, "-c", SCRIPT, str(place), str(host) if rootfs == "host" else "/"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    if rootfs == "host":
        assert result == {"sizes": {str(place): 3 << 20}, "problems": []}
    else:
        assert result == {"sizes": {}, "problems": ["unsupported"]}


def number_of(mountpoint: str) -> str:
    """Returns the device number of the mount, from /proc/self/mountinfo."""
    mounted = parse_mountinfo(Path("/proc/self/mountinfo").read_bytes(), Faults())
    return {mount.mountpoint: mount.number for mount in mounted}[mountpoint]


def test_a_path_is_on_the_file_system_of_its_mount(tmp_path: Path) -> None:
    for mountpoint in ("/", "/proc"):
        assert is_on_file_system(mountpoint, number_of(mountpoint))
        assert not is_on_file_system(mountpoint, "250:77")
    assert is_on_file_system("/etc", number_of("/"))
    assert not is_on_file_system("/", number_of("/proc"))
    with pytest.raises(FileNotFoundError):
        is_on_file_system(str(tmp_path / "absent"), "250:77")


def test_a_btrfs_subvolume_is_on_its_file_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """st_dev is that of the subvolume; mountinfo has the device number of the file system."""
    real = os.stat

    def stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        result = real(path, *arguments, **options)
        if path == "/proc":
            return os.stat_result((*result[:2], os.makedev(0, 999), *result[3:10]))
        return result

    monkeypatch.setattr(os, "stat", stat)
    assert is_on_file_system("/proc", number_of("/proc"))
    assert not is_on_file_system("/proc", "250:77")
