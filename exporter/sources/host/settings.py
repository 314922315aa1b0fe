"""Settings of the host source."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """Settings of the host source. The exclusions must match a whole name."""

    network_exclude: Annotated[
        str,
        Meta(
            description="regular expression of network devices to leave out; "
            "by default the host's ends of containers' links"
        ),
    ] = r"(veth|cali).*|(lxc|eni)[0-9a-f]{8,}|lxc_health"
    disk_exclude: Annotated[
        str,
        Meta(
            description="regular expression of disks to leave out; "
            "partitions are always left out, dm-* and md* are kept beside the disks under them"
        ),
    ] = r"(z?ram|loop|fd|sr)\d+"
    filesystem_type_exclude: Annotated[
        str,
        Meta(
            description="regular expression of types of file systems to leave out; by default what"
            " is no storage, what containers are made of, and what other hosts serve"
        ),
    ] = (
        r"(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|efivarfs|fusectl"
        r"|hugetlbfs|mqueue|nsfs|overlay|proc|procfs|pstore|ramfs|rootfs|rpc_pipefs|securityfs"
        r"|selinuxfs|squashfs|erofs|iso9660|sysfs|tmpfs|tracefs"
        r"|nfs4?|nfsd|cifs|smb3?|smbfs|ncpfs|afs|ceph|gfs2?|glusterfs|lustre|beegfs|9p|virtiofs"
        r"|davfs|fuse|fuse\..*|fuseblk\..*)"
    )
    mountpoint_exclude: Annotated[
        str, Meta(description="regular expression of mount points to leave out")
    ] = (
        r"/(dev|proc|sys|run/(credentials|docker|containerd)|var/lib/(docker|containers|containerd"
        r"|kubelet))(/.*)?"
    )
    max_devices: Annotated[
        int,
        Meta(
            description="most network devices, most disks, and most file systems to show",
            ge=1,
            le=10_000,
        ),
    ] = 256

    def __post_init__(self) -> None:
        for name in (
            *("network_exclude", "disk_exclude"),
            *("filesystem_type_exclude", "mountpoint_exclude"),
        ):
            try:
                re.compile(getattr(self, name))
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"{name} is not a regular expression: {error}") from None
