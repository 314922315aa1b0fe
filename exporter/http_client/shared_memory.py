"""Memory of all reads in progress together, bounded: the largest of them gives way."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from exporter.errors import BadData


class SharedMemory:
    """Bounds the memory of the shares taken from it. subject: of its error messages."""

    def __init__(self, limit: int, subject: str) -> None:
        self._limit = limit
        self._subject = subject
        self._sizes: dict[MemoryShare, int] = {}

    def share(self, discard: Callable[[], None]) -> MemoryShare:
        """Returns an empty share, a context manager. discard: releases the memory it stands for.

        `discard` is called by a `resize`, of this or of another share.
        """
        return MemoryShare(self, discard)

    def set_size(self, share: MemoryShare, size: int) -> None:
        """Sets a share's size, and refuses the largest ones until the rest fits. Raises BadData."""
        if share.refused:
            raise self._error()
        self._sizes[share] = size
        # A copy: another thread may release its share meanwhile.
        sizes = dict(self._sizes)
        while sum(sizes.values()) > self._limit:
            largest = max(sizes, key=sizes.__getitem__)
            del sizes[largest]
            self._sizes.pop(largest, None)
            largest.refuse()
        if share.refused:
            raise self._error()

    def release(self, share: MemoryShare) -> None:
        self._sizes.pop(share, None)

    def _error(self) -> BadData:
        return BadData(
            f"{self._subject} in progress need more than {self._limit >> 20} MiB together, this one"
            " the most of all"
        )


class MemoryShare:
    """The memory of one read in progress. refused: whether it had to give way."""

    def __init__(self, memory: SharedMemory, discard: Callable[[], None]) -> None:
        self._memory = memory
        self._discard = discard
        self.refused = False

    def resize(self, size: int) -> None:
        """Raises BadData if this share is, or was, the largest while all exceeded the limit."""
        self._memory.set_size(self, size)

    def refuse(self) -> None:
        self.refused = True
        self._discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._memory.release(self)
