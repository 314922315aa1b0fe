"""Attacks need a memory cgroup and root: they are tests of real parts.

`make abuse` runs every variant of each attack; `make test` runs the first one of each.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the attacks as tests of real parts; without ABUSE_REPORT, keeps a variant of each."""
    kept: list[pytest.Item] = []
    omitted: list[pytest.Item] = []
    seen: set[str] = set()
    for item in items:
        attack = item.nodeid.partition("[")[0]
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real)
            if attack in seen and not os.environ.get("ABUSE_REPORT"):
                omitted.append(item)
                continue
            seen.add(attack)
        kept.append(item)
    if omitted:
        config.hook.pytest_deselected(items=omitted)
        items[:] = kept
