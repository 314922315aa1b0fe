"""Imports a library without the modules that the exporter does not use of it.

While the library is imported, placeholders have their names. Afterwards neither the placeholders
nor this copy of the library are in `sys.modules`: another import of any of them in this process
gets the whole library.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType


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
