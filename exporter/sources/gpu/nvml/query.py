"""How one GPU is asked: what it does not support is remembered, what it says is checked."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic
from typing import Any, TypeVar

from exporter.errors import BadData, NotFound, SourceError, Unsupported
from exporter.model import Number
from exporter.sources.gpu.nvml.calls import Call, NvmlCall, ValueSpec
from exporter.sources.gpu.nvml.errors import GpuLost, NoData, Uninitialised
from exporter.sources.gpu.nvml.library import call

# Seconds until a GPU is asked again for what it said it does not support.
RETRY_UNSUPPORTED_AFTER = 3600.0
# NVML_VALUE_NOT_AVAILABLE of nvml.h, as the several integer types show it.
NOT_AVAILABLE = frozenset((-1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF))

T = TypeVar("T")


def monotonic_seconds() -> float:
    """Seconds of a clock that only goes forward."""
    return monotonic()


class NvmlQuery:
    """The questions put to one GPU, in that GPU's thread.

    problems: what went wrong since `begin`, apart from what concerns the GPU as a whole.
    """

    def __init__(self) -> None:
        self.problems: list[SourceError] = []
        self._unsupported: dict[Hashable, float] = {}

    def begin(self) -> None:
        """A new reading."""
        self.problems = []

    def forget(self) -> None:
        """Ask everything again: another card, driver or MIG mode may support other things."""
        self._unsupported.clear()

    def unsupported(self, key: Hashable) -> bool:
        """Whether the GPU said of late that it does not support this."""
        when = self._unsupported.get(key)
        if when is None:
            return False
        if monotonic() < when:
            return True
        del self._unsupported[key]
        return False

    def note_unsupported(self, key: Hashable) -> None:
        """Do not ask this for a while."""
        self._unsupported[key] = monotonic() + RETRY_UNSUPPORTED_AFTER

    def get(self, key: Hashable, question: Callable[..., T], *arguments: Any) -> T | None:
        """The answer; None where there is none, for which there is a problem unless unsupported.

        Raises Lost, Uninitialised, NotFound: then there is no use in asking any further.
        """
        if self._unsupported and self.unsupported(key):
            return None
        try:
            return question(*arguments)
        except Unsupported:
            self.note_unsupported(key)
        except NoData:
            pass  # not now
        except (GpuLost, Uninitialised, NotFound):
            raise
        except SourceError as error:
            self.problems.append(error)
        return None

    def first(self, handle: Any, *calls: Call) -> Any:
        """The answer to the first of the calls that is supported, or None."""
        for each in calls:
            answer = self.get(each, call, each[0], handle, *each[1:])
            if answer is not None or each not in self._unsupported:
                return answer
        return None

    def number(self, handle: Any, question: NvmlCall) -> Number | None:
        """The answer to a question of the table, in the unit it is shown in."""
        answer = self.first(handle, *question.calls)
        if answer is None:
            return None
        return self.converted(question, question.pick(answer) if question.pick else answer)

    def converted(self, scale: ValueSpec, value: Number) -> Number | None:
        """A value of the driver's in the unit it is shown in; None where it is not believed."""
        if value in NOT_AVAILABLE and (scale.lowest >= 0 or value != -1):
            return None
        if not scale.lowest <= value <= scale.highest:
            self.problems.append(BadData(f"{scale.key}: {value} is beyond reason"))
            return None
        if scale.per != 1:
            return value / scale.per
        return value * scale.times
