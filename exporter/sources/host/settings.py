"""Settings of the host source."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from exporter.patterns import check_patterns
from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """The host: network devices, disks and file systems to exclude."""

    network_exclude: Annotated[
        str,
        Meta(
            description="regular expression (full match) of network devices to exclude; default: "
            "the host's side of container interfaces"
        ),
    ] = r"(veth|cali).*|(lxc|eni)[0-9a-f]{8,}|lxc_health"
    disk_exclude: Annotated[
        str,
        Meta(
            description="regular expression (full match) of disks to exclude; partitions are never "
            "exported, dm-* and md* are, besides their underlying disks"
        ),
    ] = r"(z?ram|loop|fd|sr)\d+"
    filesystem_type_exclude: Annotated[
        str,
        Meta(
            description="regular expression (full match) of file system types to exclude; default: "
            "pseudo, container and network file systems"
        ),
    ] = (
        r"(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|efivarfs|fusectl"
        r"|hugetlbfs|mqueue|nsfs|overlay|proc|procfs|pstore|ramfs|rootfs|rpc_pipefs|securityfs"
        r"|selinuxfs|squashfs|erofs|iso9660|sysfs|tmpfs|tracefs"
        r"|nfs4?|nfsd|cifs|smb3?|smbfs|ncpfs|afs|ceph|gfs2?|glusterfs|lustre|beegfs|9p|virtiofs"
        r"|davfs|fuse|fuse\..*|fuseblk\..*)"
    )
    mountpoint_exclude: Annotated[
        str, Meta(description="regular expression (full match) of mount points to exclude")
    ] = (
        r"/(dev|proc|sys|run/(credentials|docker|containerd)|var/lib/(docker|containers|containerd"
        r"|kubelet))(/.*)?"
    )
    max_devices: Annotated[
        int,
        Meta(
            description="limit of network devices, of disks, and of file systems",
            ge=1,
            le=10_000,
        ),
    ] = 256

    def __post_init__(self) -> None:
        check_patterns(
            self,
            ("network_exclude", "disk_exclude", "filesystem_type_exclude", "mountpoint_exclude"),
        )
