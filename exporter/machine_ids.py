"""Reads the identifiers of the machine: cAdvisor's labels on `machine_…`."""

from __future__ import annotations

from pathlib import Path

from exporter.kernel_file import read_kernel_file
from exporter.settings import Paths

_MAX_ID_BYTES = 256


def machine_labels(paths: Paths) -> tuple[tuple[str, str], ...]:
    """Returns cAdvisor's labels of the machine; the text of a file that cannot be read is empty."""
    files = {
        "boot_id": Path(paths.procfs, "sys/kernel/random/boot_id"),
        "machine_id": Path(paths.rootfs, "etc/machine-id"),
        "system_uuid": Path(paths.sysfs, "class/dmi/id/product_uuid"),
    }
    return tuple((label, _text(path)) for label, path in files.items())


def _text(path: Path) -> str:
    try:
        return read_kernel_file(path, _MAX_ID_BYTES).decode("ascii", "replace").strip()
    except (OSError, ValueError):  # absent, for root only, or too long
        return ""
