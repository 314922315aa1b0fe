"""Content negotiation: Accept and Accept-Encoding (RFC 9110).

No header is an error: values that do not parse are ignored, and the default is text 0.0.4,
uncompressed.
"""

from __future__ import annotations

from functools import lru_cache

from exporter.exposition.families import Format

# A scraper sends the same headers every time. Headers longer than any scraper's are not cached.
_CACHE_SIZE, _MAX_CACHED_LENGTH = 16, 512

# By media type and version; "" is a type without a version parameter.
_SUPPORTED = {
    ("application/openmetrics-text", "1.0.0"): Format.OPENMETRICS,
    ("application/openmetrics-text", ""): Format.OPENMETRICS,
    ("text/plain", "0.0.4"): Format.TEXT,
    ("text/plain", ""): Format.TEXT,
    ("text/*", ""): Format.TEXT,
    ("*/*", ""): Format.TEXT,
}


def negotiate_format(accept: str) -> Format:
    """Returns the supported format of the highest quality; of equal qualities, the first."""
    return (_cached_format if len(accept) <= _MAX_CACHED_LENGTH else _format)(accept)


def accepts_gzip(accept_encoding: str) -> bool:
    """Returns whether gzip, x-gzip or `*` is listed with a quality above 0."""
    return (_cached_gzip if len(accept_encoding) <= _MAX_CACHED_LENGTH else _gzip)(accept_encoding)


def _format(accept: str) -> Format:
    best, best_quality = Format.TEXT, 0.0
    for value, parameters in _parse(accept):
        supported = _SUPPORTED.get((value, parameters.get("version", "")))
        quality = _quality(parameters)
        if supported is not None and quality > best_quality:
            best, best_quality = supported, quality
    return best


def _gzip(accept_encoding: str) -> bool:
    qualities = {value: _quality(parameters) for value, parameters in _parse(accept_encoding)}
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0


_cached_format, _cached_gzip = lru_cache(_CACHE_SIZE)(_format), lru_cache(_CACHE_SIZE)(_gzip)


def _parse(header: str) -> list[tuple[str, dict[str, str]]]:
    """Returns the comma-separated values of a header with their parameters, in lower case."""
    items = []
    for part in header.lower().split(","):
        value, *parameters = part.split(";")
        pairs = (parameter.partition("=")[::2] for parameter in parameters)
        items.append((value.strip(), {key.strip(): text.strip(' "') for key, text in pairs}))
    return items


def _quality(parameters: dict[str, str]) -> float:
    """Returns the q parameter, 0 to 1; 1 if missing, 0 if not a number or out of range."""
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
