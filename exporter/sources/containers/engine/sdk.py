"""Docker's SDK, imported without the modules that it needs for what the exporter does not do: 5 MB.

requests guesses with charset_normalizer how a text without a known character set is encoded: the
exporter reads bytes, and sets the encoding of every error (sdk_client.py). The SDK's `DockerClient`
has a model for each kind of object, tarfile is for the building of images, importlib.metadata for
the version of a library for HTTP/2, and zipfile for certificates in an archive.
"""

from __future__ import annotations

from exporter.lean_import import imported_on_use

with imported_on_use(
    "charset_normalizer", "docker.client", "importlib.metadata", "tarfile", "zipfile"
):
    from exporter.sources.containers.engine.sdk_client import open_client
    from exporter.sources.containers.engine.sdk_errors import translate_errors

__all__ = ["open_client", "translate_errors"]
