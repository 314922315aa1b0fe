"""Parses which metrics and labels a PromQL expression uses, and no more of the grammar."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>0x[0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:ms|[smhdwy])?(?:\d+(?:ms|[smhdwy]))*)
    |(?P<variable>\$\w+|\$\{\w+\})
    |(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^(){}\[\],=<>@:$])""",
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_KEYWORDS = {"and", "or", "unless", "bool", "offset", "start", "end", "inf", "nan", "atan2"}
_LABEL_FUNCTIONS = {"label_replace", "label_join", "count_values"}
"""Functions and aggregations that create a label named by a string argument."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """A label matcher of a selector."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Selector:
    """A vector selector. function: the function applied to it directly, or empty.

    window: the text between square brackets, None for an instant vector.
    """

    metric: str
    matchers: tuple[Matcher, ...]
    window: str | None
    function: str
    text: str

    def has_matcher(self, label: str) -> bool:
        return any(matcher.label == label for matcher in self.matchers)


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. labels: those it groups or joins by. created_labels: those it adds."""

    selectors: tuple[Selector, ...]
    labels: frozenset[str]
    created_labels: frozenset[str]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metric names without repetition, in order of appearance."""
        return tuple(dict.fromkeys(selector.metric for selector in self.selectors))


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.end() == position:
            raise ValueError(f"not PromQL at {text[position : position + 20]!r} in {text!r}")
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match[0], position, match.end())
        position = match.end()


def parse_promql(text: str) -> Expression:
    """Parses an expression. Raises ValueError for text that is not PromQL."""
    parser = _Parser(text, [*_tokens(text), _Token("end", "", len(text), len(text))])
    while parser.token.kind != "end":
        parser.parse_token()
    return Expression(
        tuple(parser.selectors), frozenset(parser.labels), frozenset(parser.created_labels)
    )


@dataclass(slots=True)
class _Parser:
    """Walks over the tokens. calls: the functions with an open bracket at this position."""

    text: str
    tokens: list[_Token]
    position: int = 0
    selectors: list[Selector] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    created_labels: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    @property
    def token(self) -> _Token:
        return self.tokens[self.position]

    @property
    def next_text(self) -> str:
        return self.tokens[self.position + 1].text

    def parse_token(self) -> None:
        """Parses the token at the position, with the rest of its selector or label list."""
        token = self.token
        if token.kind == "name":
            self._name(token.text)
            return
        if token.kind == "text" and self.calls and self.calls[-1] in _LABEL_FUNCTIONS:
            self.created_labels.add(token.text[1:-1])
        elif token.text == "(":
            self.calls.append("")
        elif token.text == ")" and self.calls:
            self.calls.pop()
        self.position += 1

    def _name(self, name: str) -> None:
        if name in _GROUPING:
            self.position += 1
            if self.token.text == "(":
                self._label_list()
        elif name.lower() in _KEYWORDS:
            self.position += 1
        elif self.next_text == "(":
            self.calls.append(name)
            self.position += 2
        elif self.next_text in _GROUPING:  # sum by (…) (…): the argument's bracket follows
            self.position += 2
            self._label_list()
            self.calls.append(name)
            self.position += 1
        else:
            self._selector()

    def _label_list(self) -> None:
        close = self._find(self.position, ")")
        self.labels |= {
            token.text for token in self.tokens[self.position : close] if token.kind == "name"
        }
        self.position = close + 1

    def _find(self, start: int, text: str) -> int:
        index = start
        while self.tokens[index].text != text:
            if self.tokens[index].kind == "end":
                raise ValueError(f"{text} is missing in {self.text!r}")
            index += 1
        return index

    def _selector(self) -> None:
        first, end = self.token, self.position + 1
        matchers: list[Matcher] = []
        if self.tokens[end].text == "{":
            close = self._find(end, "}")
            parts = [token.text for token in self.tokens[end + 1 : close] if token.text != ","]
            for label, operator, value in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
                matchers.append(Matcher(label, operator, value[1:-1]))
            end = close + 1
        text = self.text[first.start : self.tokens[end - 1].end]
        window = None
        if self.tokens[end].text == "[":
            close = self._find(end, "]")
            window = self.text[self.tokens[end].end : self.tokens[close].start].strip()
            end = close + 1
        function = self.calls[-1] if self.calls else ""
        self.selectors.append(Selector(first.text, tuple(matchers), window, function, text))
        self.position = end
