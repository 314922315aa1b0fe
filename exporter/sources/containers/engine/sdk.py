"""Docker's SDK, imported without the modules that it needs for what the exporter does not do: 4 MB.

requests guesses with charset_normalizer how a text without a known character set is encoded: the
exporter reads bytes, and sets the encoding of every error (sdk_client.py). The SDK's `DockerClient`
has a model for each kind of object, and tarfile is for the building of images.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

_ON_USE = ("charset_normalizer", "docker.client", "tarfile")


class _OnUse(ModuleType):
    """Takes the place of a module, which is imported when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        module = self.__name__
        if name == "__version__":  # requests checks it
            return importlib.metadata.version(module)
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(module) is self:  # `from module import name`
            return partial(_call, module, name)
        return _imported(module, name)


def _imported(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _call(module: str, name: str, *arguments: Any, **options: Any) -> Any:
    return _imported(module, name)(*arguments, **options)


@contextlib.contextmanager
def _imported_on_use() -> Iterator[None]:
    """Imports in the block import the modules of _ON_USE only when these are used."""
    added = [
        name
        for name in _ON_USE
        if name not in sys.modules and ("." in name or importlib.util.find_spec(name) is not None)
    ]
    sys.modules.update({name: _OnUse(name) for name in added})
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


with _imported_on_use():
    from exporter.sources.containers.engine.sdk_client import open_client
    from exporter.sources.containers.engine.sdk_errors import translate_errors

__all__ = ["open_client", "translate_errors"]
