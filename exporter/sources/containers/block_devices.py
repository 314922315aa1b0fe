"""The names of block devices by their numbers. Blocking."""

from __future__ import annotations

from pathlib import Path

# More than any host has devices that containers use.
_MOST = 4096


class BlockDeviceNames:
    """Looks up `/sys/dev/block/MAJOR:MINOR`, once for each device."""

    def __init__(self, sysfs: Path) -> None:
        self._folder = sysfs / "dev" / "block"
        self._known: dict[str, str] = {}

    def name(self, number: str) -> str:
        """The device's file ("/dev/sda"), as cAdvisor has it; the number where it has no name."""
        known = self._known.get(number)
        if known is None:
            try:
                link = str((self._folder / number).readlink())
            except OSError:  # gone since, or no such file system here
                known = number
            else:
                name = link.rpartition("/")[2].replace("!", "/")
                known = "/dev/" + name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[number] = known
        return known
