"""Runs computations that are divided into steps."""

from __future__ import annotations

from typing import TypeVar

from exporter.worker import Steps

T = TypeVar("T")


def complete(steps: Steps[T]) -> T:
    """Runs all steps; returns the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
