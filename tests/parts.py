"""Skips tests whose real parts (programs, devices, privileges) this machine lacks."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skips the test; fails it if REQUIRE_REAL_PARTS is set, as in CI."""
    if os.environ.get("REQUIRE_REAL_PARTS"):
        pytest.fail(f"a real part is missing: {reason}", pytrace=False)
    pytest.skip(reason)
