"""A fake /proc with processes, some of them in containers."""

from __future__ import annotations

import shutil
from pathlib import Path


class Proc:
    """A fake /proc with processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, pid: int, cgroup: str, started: int = 1000, name: str = "python") -> None:
        """Starts a process, in a directory with another inode than that of the PID's last one."""
        directory = self.folder / str(pid)
        last = self.folder / f"last-{pid}"
        if directory.exists():
            directory.rename(last)
        directory.mkdir(parents=True)
        if last.exists():
            shutil.rmtree(last)
        fields = ["S", *["0"] * 18, str(started), "0"]
        (directory / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (directory / "cgroup").write_text(cgroup)

    def end(self, pid: int) -> None:
        for file in (self.folder / str(pid)).iterdir():
            file.unlink()
        (self.folder / str(pid)).rmdir()


def v2(container: str) -> str:
    return f"0::/system.slice/docker-{container}.scope\n"
