"""Walks over the syntax trees of Python sources, for the tests of the project's rules."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yields all statements, also those inside others, without a walk over their expressions."""
    pending: deque[ast.AST] = deque([tree])
    while pending:
        node = pending.popleft()
        if isinstance(node, ast.stmt):
            yield node
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):  # not the expression of a lambda or conditional
                pending += inner
