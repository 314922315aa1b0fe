"""Imports libraries without the modules that the exporter does not use of them, or only rarely.

`lean_import`: modules that are never used. While the library is imported, placeholders have their
names. Afterwards neither the placeholders nor this copy of the library are in `sys.modules`:
another import of any of them in this process gets the whole library.

`imported_on_use`: modules that are imported when a function of them is called. A name that the
block imports from them is a function that calls the real one, not a class: `isinstance` cannot take
it. A class of the standard library is imported at once, as `except` takes classes alone.

`without_default_certificates`: libraries that create TLS contexts when they are imported.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

# OpenSSL reads it whenever a context gets the default certificates.
_CERTIFICATES = "SSL_CERT_FILE"


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
    """Takes the place of a module, which is imported when something of it is used.

    package: where it is found, if it is one.
    """

    def __init__(self, name: str, package: ModuleSpec | None) -> None:
        super().__init__(name)
        self._package = package

    def __getattr__(self, name: str) -> Any:
        module = self.__name__
        if name == "__version__":  # requests checks it
            return _version(module, self._package)
        if name.startswith("__"):
            raise AttributeError(name)
        importing = sys.modules.get(module) is self  # `from module import name`
        is_class = name[:1].isupper() and module.partition(".")[0] in sys.stdlib_module_names
        if importing and not is_class:
            return partial(_call, module, name)
        return _imported(module, name)


def _version(name: str, package: ModuleSpec | None) -> str:
    """Returns the version of an installed package, by the name of its folder `.dist-info`."""
    for folder in (package and package.submodule_search_locations) or ():
        for information in Path(folder).parent.glob(f"{name}-*.dist-info"):
            return information.stem.rpartition("-")[2]
    # 1.3 MB, for other ways of an installation.
    return str(_imported("importlib.metadata", "version")(name))


def _imported(module: str, name: str) -> Any:
    if isinstance(sys.modules.get(module), _OnUse):
        del sys.modules[module]  # used in the block
    return getattr(importlib.import_module(module), name)


def _call(module: str, name: str, *arguments: Any, **options: Any) -> Any:
    return _imported(module, name)(*arguments, **options)


@contextlib.contextmanager
def imported_on_use(*names: str) -> Iterator[None]:
    """Imports in the block import these modules only when something of them is used."""
    added: dict[str, _OnUse] = {}
    for name in names:
        if name in sys.modules:
            continue
        package = None if "." in name else importlib.util.find_spec(name)
        if "." in name or package is not None:
            added[name] = _OnUse(name, package)
    sys.modules.update(added)
    try:
        yield
    finally:
        for name, module in added.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


@contextlib.contextmanager
def without_default_certificates() -> Iterator[None]:
    """TLS contexts that are created in the block do not have the system's certificates.

    aiohttp creates two when it is imported, each with all of them: 2 MB. The exporter uses neither:
    its clients have contexts of their own (`http_client/credentials.py`). For the main thread,
    before there are others.
    """
    before = os.environ.get(_CERTIFICATES)
    os.environ[_CERTIFICATES] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CERTIFICATES]
        else:
            os.environ[_CERTIFICATES] = before
