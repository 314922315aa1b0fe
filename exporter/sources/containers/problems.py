"""The problems of a reading, bounded in number."""

from __future__ import annotations

from exporter.errors import BadData, SourceError

# Problems listed one by one in a reading; more are counted in one line.
MAX_PROBLEMS = 20


def bounded_problems(problems: list[SourceError]) -> tuple[SourceError, ...]:
    """Returns the first MAX_PROBLEMS problems, and one with the number of the others."""
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    more = len(problems) - MAX_PROBLEMS
    return (*problems[:MAX_PROBLEMS], BadData(f"and {more} more problems of this kind"))
