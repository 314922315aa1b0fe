"""Block device names by device number. Blocking."""

from __future__ import annotations

from pathlib import Path

# More block devices than the containers of any host use.
_MAX_CACHED = 4096


class BlockDeviceNames:
    """Reads the link `/sys/dev/block/MAJOR:MINOR`, once per device."""

    def __init__(self, sysfs: Path) -> None:
        self._folder = sysfs / "dev" / "block"
        self._names: dict[str, str] = {}

    def name(self, number: str) -> str:
        """Returns the device file ("/dev/sda"), as cAdvisor does; `number` if it has no name."""
        name = self._names.get(number)
        if name is None:
            try:
                link = str((self._folder / number).readlink())
            except OSError:  # the device is gone, or sysfs is not mounted
                name = number
            else:
                name = link.rpartition("/")[2].replace("!", "/")
                name = "/dev/" + name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            if len(self._names) >= _MAX_CACHED:
                self._names.clear()
            self._names[number] = name
        return name
