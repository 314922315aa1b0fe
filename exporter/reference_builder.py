"""The command `reference`: makes the reference of a model's predictions, and its recording rules.

From a running Prometheus, from a page with a histogram (or counters by category), or from a CSV
file. Prints the file for --predictions.reference, or with --rules the rules that record the model's
predictions under the names of prometheus/rules/drift.yml.
"""

from __future__ import annotations

import argparse
import base64
import csv
import http.client
import json
import math
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, NoReturn

import msgspec
import yaml

from exporter.errors import ExporterError
from exporter.settings import Duration
from exporter.sources.predictions.reference_file import MAX_REFERENCE_BOUNDS, ReferenceFile
from exporter.sources.predictions.settings import parse_reference
from exporter.upstream.grammar import parse_series, split_sample

WINDOWS = ("1h", "1d")
"""Windows of the rules, as in drift.yml."""
_MAX_BYTES = 64 << 20
_TIMEOUT = 60.0
_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
# Prometheus 3 stores 1 as 1.0, Prometheus 2 as the service writes it.
_CANONICAL = '"le", "$1.0", "le", "(-?[0-9]+)"'

SeriesValues = Iterable[tuple[Mapping[str, str], float]]
"""Labels and value of each series."""


class ReferenceFailed(ExporterError):
    """No reference can be made; `str()` is the one-line message for the operator."""


class _ReferenceParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with 2."""
        self.exit(2, f"inference-exporter reference: {message} (see reference --help)\n")


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns the exit code: 0, or 1 if no reference can be made."""
    parser = argument_parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    try:
        text = rules(options) if options.rules else _text(reference(options))
    except ReferenceFailed as error:
        sys.stderr.write(f"inference-exporter reference: {error}\n")
        return 1
    sys.stdout.write(text)
    return 0


