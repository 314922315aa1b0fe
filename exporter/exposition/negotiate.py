"""Which format and encoding a client wants: Accept and Accept-Encoding after RFC 9110.

Nothing a client sends is an error: what is not understood is passed over, and text 0.0.4,
uncompressed, is what everybody can read.
"""

from __future__ import annotations

from functools import lru_cache

from exporter.exposition.families import Format

# A scraper sends the same headers every time; of longer ones than it has any, none is kept.
_KEPT, _LONGEST_KEPT = 16, 512

# What we can give, by media type and version; "" is a type without a version parameter.
_OFFERS = {
    ("application/openmetrics-text", "1.0.0"): Format.OPENMETRICS,
    ("application/openmetrics-text", ""): Format.OPENMETRICS,
    ("text/plain", "0.0.4"): Format.TEXT,
    ("text/plain", ""): Format.TEXT,
    ("text/*", ""): Format.TEXT,
    ("*/*", ""): Format.TEXT,
}


def format_for(accept: str) -> Format:
    """The format the client likes best; among equals the first it names."""
    return (_kept_format if len(accept) <= _LONGEST_KEPT else _format)(accept)


def wants_gzip(accept_encoding: str) -> bool:
    """Whether the client takes gzip: named, or covered by `*`, and not at quality 0."""
    return (_kept_gzip if len(accept_encoding) <= _LONGEST_KEPT else _gzip)(accept_encoding)


def _format(accept: str) -> Format:
    best, best_quality = Format.TEXT, 0.0
    for value, parameters in _items(accept):
        offer = _OFFERS.get((value, parameters.get("version", "")))
        quality = _quality(parameters)
        if offer is not None and quality > best_quality:
            best, best_quality = offer, quality
    return best


def _gzip(accept_encoding: str) -> bool:
    qualities = {value: _quality(parameters) for value, parameters in _items(accept_encoding)}
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0


_kept_format, _kept_gzip = lru_cache(_KEPT)(_format), lru_cache(_KEPT)(_gzip)


def _items(header: str) -> list[tuple[str, dict[str, str]]]:
    """The comma-separated values of a header with their parameters, in lower case."""
    items = []
    for part in header.lower().split(","):
        value, *parameters = part.split(";")
        pairs = (parameter.partition("=")[::2] for parameter in parameters)
        items.append((value.strip(), {key.strip(): text.strip(' "') for key, text in pairs}))
    return items


def _quality(parameters: dict[str, str]) -> float:
    """The q parameter, 0 to 1; 1 where there is none, 0 where it is no number."""
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
