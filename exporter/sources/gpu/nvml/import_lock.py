"""Extension modules are not imported while the driver's library is loaded.

The dynamic loader has one lock. Python imports an extension module with the GIL held: while a
library hangs in its constructor, which the loader calls with its lock held, such an import would
stop every thread. With this lock, only the importing thread waits, without the GIL.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from types import ModuleType

# Reentrant: an extension module may import another while it is created.
_lock = threading.RLock()


class _Loader(ExtensionFileLoader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        with _lock:
            return super().create_module(spec)


class _Finder(MetaPathFinder):
    """As PathFinder, before which it is installed, but extension modules get _Loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is ExtensionFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


@contextlib.contextmanager
def import_lock() -> Iterator[None]:
    """Lets no extension module be imported until the block ends."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(_index_of_path_finder(), _Finder())
    with _lock:
        yield


def _index_of_path_finder() -> int:
    finders = sys.meta_path
    return finders.index(PathFinder) if PathFinder in finders else len(finders)
