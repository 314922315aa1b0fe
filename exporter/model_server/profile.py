r"""Profiles: how an engine's page maps to the vocabulary. Parsed from the form of the settings.

An expression names the families that a value comes from:

    FAMILY
    FAMILY{label="a|b", label!="c"} / 1000
    FAMILY + FAMILY since 0.9.2 until 0.11

A label is matched with a regular expression as a whole. Of a list of expressions the first whose
families are all on the page counts: during an upgrade a page may have the old and the new name, and
they are never added up. `without sum`: the sum of a histogram is wrong and is left out. Versions
are for the documentation: the page decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from exporter.patterns import Pattern

GAUGES = ("requests_running", "requests_waiting", "kv_cache_usage_ratio")
COUNTERS = (
    "prompt_tokens_total",
    "cached_prompt_tokens_total",
    "generated_tokens_total",
    "preemptions_total",
)
HISTOGRAMS = (
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "inter_token_latency_seconds",
    "request_duration_seconds",
    "queue_duration_seconds",
    "prefill_duration_seconds",
    "decode_duration_seconds",
    "request_prompt_tokens",
    "request_generated_tokens",
)
OUTCOMES = ("ok", "error", "rejected", "aborted", "cancelled")
REQUEST_STAGES = ("request", "queue", "prefill", "decode")
OUTCOME_KEYS = {f"requests_total{{outcome={outcome}}}": outcome for outcome in OUTCOMES}
STAGE_KEYS = {f"stage_duration_seconds_total{{stage={stage}}}": stage for stage in REQUEST_STAGES}
KEYS = (*GAUGES, *COUNTERS, *OUTCOME_KEYS, *STAGE_KEYS, *HISTOGRAMS)
"""The keys of `metrics` in a profile: names without `model_server_`."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
_FAMILY = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,254}\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_TERM = re.compile(
    r"(?P<family>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\})?"
    r"(?: / (?P<divisor>[1-9][0-9]{0,11}))?"
)
_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(!?=)~?\s*"([^"]*)"\s*(?:,|\Z)')
_OPTIONS = re.compile(
    r"(?P<without_sum> without sum)?(?: since (?P<since>[A-Za-z0-9][\w.]*))?"
    r"(?: until (?P<until>[A-Za-z0-9][\w.]*))?\Z"
)
_MAX_EXPRESSIONS = 10
_MAX_TERMS = 4
_MAX_PROFILES = 50


@dataclass(frozen=True, slots=True)
class Matcher:
    """Matches a label's value as a whole; an absent label has an empty value."""

    label: str
    pattern: str
    negated: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.label, "")
        return _pattern(self.pattern).fullmatch(value) is not self.negated


@cache
def _pattern(text: str) -> Pattern:
    """Compiles an expression when it is first used: importing RE2 costs 3 MB."""
    return Pattern(text)


