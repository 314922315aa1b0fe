"""A fake /proc with known values."""

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
Buffers:            1000 kB
Cached:             2000 kB
MemAvailable:   24278188 kB
SwapCached:            0 kB
Active(file):        700 kB
Inactive(file):     1100 kB
AnonPages:         40000 kB
Mapped:              500 kB
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
    lo:    3193      29    1    2    0     0          0         0     3194      29    3    4    \
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
PSI = (
    "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
)
MOUNTINFO = """\
1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
20 1 0:20 / /proc rw - proc proc rw
21 1 0:21 / /tmp rw - tmpfs tmpfs rw
22 1 8:2 / /data\\040disk ro,relatime shared:2 master:3 - xfs /dev/sdb1 rw
23 1 8:1 /srv /srv rw - ext4 /dev/sda1 rw
24 1 0:24 / /mnt/nfs rw - nfs4 server:/x rw
25 1 8:3 / /var/lib/docker/x rw - ext4 /dev/sdc1 rw
26 1 8:4 / /boot rw - vfat /dev/sda2 rw
"""
FILES = {
    "pressure/cpu": PSI.format(1_500_000, 125_000),
    "pressure/memory": PSI.format(2_500_000, 250_000),
    "pressure/io": PSI.format(3_500_000, 500_000),
    "sys/fs/file-nr": "1234\t0\t9223372036854775807\n",
    "1/mountinfo": MOUNTINFO,
    "stat": STAT,
    "meminfo": MEMINFO,
    "loadavg": LOADAVG,
    "1/net/dev": NET_DEV,
    "net/dev": OWN_NET_DEV,
    "diskstats": DISKSTATS,
}


def make_tree(root: Path, **changes: str | bytes | None) -> Path:
    """Writes the files under root. changes: content by file name; None omits the file.

    `dev` is net/dev of PID 1.
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
