"""How an exporter recognizes its own page and its own requests, so that none merges itself."""

from __future__ import annotations

import re

# A request header of every fetch of an upstream's page.
MERGE_HEADER = "X-Inference-Exporter-Merge"
_OWN_SAMPLE = re.compile(rb"^[ \t]*inference_exporter_build_info[ \t{]", re.MULTILINE)


def is_exporter_page(body: bytes) -> bool:
    """Whether the page is that of an inference-exporter, this one or another."""
    return _OWN_SAMPLE.search(body) is not None
