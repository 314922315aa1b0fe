"""Formats numbers with units, close to Grafana's format."""

from __future__ import annotations

import math
from datetime import UTC, datetime

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_TIME_UNITS = (
    (1e-6, "µs"),
    (1e-3, "ms"),
    (1.0, "s"),
    (60.0, "min"),
    (3600.0, "h"),
    (86_400.0, "d"),
)
_AGES = ((86_400.0, "day"), (3600.0, "hour"), (60.0, "minute"))
_SI_UNITS = {"watt": "W", "joule": "J", "hertz": "Hz", "Bps": "B/s"}
_SUFFIXES = {"reqps": " req/s", "pps": " p/s", "cps": " c/s", "celsius": " °C"}


def format_value(value: float, unit: str, decimals: int | None = None) -> str:
    """Returns the number with its unit."""
    if math.isnan(value):
        text = "NaN"
    elif unit == "percentunit":
        text = f"{100 * value:.{1 if decimals is None else decimals}f} %"
    elif unit == "bytes":
        text = _scaled(value, 1024, _BYTE_UNITS, decimals)
    elif unit in _SI_UNITS:
        letters = tuple(f"{letter}{_SI_UNITS[unit]}" for letter in ("", "k", "M", "G", "T"))
        text = _scaled(value, 1000, letters, decimals)
    elif unit == "s":
        text = _time(value)
    elif unit.startswith("dateTime"):
        text = datetime.fromtimestamp(value / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    else:
        text = f"{_plain(value, decimals)}{_SUFFIXES.get(unit, '')}"
    return text


def from_now(seconds: float) -> str:
    """Returns a time so many seconds ago, in words."""
    if seconds < 45:
        return "a few seconds ago"
    if seconds < 90:
        return "a minute ago"
    factor, name = next((f, name) for f, name in _AGES if seconds >= 1.5 * f)
    return f"{max(seconds, 0) / factor:.0f} {name}s ago"


def _plain(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _scaled(value: float, base: int, letters: tuple[str, ...], decimals: int | None) -> str:
    power = 0
    while abs(value) >= base and power < len(letters) - 1:
        value /= base
        power += 1
    return f"{_plain(value, decimals)} {letters[power]}"


def _time(value: float) -> str:
    factor, letters = next((f for f in reversed(_TIME_UNITS) if abs(value) >= f[0]), _TIME_UNITS[0])
    return f"{value / factor:.3g} {letters}" if value else "0 s"
