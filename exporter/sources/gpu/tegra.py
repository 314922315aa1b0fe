"""Whether this is a Jetson, whose integrated GPU the driver's library hardly knows. Blocking."""

from __future__ import annotations

from exporter.kernel_file import kernel_text
from exporter.settings import Paths

TEGRA_REMEDY = (
    "NVML has no values of a Jetson's integrated GPU: read it with jetson-stats or tegrastats, and"
    " set gpu.enabled to off here"
)


def is_tegra(paths: Paths) -> bool:
    """Returns whether the device tree, or the kernel's name of the chip, is that of a Tegra."""
    trees = (
        f"{paths.procfs}/device-tree/compatible",
        f"{paths.sysfs}/firmware/devicetree/base/compatible",
    )
    if any("nvidia,tegra" in (kernel_text(tree) or "") for tree in trees):
        return True
    return (kernel_text(f"{paths.sysfs}/devices/soc0/family") or "").strip() == "Tegra"
