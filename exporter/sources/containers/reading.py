"""What is known of one container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Container:
    """One running container: who it is, and what it uses. What is not known is None.

    cpu_usage: seconds of CPU time since it was started.
    memory_usage, memory_working_set, memory_limit: bytes.
    started: Unix time stamp in seconds.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image")
    labels: tuple[str, ...]
    id: str
    image_id: str
    compose_project: str = ""
    compose_service: str = ""
    cpu_usage: float | None = None
    memory_usage: int | None = None
    memory_working_set: int | None = None
    memory_limit: int | None = None
    started: float | None = None
