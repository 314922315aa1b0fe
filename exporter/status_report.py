"""The status of the sources: the lines of `check` and of the landing page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from exporter.model import Health, SourceStatus, TargetStatus
from exporter.registry import SOURCES
from exporter.settings import SourceSettings


@dataclass(frozen=True, slots=True)
class StatusLine:
    """The status of one source, or, with `target`, of one failing or unhealthy target of it.

    state: ok, partly (some targets fail, or a series limit leaves metrics out), failed, not found,
    off or starting; of a target also unhealthy: it is read, and needs attention itself. targets:
    their titles. age: seconds since the last success. duration: seconds of the slowest poll. age
    and duration are None if unknown. message, remedy: the error and how to fix it. notes: the
    `Reading.note` of the targets.
    """

    source: str
    title: str
    state: str
    target: str = ""
    targets: tuple[str, ...] = ()
    series: int = 0
    age: float | None = None
    duration: float | None = None
    message: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a wanted source or target fails."""
        return self.state in ("failed", "partly")

    @property
    def unhealthy(self) -> bool:
        """Whether a target needs attention that is read, such as a GPU that needs a reset."""
        return self.state == "unhealthy"


def status_report(
    statuses: Iterable[SourceStatus], settings: Mapping[str, SourceSettings]
) -> Iterator[StatusLine]:
    """Yields a line for each source, in the registry's order.

    Its failing targets follow, and the problems of what it reads.
    """
    known = {status.name: status for status in statuses}
    health_problems = [
        problem
        for status in known.values()
        for target in status.targets
        for problem in target.health_problems
    ]
    for entry in SOURCES:
        status = known.get(entry.name)
        if status is None:
            off = settings[entry.name].enabled == "off"
            yield StatusLine(entry.name, entry.title, "off" if off else "starting")
            continue
        yield _source_line(status, entry.title)
        if status.wanted:
            for target in status.targets:
                health = target.health
                error = health.error or health.incomplete
                if error is not None:
                    yield StatusLine(
                        entry.name,
                        entry.title,
                        "failed" if health.error is not None else "partly",
                        _target_label(target),
                        age=_age(health),
                        duration=health.duration,
                        message=error.message,
                        remedy=error.remedy,
                    )
        for problem in health_problems:
            if problem.source == entry.name:
                yield StatusLine(
                    entry.name,
                    entry.title,
                    "unhealthy",
                    problem.subject,
                    message=problem.message,
                    remedy=problem.remedy,
                )


def _source_line(status: SourceStatus, title: str) -> StatusLine:
    healths = [target.health for target in status.instances]
    error = status.health.error
    ages = [age for health in healths if (age := _age(health)) is not None]
    durations = [health.duration for health in healths if health.duration is not None]
    return StatusLine(
        status.name,
        title,
        _state(status),
        targets=tuple(target.title or target.name for target in status.instances),
        series=status.series,
        age=min(ages, default=None),
        duration=max(durations, default=None),
        message=error.message if error is not None else "",
        remedy=error.remedy if error is not None else "",
        notes=tuple(target.note for target in status.targets if target.note),
    )


def terminal_safe(text: str) -> str:
    """Replaces non-printable characters (control codes, escapes, bidi marks) by question marks."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def _target_label(target: TargetStatus) -> str:
    """Returns the target's title, followed by its name if that differs."""
    if target.title in ("", target.name):
        return target.name
    return f"{target.title} ({target.name})"


def _state(status: SourceStatus) -> str:
    if not status.wanted:
        return "starting" if status.health.error is None else "not found"
    if status.health.error is None and any(
        target.health.duration is None for target in status.instances
    ):
        return "starting"
    if status.health.error is None and not status.instances:
        return "not found"  # its targets are gone, not failing: a Triton server's container ended
    if not any(target.health.up for target in status.instances):
        return "failed"
    complete = all(target.health.complete for target in status.targets)
    return "ok" if complete and status.health.error is None else "partly"


def _age(health: Health) -> float | None:
    return None if health.last_success is None else max(0.0, time.time() - health.last_success)


def check_table(lines: Iterable[StatusLine]) -> str:
    """Returns the output of `check`: a line for each source, then its errors and remedies."""
    lines = list(lines)
    width = max(len(line.title) for line in lines)
    return "".join(f"{text}\n" for line in lines for text in _texts(line, width))


def _texts(line: StatusLine, width: int) -> Iterator[str]:
    indent = " " * (width + 2)
    if line.target:
        yield f"{indent}{terminal_safe(line.target)}: {terminal_safe(line.message)}"
    else:
        yield f"{line.title:{width}}  {line.state:10} {_targets(line)}".rstrip()
        if line.message:
            yield f"{indent}{terminal_safe(line.message)}"
    for note in line.notes:
        yield f"{indent}{terminal_safe(note)}"
    if line.remedy:
        yield f"{indent}-> {terminal_safe(line.remedy)}"


def _targets(line: StatusLine) -> str:
    if not line.targets:
        return ""
    names = ", ".join(line.targets[:8]) + (" …" if len(line.targets) > 8 else "")
    return f"{terminal_safe(names)} ({line.series} series)"
