"""Imports libraries without the modules that the exporter does not use of them, or only rarely.

`lean_import`: modules that are never used. While the library is imported, placeholders have their
names. Afterwards neither the placeholders nor this copy of the library are in `sys.modules`:
another import of any of them in this process gets the whole library.

`imported_on_use`: modules that are imported when a function of them is called. A name that the
block imports from them is a function that calls the real one, not a class: `isinstance` cannot take
it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from types import ModuleType
from typing import Any


class _Unused:
    """Takes the place of the classes and functions in these modules; cannot be called."""

    def __init__(self, *_: object) -> None:
        raise RuntimeError("the exporter imports this library without the modules it does not use")


class _Placeholder(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package

    def __getattr__(self, name: str) -> type[_Unused]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused


@contextlib.contextmanager
def lean_import(package: str, unused: Iterable[str]) -> Iterator[None]:
    """Imports of the package in the block do without the unused modules.

    Those that are imported already stay; nothing changes if the package is imported already.
    """
    if package in sys.modules:
        yield
        return
    placeholders = {name: _Placeholder(name) for name in unused if name not in sys.modules}
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            if module is placeholders.get(name) or name.partition(".")[0] == package:
                del sys.modules[name]


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
def imported_on_use(*names: str) -> Iterator[None]:
    """Imports in the block import these modules only when something of them is used."""
    added = [
        name
        for name in names
        if name not in sys.modules and ("." in name or importlib.util.find_spec(name) is not None)
    ]
    sys.modules.update({name: _OnUse(name) for name in added})
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
