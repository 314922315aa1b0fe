"""Every case has a test: named after it, or with its identifier among its parameters."""

from __future__ import annotations

import pytest

from tests.paths import ROOT

CASES = {
    "io-unknown-device": "io.stat: a row without a device number",
    "memory-stat-negative": "memory.stat of v1: a negative number",
    "io-several-devices-on-a-line": "io.stat: devices without figures and no newline",
    "processes-in-child-cgroups": "a container with systemd or dockerd inside",
    "swap-underflow": "/proc/meminfo inside LXC",
    "diskstats-17-fields": "/proc/diskstats of lxcfs 5",
    "stats-without-packets": "the engine's stats: a network without rx_packets",
    "timestamp-with-exponent": "a page: OpenTelemetry's OpenMetrics",
    "unknown-escapes": "a page: Windows paths",
    "created-is-a-name": "a page: names that end in _created",
    "path-as-given": "an upstream's address that ends in a slash",
    "json-is-no-page": "an upstream that returns JSON",
    "conflict-that-was-none": "a page with one name in two TYPE lines",
    "password-of-other-letters": "a password in UTF-8",
    "header-of-a-number": "web configuration: a number as a header",
    "blank-keys": "web configuration: keys without a value",
    "v2-without-extensions": "a KServe v2 server that is no Triton",
    "page-behind-a-prefix": "the landing page behind a reverse proxy",
    "memory-controller-elsewhere": "a hybrid host with the memory controller on v2",
}


@pytest.fixture(scope="module")
def tests() -> str:
    """The text of all other tests."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return "\n".join(file.read_text() for file in files if file.name != "test_index.py")


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_a_test(case: str, tests: str) -> None:
    assert f'"{case}"' in tests or f"def test_{case.replace('-', '_')}(" in tests