def argument_parser() -> argparse.ArgumentParser:
    parser = _ReferenceParser(
        prog="inference-exporter reference",
        description="Prints the reference distribution of a model's predictions, for the file of "
        "--predictions.reference=MODEL=FILE; or with --rules the recording rules of the model.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="name of the model, as in --predictions.reference")
    parser.add_argument("--csv", metavar="FILE", help="CSV file with a header (-: standard input)")
    parser.add_argument("--column", help="its column with the predictions")
    parser.add_argument(
        "--buckets", help="bounds of the histogram: 0,0.5,1 or START:END:STEP, such as 0:10:0.5"
    )
    parser.add_argument("--page", metavar="URL", help="metrics page, or a file with one")
    parser.add_argument("--prometheus", metavar="URL", help="a Prometheus server")
    parser.add_argument("--range", default="7d", help="the time before now to take (default: 7d)")
    parser.add_argument("--metric", help="histogram of the predictions (without _bucket)")
    parser.add_argument(
        "--match", action="append", default=[], metavar="LABEL=VALUE", help="only these series"
    )
    parser.add_argument(
        "--by", metavar="LABEL", help="METRIC is a counter of predictions by this label"
    )
    parser.add_argument("--rules", action="store_true", help="print the recording rules of METRIC")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exits with 2 if the arguments do not fit together."""
    try:
        parse_reference(f"{options.model}=file")
        options.range = Duration.parse(options.range)
        options.bounds = parse_bounds(options.buckets) if options.buckets else ()
        options.matchers = dict(map(_matcher, options.match))
    except ValueError as error:
        parser.error(str(error))
    given = [name for name in ("csv", "page", "prometheus", "rules") if getattr(options, name)]
    if len(given) != 1:
        parser.error("exactly one of --csv, --page, --prometheus and --rules must be given")
    if options.csv:
        if not options.column:
            parser.error("--csv needs --column")
    elif not options.metric or not _METRIC_NAME.match(options.metric):
        parser.error(f"--{given[0]} needs --metric, the name of a metric")
    if options.by is not None and not _LABEL_NAME.match(options.by):
        parser.error(f"--by: {options.by!r:.80} is not the name of a label")


def _matcher(text: str) -> tuple[str, str]:
    label, equals, value = text.partition("=")
    if not equals or not _LABEL_NAME.match(label):
        raise ValueError(f"--match: {text!r:.80} is not LABEL=VALUE")
    return label, value


def parse_bounds(text: str) -> tuple[float, ...]:
    """Returns ascending bounds of `0,0.5,1` or `START:END:STEP`. Raises ValueError."""
    try:
        if ":" in text:
            start, end, step = map(float, text.split(":"))
            count = min(round((end - start) / step), MAX_REFERENCE_BOUNDS)
            bounds = tuple(round(start + step * number, 12) for number in range(count + 1))
        else:
            bounds = tuple(map(float, text.split(",")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"--buckets: {text!r:.80} is not 0,0.5,1 or START:END:STEP") from None
    if not 0 < len(bounds) <= MAX_REFERENCE_BOUNDS or not all(map(math.isfinite, bounds)):
        raise ValueError(f"--buckets: 1 to {MAX_REFERENCE_BOUNDS} finite bounds are possible")
    if list(bounds) != sorted(set(bounds)):
        raise ValueError("--buckets: the bounds must ascend")
    return bounds


def reference(options: argparse.Namespace) -> ReferenceFile:
    """Makes the reference. Raises ReferenceFailed."""
    if options.csv:
        made = _of_csv(options.csv, options.column, options.bounds)
    else:
        if options.page:
            series, where = _of_page(options), _without_password(options.page)
        else:
            series, where = _of_prometheus(options), _without_password(options.prometheus)
        origin = f"{options.metric} of {where}"
        if options.prometheus:
            origin += f", {options.range}"
        made = _of_labels(series, options, origin) if options.by else _of_buckets(series, origin)
    if fault := made.fault():
        raise ReferenceFailed(fault)
    return made


def _without_password(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url)


# -- CSV --


def _of_csv(file: str, column: str, bounds: tuple[float, ...]) -> ReferenceFile:
    """Numbers in the bounds; without bounds, each value is a category."""
    name = os.fsencode(Path(file).name).decode("utf-8", "replace")
    origin = f"column {column} of {name}"
    try:
        stream = sys.stdin if file == "-" else Path(file).open(newline="")  # noqa: SIM115 - closed below
        with stream:
            values = _column(stream, column)
            return _counted(values, bounds, origin) if bounds else _categories(values, origin)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ReferenceFailed(f"{file} cannot be read: {error}") from None


def _column(lines: Iterable[str], column: str) -> Iterator[str]:
    rows = csv.DictReader(lines)
    if column not in (rows.fieldnames or ()):
        raise ReferenceFailed(f"no column {column}; those are {', '.join(rows.fieldnames or ())}")
    return (row[column] or "" for row in rows)


def _counted(values: Iterable[str], bounds: tuple[float, ...], origin: str) -> ReferenceFile:
    counts = [0] * (len(bounds) + 1)
    total = 0.0
    for line, text in enumerate(values, start=2):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ReferenceFailed(f"row {line}: {text!r:.80} is not a number")
        # The bucket of the first bound that is not less than the value.
        counts[bisect_left(bounds, value)] += 1
        total += value
    cumulative = tuple(map(float, accumulate(counts)))
    return ReferenceFile(origin, bounds, cumulative[:-1], cumulative[-1], total)


def _categories(values: Iterable[str], origin: str) -> ReferenceFile:
    counts: dict[str, float] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
        if len(counts) > MAX_REFERENCE_BOUNDS:
            raise ReferenceFailed("too many different values; numbers need --buckets")
    return ReferenceFile(origin, labels=counts)


# -- a page, a Prometheus --


def _of_page(options: argparse.Namespace) -> SeriesValues:
    """Yields the series of the metric on a page. Raises ReferenceFailed."""
    name = options.metric if options.by else f"{options.metric}_bucket"
    if "://" in options.page:
        content = _get(options.page)
    else:
        try:
            with Path(options.page).open("rb") as file:
                content = _limited(file, options.page)
        except OSError as error:
            raise ReferenceFailed(f"{options.page} cannot be read: {error.strerror}") from None
    for line in content.split(b"\n"):
        if not line.startswith(name.encode()):
            continue
        text, value = split_sample(line)
        parsed = parse_series(text) if value else None
        if parsed is None or parsed[0] != name.encode():
            continue
        labels = {
            label.decode(): re.sub(r"\\(.)", _unescaped, value.decode(errors="replace"))
            for label, value in parsed[1]
        }
        if options.matchers.items() <= labels.items():
            yield labels, float(value)


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def selector(options: argparse.Namespace) -> str:
    """Returns the selector of the metric: its name, and the matchers in braces."""
    name = options.metric if options.by else f"{options.metric}_bucket"
    pairs = ",".join(
        f"{label}={json.dumps(value, ensure_ascii=False)}"
        for label, value in options.matchers.items()
    )
    return f"{name}{{{pairs}}}" if pairs else name


def _of_prometheus(options: argparse.Namespace) -> SeriesValues:
    """Yields the increase of the metric in the range, summed over the replicas."""
    query = f"sum by ({options.by or 'le'}) (increase({selector(options)}[{options.range}]))"
    url = f"{options.prometheus.rstrip('/')}/api/v1/query?" + urllib.parse.urlencode(
        {"query": query}
    )
    try:
        result = msgspec.json.decode(_get(url))["data"]["result"]
        return [(dict(series["metric"]), float(series["value"][1])) for series in result]
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
        where = _without_password(options.prometheus)
        raise ReferenceFailed(f"{where} did not return a query's result") from None


def _get(url: str) -> bytes:
    """Requests a URL. Raises ReferenceFailed."""
    where = _without_password(url)
    if not url.startswith(("http://", "https://")):
        raise ReferenceFailed(f"{where} is not an http or https URL")
    try:
        with urllib.request.urlopen(_request(url), timeout=_TIMEOUT) as response:  # noqa: S310 - http, see above
            return _limited(response, where)
    except urllib.error.HTTPError as error:
        error.close()
        raise ReferenceFailed(f"{where}: HTTP status {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ReferenceFailed(f"{where}: {_one_line(reason)}") from None


def _request(url: str) -> urllib.request.Request:
    """Returns a request with the user and password of the URL, which urllib itself sends nowhere.

    Raises ValueError.
    """
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())  # noqa: S310 - http
    if at:
        token = base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _limited(file: IO[bytes], where: str) -> bytes:
    """Reads a page. Raises ReferenceFailed if it is too large, OSError."""
    content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ReferenceFailed(f"{where} is larger than {_MAX_BYTES} bytes")
    return content


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())[:200]


def _of_buckets(series: SeriesValues, origin: str) -> ReferenceFile:
    """Adds up the buckets of all series by bound. Raises ReferenceFailed."""
    totals: dict[float, float] = defaultdict(float)
    contributors: dict[float, int] = defaultdict(int)
    for labels, value in series:
        try:
            bound = float(labels["le"])
        except (LookupError, ValueError):
            continue
        totals[bound] += value
        contributors[bound] += 1
    if math.inf not in totals or len(totals) < 2:
        raise ReferenceFailed(f"{origin}: no histogram with these labels was found")
    if len(set(contributors.values())) > 1:
        raise ReferenceFailed(f"{origin}: its series have different bounds; select some by --match")
    bounds = tuple(sorted(totals))[:-1]
    # An increase is extrapolated bucket by bucket: at a counter's start not by the same factor.
    cumulative = tuple(accumulate((totals[bound] for bound in (*bounds, math.inf)), max))
    return ReferenceFile(origin, bounds, cumulative[:-1], cumulative[-1])


def _of_labels(series: SeriesValues, options: argparse.Namespace, origin: str) -> ReferenceFile:
    counts: dict[str, float] = defaultdict(float)
    for labels, value in series:
        if labels.get(options.by):
            counts[labels[options.by]] += value
    if not counts:
        raise ReferenceFailed(f"{origin}: no series with the label {options.by} was found")
    return ReferenceFile(origin, labels=dict(counts))


def _text(made: ReferenceFile) -> str:
    return msgspec.json.format(msgspec.json.encode(made), indent=0).decode() + "\n"


# -- rules --


def rules(options: argparse.Namespace) -> str:
    """Returns the file of recording rules that drift.yml needs for this model, in YAML."""
    selected = selector(options)
    group: list[dict[str, Any]] = []
    for window in WINDOWS:
        increase = f"increase({selected}[{window}])"
        if options.by:
            record = "model:predictions_by_label:increase"
            expr = (
                f'sum by (label) (label_replace({increase}, "label", "$1", "{options.by}", "(.*)"))'
            )
        else:
            record = "model:predictions_bucket:increase"
            expr = f"sum by (le) (label_replace({increase}, {_CANONICAL}))"
        group.append(
            {"record": record, "expr": expr, "labels": {"model": options.model, "window": window}}
        )
    document = {"groups": [{"name": f"inference-predictions-{options.model}", "rules": group}]}
    head = "# Written by `inference-exporter reference --rules`; input of drift.yml.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=1000, allow_unicode=True)
