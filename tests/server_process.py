"""Base of the real servers of the tests: start and end, a hang."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Self

from tests.waiting import until


class RunningServer(abc.ABC):
    """`with` starts the server, ready inside the block, and kills it at the end."""

    def __enter__(self) -> Self:
        try:
            self.start_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @abc.abstractmethod
    def start_ready(self) -> None:
        """Starts the server and waits until it is ready."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Sends SIGKILL to the server and all of its processes, as a crash."""


def await_stopped(pid: int) -> None:
    """Waits until every thread is stopped (state T), after SIGSTOP: one may still respond."""
    tasks = Path(f"/proc/{pid}/task")
    until(lambda: {_state(path) for path in tasks.glob("*/stat")} == {"T"}, f"{pid} stopped")


def _state(stat: Path) -> str:
    return stat.read_text().rpartition(")")[2].split()[0]
