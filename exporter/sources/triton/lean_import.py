"""Imports tritonclient without the libraries that only its inference requests use.

tritonclient.http imports numpy, ml_dtypes and gevent, 20 MB, for tensors and for its blocking
client. The exporter makes no inference request: while tritonclient is imported, these names are
placeholders.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

UNUSED = (
    "gevent",
    "gevent.pool",
    "geventhttpclient",
    "geventhttpclient.url",
    "ml_dtypes",
    "numpy",
)


class _Unused:
    """Takes the place of the classes in these libraries; cannot be created."""

    def __init__(self, *_: object) -> None:
        raise RuntimeError("the exporter imports tritonclient without numpy and gevent")


class _Placeholder(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package

    def __getattr__(self, name: str) -> type[_Unused]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused


@contextlib.contextmanager
def lean_tritonclient() -> Iterator[None]:
    """Imports of tritonclient in the block do without UNUSED, unless these are imported already.

    Afterwards neither the placeholders nor this copy of tritonclient are in `sys.modules`: another
    import of any of them in this process gets the whole library.
    """
    if "tritonclient" in sys.modules:
        yield
        return
    placeholders = {name: _Placeholder(name) for name in UNUSED if name not in sys.modules}
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            if module is placeholders.get(name) or name.partition(".")[0] == "tritonclient":
                del sys.modules[name]
