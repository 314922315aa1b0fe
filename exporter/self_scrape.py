"""Detects the exporter's own page and own requests, so that no exporter merges itself."""

from __future__ import annotations

import re

# A header of every request for an upstream page.
MERGE_HEADER = "X-Inference-Exporter-Merge"
_OWN_SAMPLE = re.compile(rb"^[ \t]*inference_exporter_build_info[ \t{]", re.MULTILINE)


def is_exporter_page(body: bytes) -> bool:
    """Whether the page is from an inference-exporter, this one or another."""
    return _OWN_SAMPLE.search(body) is not None
