"""Real parts: what a test does where one is missing on this machine."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip, saying why; or fail, where REQUIRE_REAL_PARTS is set (as CI sets it)."""
    if os.environ.get("REQUIRE_REAL_PARTS"):
        pytest.fail(f"a real part is missing: {reason}", pytrace=False)
    pytest.skip(reason)
