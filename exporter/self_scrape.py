"""Detects the exporter's own page and own requests, so that no exporter merges itself."""

from __future__ import annotations

import re

# A header of every request for an upstream page.
MERGE_HEADER = "X-Inference-Exporter-Merge"
_OWN_NAME = b"inference_exporter_build_info"
_OWN_SAMPLE = re.compile(rb"^[ \t]*" + _OWN_NAME + rb"[ \t{]", re.MULTILINE)


def is_exporter_page(lines: bytes) -> bool:
    """Whether the lines are of an inference-exporter's page, this one's or another's."""
    return _OWN_NAME in lines and _OWN_SAMPLE.search(lines) is not None
