"""Which metrics and labels an expression uses: enough of PromQL's grammar to tell, no more."""

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


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition of a selector."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric with its conditions. function: what is called on it directly, if anything is.

    window: the text between square brackets, None for an instant vector.
    """

    metric: str
    matchers: tuple[Matcher, ...]
    window: str | None
    function: str
    text: str

    def matches(self, label: str) -> bool:
        return any(matcher.label == label for matcher in self.matchers)


@dataclass(frozen=True, slots=True)
class Expression:
    """What an expression uses. labels: those it groups or joins by; made: those it makes."""

    selectors: tuple[Selector, ...]
    labels: frozenset[str]
    made: frozenset[str]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, each once, in their order."""
        return tuple(dict.fromkeys(selector.metric for selector in self.selectors))


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.end() == at:
            raise ValueError(f"not PromQL at {text[at : at + 20]!r} in {text!r}")
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match[0], at, match.end())
        at = match.end()


def parse_promql(text: str) -> Expression:
    """Read an expression. Raises ValueError for what cannot be part of one."""
    reader = _Parser(text, [*_tokens(text), _Token("end", "", len(text), len(text))])
    while reader.token.kind != "end":
        reader.step()
    return Expression(tuple(reader.selectors), frozenset(reader.labels), frozenset(reader.made))


@dataclass(slots=True)
class _Parser:
    """Walks over the tokens. calls: the functions whose brackets are open here."""

    text: str
    tokens: list[_Token]
    at: int = 0
    selectors: list[Selector] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    @property
    def after(self) -> str:
        return self.tokens[self.at + 1].text

    def step(self) -> None:
        """Read what begins here."""
        token = self.token
        if token.kind == "name":
            self._name(token.text)
            return
        if token.kind == "text" and self.calls and self.calls[-1] in _LABEL_FUNCTIONS:
            self.made.add(token.text[1:-1])
        elif token.text == "(":
            self.calls.append("")
        elif token.text == ")" and self.calls:
            self.calls.pop()
        self.at += 1

    def _name(self, name: str) -> None:
        if name in _GROUPING:
            self.at += 1
            if self.token.text == "(":
                self._names()
        elif name.lower() in _KEYWORDS:
            self.at += 1
        elif self.after == "(":
            self.calls.append(name)
            self.at += 2
        elif self.after in _GROUPING:  # sum by (…) (…): its bracket follows
            self.at += 2
            self._names()
            self.calls.append(name)
            self.at += 1
        else:
            self._selector()

    def _names(self) -> None:
        close = self._find(self.at, ")")
        self.labels |= {each.text for each in self.tokens[self.at : close] if each.kind == "name"}
        self.at = close + 1

    def _find(self, at: int, text: str) -> int:
        while self.tokens[at].text != text:
            if self.tokens[at].kind == "end":
                raise ValueError(f"{text} is missing in {self.text!r}")
            at += 1
        return at

    def _selector(self) -> None:
        first, end = self.token, self.at + 1
        matchers: list[Matcher] = []
        if self.tokens[end].text == "{":
            close = self._find(end, "}")
            inside = [each.text for each in self.tokens[end + 1 : close] if each.text != ","]
            for label, operator, value in zip(inside[::3], inside[1::3], inside[2::3], strict=True):
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
        self.at = end
