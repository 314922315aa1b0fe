"""Settings of the host source."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """Settings of the host source. The exclusions must match a device's whole name."""

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
    max_devices: Annotated[
        int, Meta(description="most network devices, and most disks, to show", ge=1, le=10_000)
    ] = 256

    def __post_init__(self) -> None:
        for name in ("network_exclude", "disk_exclude"):
            try:
                re.compile(getattr(self, name))
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"{name} is not a regular expression: {error}") from None
