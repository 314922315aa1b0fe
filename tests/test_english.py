"""The English of code and documentation: words that are not used, and the start of docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT
from tests.source_code import statements

# Each has a plainer or more precise word: report, release, again, fix, no client, … A phrase may
# continue in the next line of a comment.
UNUSED_WORDS = re.compile(
    r"\b(told|tells|anew|mend(s|ed|ing)?|(lets?|letting)[\s#*]+go|nobody|somebody|whoever)\b",
    re.IGNORECASE,
)
# A docstring starts with a noun, or with a verb such as Returns, Reads, Raises.
QUESTION_WORD = re.compile(r"\s*(What|Who|Whose|How)\b")
# Without such a string, a source need not be parsed.
QUESTION_STRING = re.compile(r"""["'](\\.|\s)*(What|Who|Whose|How)\b""", re.DOTALL)
PATTERNS = ("*.py", "*.md", "*.sh", "*.c", "*.yml", "*.yaml", "*Makefile")
# A row of the table in CONTRIBUTING.md that shows how a sentence was rewritten.
EXAMPLE = re.compile(r'(?m)^\| "[^\n]*')
THIS_FILE = Path(__file__).relative_to(ROOT)


def repository_files() -> Iterator[tuple[Path, str]]:
    """Yields (path, content) of the files that match PATTERNS, except this one and examples."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *PATTERNS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in sorted({*listed.stdout.split("\0")} - {"", str(THIS_FILE)}):
        if (ROOT / name).is_file():
            text = (ROOT / name).read_text()
            yield Path(name), EXAMPLE.sub("", text) if name == "CONTRIBUTING.md" else text


def unused_words(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line number, word)."""
    for match in UNUSED_WORDS.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split())


def question_docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line number, first line) of docstrings that start with a question word.

    Strings below an attribute or constant are docstrings, too.
    """
    if not QUESTION_STRING.search(source):
        return
    for node in statements(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            and QUESTION_WORD.match(node.value.value)
        ):
            yield node.lineno, node.value.value.strip().splitlines()[0]


def test_the_checks_report_lines() -> None:
    text = "It is told.\n# It lets\n# go, and nobody commends it."
    assert [*unused_words(text)] == [(1, "told"), (2, "lets # go"), (3, "nobody")]
    source = '"""How it works."""\nX = 1\n"""Whatever."""\nclass A:\n    """Who it is."""\n'
    assert [*question_docstrings(source)] == [(1, "How it works."), (5, "Who it is.")]


def test_unused_words() -> None:
    found = [
        f"{path}:{line}: {word}"
        for path, text in repository_files()
        for line, word in unused_words(text)
    ]
    assert not found, "\n" + "\n".join(found)


def test_docstrings_start_with_a_noun_or_a_verb() -> None:
    found = [
        f"{path}:{line}: {start}"
        for path, text in repository_files()
        if path.suffix == ".py"
        for line, start in question_docstrings(text)
    ]
    assert not found, "\n" + "\n".join(found)