@dataclass(frozen=True, slots=True)
class Term:
    """The sum over the series of a family that all matchers match, divided by `divisor`."""

    family: str
    matchers: tuple[Matcher, ...] = ()
    divisor: int = 1
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """The value of one metric. text: as written, without the versions; those are empty for any."""

    text: str
    terms: tuple[Term, ...]
    with_sum: bool = True
    since: str = ""
    until: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a JSON document: the path of the request, and the names down to the member."""

    path: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """One engine.

    detect: families of which one identifies the page. model: labels of which the first that a
    series has is the model's name. repeated: labels of ranks that repeat the same values: of series
    that differ in these only, one counts. path, port: of the metrics page; port 0: that of the API.
    images: parts of the image's repository in a container. identity: values of the members
    `owned_by` of /v1/models and `name` of /v2. health: path that returns 200 while the server is
    ready. awake: an expression that is 1 while it is. progress: one that changes with every step of
    the engine, also within a request. model_name, version, context: members of documents of the
    API. notes: what the engine does not report, for the documentation.
    """

    name: str
    title: str
    detect: tuple[str, ...]
    metrics: Mapping[str, tuple[Expression, ...]]
    model: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    path: str = "/metrics"
    port: int = 0
    api_port: int = 0
    images: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    health: str = ""
    awake: Expression | None = None
    progress: Expression | None = None
    model_name: Member | None = None
    version: Member | None = None
    context: Member | None = None
    notes: str = ""


def parse_profiles(profiles: Mapping[str, Any]) -> tuple[Profile, ...]:
    """Parses profiles by engine. Raises ValueError ("ENGINE.FIELD: reason")."""
    if len(profiles) > _MAX_PROFILES:
        raise ValueError(f"more than {_MAX_PROFILES} profiles")
    return tuple(parse_profile(str(name), form) for name, form in profiles.items())


def parse_profile(name: str, form: object) -> Profile:
    """Parses one profile. Raises ValueError ("ENGINE.FIELD: reason")."""
    if not _NAME.match(name):
        raise ValueError(f"{name:.40}: an engine's name consists of a-z, 0-9, '_' and '-'")
    if not isinstance(form, dict):
        raise ValueError(f"{name}: must be a mapping with detect and metrics")  # noqa: TRY004 - of a file
    try:
        return _profile(name, form)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None


def _profile(name: str, form: Mapping[Any, Any]) -> Profile:
    for field in form:
        if field not in _FIELDS:
            raise ValueError(f"{field!s:.40}: unknown; known are {', '.join(_FIELDS)}")
    values: dict[str, Any] = {"title": name}
    for field, parse in _PARSERS.items():
        if field in form:
            values[field] = parse(field, form[field])
    if not values.get("detect"):
        raise ValueError("detect: must name a family that identifies the engine's page")
    return Profile(name=name, metrics=_metrics(form.get("metrics")), **values)


def _metrics(form: object) -> dict[str, tuple[Expression, ...]]:
    if not isinstance(form, dict) or not form:
        raise ValueError("metrics: must be a mapping of metrics to expressions")
    metrics: dict[str, tuple[Expression, ...]] = {}
    for key, value in form.items():
        if key not in KEYS:
            raise ValueError(f"metrics.{key!s:.60}: unknown; known are {', '.join(KEYS)}")
        texts = _texts(f"metrics.{key}", value)
        if not texts or len(texts) > _MAX_EXPRESSIONS:
            raise ValueError(f"metrics.{key}: must have 1 to {_MAX_EXPRESSIONS} expressions")
        metrics[key] = tuple(_checked(f"metrics.{key}", text) for text in texts)
        if key in HISTOGRAMS and any(len(entry.terms) > 1 for entry in metrics[key]):
            raise ValueError(f"metrics.{key}: a histogram is a single family")
    return metrics


def _checked(field: str, text: str) -> Expression:
    try:
        return parse_expression(text)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def parse_expression(text: str) -> Expression:
    """Parses an expression. Raises ValueError."""
    terms: list[Term] = []
    position, negative = 0, False
    while True:
        match = _TERM.match(text, position)
        if match is None or len(terms) == _MAX_TERMS:
            raise ValueError(f"{text!r:.100} is not an expression such as my_requests_total")
        terms.append(
            Term(
                match["family"],
                _matchers(match["labels"] or ""),
                int(match["divisor"] or 1),
                negative,
            )
        )
        position = match.end()
        operator = text[position : position + 3]
        if operator not in (" + ", " - "):
            break
        negative = operator == " - "
        position += 3
    options = _OPTIONS.match(text, position)
    if options is None:
        raise ValueError(f"{text!r:.100} is not an expression such as my_requests_total")
    return Expression(
        text[:position],
        tuple(terms),
        not options["without_sum"],
        options["since"] or "",
        options["until"] or "",
    )


def _matchers(text: str) -> tuple[Matcher, ...]:
    matchers: list[Matcher] = []
    position = 0
    while position < len(text):
        match = _MATCHER.match(text, position)
        if match is None:
            raise ValueError(f'{text!r:.100}: write labels as name="regex", name!="regex"')
        matchers.append(Matcher(match[1], match[3], match[2] == "!="))
        position = match.end()
    return tuple(matchers)


def _member(field: str, value: object) -> Member:
    """Parses `PATH NAME.NAME`."""
    path, _, names = _text(field, value).partition(" ")
    if not path.startswith("/") or not names:
        raise ValueError(f"{field}: must be a path and a member, such as /version version")
    return Member(path, tuple(names.split(".")))


def _port(field: str, value: object) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError(f"{field}: is not a port from 1 to 65535")
    return int(text)


def _path(field: str, value: object) -> str:
    path = _text(field, value)
    if not path.startswith("/"):
        raise ValueError(f"{field}: must start with a slash")
    return path


def _expression(field: str, value: object) -> Expression:
    return _checked(field, _text(field, value))


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field}: must be a single text")  # noqa: TRY004 - of a file
    return value


def _texts(field: str, value: object) -> list[str]:
    """Returns a list of texts; one text stands for a list of it."""
    return [_text(field, item) for item in (value if isinstance(value, list) else [value])]


def _words(field: str, value: object) -> tuple[str, ...]:
    """Parses words, separated by blanks or as a list."""
    return tuple(word for text in _texts(field, value) for word in text.split())


def _labels(field: str, value: object) -> tuple[str, ...]:
    return _names(field, value, _LABEL)


def _families(field: str, value: object) -> tuple[str, ...]:
    return _names(field, value, _FAMILY)


def _names(field: str, value: object, pattern: re.Pattern[str]) -> tuple[str, ...]:
    words = _words(field, value)
    for word in words:
        if not pattern.match(word):
            raise ValueError(f"{field}: {word!r:.60} is not a name")
    return words


_PARSERS: dict[str, Callable[[str, object], Any]] = {
    "title": _text,
    "detect": _families,
    "model": _labels,
    "repeated": _labels,
    "path": _path,
    "port": _port,
    "api_port": _port,
    "images": _words,
    "identity": _words,
    "health": _path,
    "awake": _expression,
    "progress": _expression,
    "model_name": _member,
    "version": _member,
    "context": _member,
    "notes": _text,
}
_FIELDS = (*_PARSERS, "metrics")


def parse_own_profiles(profiles: Mapping[str, Any]) -> tuple[Profile, ...]:
    """Parses the profiles of the settings, with their regular expressions. Raises ValueError."""
    parsed = parse_profiles(profiles)
    for profile in parsed:
        for key, expressions in profile.metrics.items():
            for term in (term for expression in expressions for term in expression.terms):
                for matcher in term.matchers:
                    try:
                        _pattern(matcher.pattern)
                    except ValueError as error:
                        raise ValueError(f"{profile.name}.metrics.{key}: {error}") from None
    return parsed
