"""The parts of a file or a reply that cannot be parsed: counted, and reported once per subject.

Every parser leaves out what it does not understand and adds it to the `Faults` of its file or
reply: one strange line costs one line. The source reports them as problems of its reading.
"""

from __future__ import annotations

from exporter.errors import LeftOut

# Characters of the first fault, and subjects of one reading.
_MAX_LENGTH, _MAX_SUBJECTS = 200, 50


class Faults:
    """The parts of one file or reply that are left out: their number, and the first of them."""

    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def add(self, reason: str) -> None:
        """Adds a part. reason: what it is, and what was expected."""
        self.count += 1
        if not self.first:
            self.first = reason[:_MAX_LENGTH]


class FaultTotals:
    """The faults of one reading, by subject: the name of a file or a reply, a constant."""

    def __init__(self) -> None:
        self._totals: dict[str, _Total] = {}

    def add(self, subject: str, faults: Faults, where: str = "") -> None:
        """Adds the faults of a file or reply. where: its name in a message, by default `subject`.

        Of several with the same subject, such as one file of each container, the first is named.
        """
        if not faults.count:
            return
        total = self._totals.get(subject)
        if total is not None:
            total.count += faults.count
            total.sources += 1
        elif len(self._totals) < _MAX_SUBJECTS:
            self._totals[subject] = _Total(where or subject, faults)

    def problems(self) -> tuple[LeftOut, ...]:
        """Returns a problem for each subject."""
        return tuple(
            LeftOut(total.message(), subject=subject) for subject, total in self._totals.items()
        )


class _Total:
    __slots__ = ("count", "first", "sources", "where")

    def __init__(self, where: str, faults: Faults) -> None:
        self.where, self.first = where, faults.first
        self.count, self.sources = faults.count, 1

    def message(self) -> str:
        more = f", with {self.count - 1} more" if self.count > 1 else ""
        others = f" in {self.sources} of its kind" if self.sources > 1 else ""
        return f"{self.where}: {self.first}: left out{more}{others}"


def quoted(data: bytes) -> str:
    """Returns the start of a line as printable text, for a reason."""
    return repr(data[:60])
