"""A made /proc with known values."""

from __future__ import annotations

from pathlib import Path

STAT = """\
cpu  1000 200 300 40000 500 60 70 80 90 10
cpu0 500 100 150 20000 250 30 35 40 45 5
cpu1 500 100 150 20000 250 30 35 40 45 5
cpu3 0 0 0 0 0 0 0 0 0 0
intr 12345 1 2 3
ctxt 361032
btime 1795222319
processes 5879
"""
MEMINFO = """\
MemTotal:       24682416 kB
MemFree:        23740164 kB
MemAvailable:   24278188 kB
SwapCached:            0 kB
SwapTotal:       8388604 kB
SwapFree:        8000000 kB
HugePages_Total:       0
"""
LOADAVG = "0.10 12.13 345.09 1/84 5879\n"
NET_HEAD = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo \
colls carrier compressed
"""
NET_DEV = (
    NET_HEAD
    + """\
    lo:    3193      29    0    0    0     0          0         0     3194      29    0    0    \
0     0       0          0
  eth0:489651493   13548    0    0    0     0          0         0   755321    8686    0    0    \
0     0       0          0
veth1a2b3c4: 1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0
"""
)
OWN_NET_DEV = NET_HEAD + "ours: 7 0 0 0 0 0 0 0 7 0 0 0 0 0 0 0\n"
DISKSTATS = """\
   7       0 loop0 1 0 8 0 0 0 0 0 0 0 0 0 0 0 0 0 0
   8       0 sda 29228 6082 2354698 4833 14397 26195 4094632 6454 0 3800 11535 4245 0 583752 216 1 3
   8       1 sda1 29000 6082 2354600 4833 14397 26195 4094600 6454 0 3800 11535 4245 0 5837 216 1 3
 259       0 nvme0n1 1 0 2 0 3 0 4 0 0 0 0
 259       1 nvme0n1p1 1 0 2 0 3 0 4 0 0 0 0
"""
FILES = {
    "stat": STAT,
    "meminfo": MEMINFO,
    "loadavg": LOADAVG,
    "1/net/dev": NET_DEV,
    "net/dev": OWN_NET_DEV,
    "diskstats": DISKSTATS,
}


def make_tree(root: Path, **changes: str | bytes | None) -> Path:
    """Write the files under root; a change by the file's last name, None to leave it out.

    `dev` changes PID 1's net/dev.
    """
    for path, content in FILES.items():
        name = path.rpartition("/")[2]
        new = changes.get(name, content) if path != "net/dev" else content
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        if new is not None:
            file.write_bytes(new if isinstance(new, bytes) else new.encode())
    return root
