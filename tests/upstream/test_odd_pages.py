"""Pages of other people's servers: what is exported, and what is no page of metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import prometheus_client
import pytest
from prometheus_client.openmetrics import exposition as openmetrics

from exporter.context import Context
from exporter.errors import BadData
from exporter.exposition.families import Format
from exporter.exposition.upstream_families import render_families
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.triton.reading import ServerAddressRow
from exporter.upstream.reading import QueueRow
from exporter.upstream.settings import Settings
from exporter.upstream.source import UpstreamSource, build
from exporter.upstream.text_parser import PageLimits, TextParser
from tests.fakes.triton import FakeTriton, http_response
from tests.upstream.test_fetching import source


def read(page: bytes | str, content_type: str = "", **settings: Any) -> Reading:
    """Returns the reading of a page by the upstream `u`."""

    async def scenario() -> Reading:
        header = f"Content-Type: {content_type}\r\n" if content_type else ""
        async with (
            FakeTriton() as fake,
            source(url=(f"u={fake.url}",), **settings) as upstream,
        ):
            fake.responses["/metrics"] = http_response(page, headers=header)
            (target,) = await upstream.discover()
            return await target.read()

    return asyncio.run(scenario())


def rendered(reading: Reading, format: Format = Format.TEXT) -> str:
    return render_families(reading.families, format).decode().replace('upstream="u"', "U")


RIGHT = {
    "timestamp-with-exponent": (
        "# TYPE queue_length gauge\nqueue_length 7 1.697141781462e+09\n# EOF\n",
        "# TYPE queue_length gauge\nqueue_length{U} 7\n",
    ),
    "unknown-escapes": (
        'security_account{user="domain\\user"} 1\ndisk_free_bytes{path="D:\\work\\test\\."} 5\n',
        (
            '# TYPE security_account untyped\nsecurity_account{U,user="domain\\\\user"} 1\n'
            '# TYPE disk_free_bytes untyped\ndisk_free_bytes{path="D:\\\\work\\\\test\\\\.",U} 5\n'
        ),
    ),
    "created-is-a-name": (
        (
            "# TYPE my_thing_created counter\nmy_thing_created 300\n"
            '# TYPE kube_pod_created gauge\nkube_pod_created{pod="a"} 1.5e+09\n'
        ),
        (
            "# TYPE my_thing_created counter\nmy_thing_created{U} 300\n"
            '# TYPE kube_pod_created gauge\nkube_pod_created{pod="a",U} 1.5e+09\n'
        ),
    ),
    "conflict-that-was-none": (
        "# TYPE requests gauge\nrequests 4\n# TYPE requests counter\nrequests_total 3\n",
        "# TYPE requests counter\nrequests{U} 4\nrequests_total{U} 3\n",
    ),
    "line-feed-in-a-value": (
        'query_seconds{sql="select 1\n  from t",db="a"} 2\nnext 3\n',
        (
            '# TYPE query_seconds untyped\nquery_seconds{db="a",sql="select 1\\n  from t",U} 2\n'
            "# TYPE next untyped\nnext{U} 3\n"
        ),
    ),
    "other-bytes-in-a-value": (
        'a{x="\r\0\x7f"} 1\n',
        '# TYPE a untyped\na{U,x="\r\0\x7f"} 1\n',
    ),
    "type-after-its-samples": (
        (
            'h_bucket{le="+Inf"} 1\nh_sum 2\nh_count 1\nc_total 5\n'
            "# HELP h A.\n# TYPE h histogram\n# TYPE c counter\n"
        ),
        (
            '# HELP h A.\n# TYPE h histogram\nh_bucket{le="+Inf",U} 1\nh_sum{U} 2\nh_count{U} 1\n'
            "# TYPE c_total counter\nc_total{U} 5\n"
        ),
    ),
    "blanks-and-tabs": (
        '# \tTYPE  a\tgauge\n  # HELP a  b\na \t{ x = "1" , } \t2\t5 \n   \nb{x="1" y="2"}3\n',
        '# HELP a  b\n# TYPE a gauge\na{U,x="1"} 2\n# TYPE b untyped\nb{U,x="1",y="2"} 3\n',
    ),
    "names-in-quotes": (
        (
            '# TYPE "http.requests" counter\n{"http.requests","status.code"="200"} 4\n'
            '{"plain",x="1"} 5\n{x="1","0:é"} 6\n'
        ),
        (
            '# TYPE http_requests counter\nhttp_requests{status_code="200",U} 4\n'
            '# TYPE plain untyped\nplain{U,x="1"} 5\n# TYPE _:_ untyped\n_:_{U,x="1"} 6\n'
        ),
    ),
    "names-that-become-equal": (
        'a{"x.y"="1",x_y="2","x-y" ="3"} 2\n',
        '# TYPE a untyped\na{U,x_y="2",x_y_="1",x_y__="3"} 2\n',
    ),
    "empty-label-values": (
        'a{x=""} 1\na{x="1",y=""} 2\nb{x="",x="1"} 3\n',
        '# TYPE a untyped\na{U} 1\na{U,x="1"} 2\n# TYPE b untyped\nb{U} 3\n',
    ),
    "carriage-returns": (
        '# TYPE a gauge\r\na{x="1"} 1.5 1395066363000\r\n\r\n# EOF\r\n',
        '# TYPE a gauge\na{U,x="1"} 1.5\n',
    ),
    "a-sample-named-as-its-histogram": (
        '# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh 2\n',
        '# TYPE h histogram\nh_bucket{le="+Inf",U} 1\nh{U} 2\n',
    ),
    "a-gauge-named-as-a-sum": (
        '# TYPE h_sum gauge\nh_sum 4\n# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_count 1\n',
        (
            "# TYPE h_sum gauge\nh_sum{U} 4\n"
            '# TYPE h histogram\nh_bucket{le="+Inf",U} 1\nh_count{U} 1\n'
        ),
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_the_page_is_read_as_prometheus_reads_it(case: str) -> None:
    page, right = RIGHT[case]
    reading = read(page)
    assert rendered(reading) == right
    assert not reading.problems


OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_types_and_escapes_of_openmetrics() -> None:
    page = (
        '# TYPE target info\n# HELP target Of "this" \\"x\\".\ntarget_info{v="1"} 1\n'
        '# TYPE job stateset\njob{job="on"} 1\njob{job="off"} 0\n'
        '# TYPE wait gaugehistogram\nwait_bucket{le="+Inf"} 2\nwait_gcount 2\nwait_gsum 3\n'
        '# TYPE hits counter\nhits_total 1 1.5e9 # {trace_id="}\\""} 0.5 1.4e9\n# EOF\n'
    )
    reading = read(page, OPENMETRICS)
    assert not reading.problems
    assert rendered(reading, Format.OPENMETRICS) == (
        '# HELP target Of \\"this\\" \\"x\\".\n# TYPE target info\ntarget_info{U,v="1"} 1\n'
        '# TYPE job stateset\njob{job="on",U} 1\njob{job="off",U} 0\n'
        '# TYPE wait gaugehistogram\nwait_bucket{le="+Inf",U} 2\nwait_gcount{U} 2\nwait_gsum{U} 3\n'
        "# TYPE hits counter\nhits_total{U} 1\n"
    )
    text = rendered(reading)
    assert '# HELP target_info Of "this" "x".\n# TYPE target_info untyped\n' in text
    assert "# TYPE hits_total counter\n" in text


TIMES_OF_CREATION = (
    "# TYPE a counter\na_total 1\na_created 2\n"
    "# TYPE b_total counter\nb_total 3\n# TYPE b_created gauge\nb_created 4\n"
    "h_created 5\n# TYPE h histogram\nh_sum 6\n"
    "# TYPE s summary\ns_count 7\n# TYPE s_created counter\ns_created 8\n"
    "# TYPE g gauge\ng_created 9\n"
)


def values(reading: Reading) -> set[int]:
    lines = [line for family in reading.families for line in family.lines.decode().splitlines()]
    return {int(line.rpartition(" ")[2]) for line in lines}


def test_times_of_creation_are_left_out_unless_keep_matches_them() -> None:
    assert values(read(TIMES_OF_CREATION)) == {1, 3, 6, 7, 8, 9}
    assert values(read(TIMES_OF_CREATION, keep=(".*",))) == set(range(1, 10))
    assert values(read(TIMES_OF_CREATION, keep=("b_.*",))) == {3, 4}
    assert values(read(TIMES_OF_CREATION, keep=(".*",), drop=("b_.*", "h.*"))) == {1, 2, 7, 8, 9}


def test_keep_brings_back_what_is_dropped_by_default() -> None:
    page = "go_threads 1\nother 2\n"
    assert values(read(page)) == {2}
    assert values(read(page, keep=("go_.*",))) == {1}
    assert values(read(page, keep=("go_.*",), drop=("go_.*",))) == set()


NO_PAGES = {
    "json-is-no-page": ('{"status":"UP"}', "application/json"),
    "indented JSON": ('{\n  "status": "UP",\n  "up": 1\n}\n', "application/json"),
    "HTML without a type": ("<!doctype html>\n<html>\n<p>\n</html>\n", ""),
    "HTML with a line that could be a sample": ("<pre>\nuptime 5\n</pre>\n", "text/html"),
    "a message": ("Internal error, see the log\n", "text/plain"),
    "MongoDB's message": (
        "It looks like you are trying to access MongoDB over HTTP on the native driver port.\n",
        "text/plain",
    ),
    "one long line": ("x" * 300_000, "text/plain"),
    "comments and garbage": ("# a comment\n?\n", "text/plain"),
    "a NUL": ("\0", ""),
}


@pytest.mark.parametrize("case", NO_PAGES)
def test_what_is_no_page_is_bad_data(case: str) -> None:
    with pytest.raises(BadData, match=r"not a metrics page|no line of the page is a metric"):
        read(*NO_PAGES[case])


PAGES_WITHOUT_PROBLEMS = {
    "an empty page": ("", ""),
    "an empty page of OpenMetrics": ("# EOF\n", OPENMETRICS),
    "comments": ("# nothing yet\n\n  \n\r\n", "text/plain"),
    "declarations": ("# TYPE a gauge\n# HELP a b\n", "text/plain"),
    "a page as HTML, the default type of some frameworks": ("a 1\n", "text/html; charset=utf-8"),
    "a page as JSON": ("a 1\n", "application/json"),
    "families that drop selects": ("go_x 1\n", "text/plain"),
}


@pytest.mark.parametrize("case", PAGES_WITHOUT_PROBLEMS)
def test_what_lacks_nothing_has_no_problem(case: str) -> None:
    assert not read(*PAGES_WITHOUT_PROBLEMS[case]).problems


def test_a_problem_names_what_is_left_out() -> None:
    (problem,) = read('a{x="1} 1\nb 2\nb 3\nc{x=1} 2\nup 1\n').problems
    for part in ("2 malformed", "1 duplicate", "1 conflict (up)"):
        assert part in problem.message


def test_an_unclosed_quote_costs_its_line() -> None:
    reading = read('a{x="1} 1\n# TYPE b gauge\nb 2\nc{y="3"} 4\nd{z="\\"} 5\ne 6\n')
    assert values(reading) == {2, 4, 6}
    assert "2 malformed" in reading.problems[0].message


# As other people's exporters wrote them; Prometheus refuses a page for each.
ODD_LINES = (
    # dcgm-exporter#488, with MIG.
    'DCGM_FI_DEV_CUDA_VISIBLE_DEVICES_STR{gpu="0",GPU_I_ID="3"} MIG-GPU-66068b5a/3',
    # llama.cpp#11915, before the first request.
    "llamacpp:n_busy_slots_per_decode -nan",
    # LibreHardwareMonitor#1997, and all others with a decimal comma.
    'lhm_cpu_voltage_volts {"sensor"="CPU Core" "hardware"="i7"} 0,980712890625',
    # pcp_exporter#24.
    'pcp_network_interface_baudrate_byte / seconds{instance="0"} 1.25e+08',
    # backuppc#403.
    "backuppc_disabled ARRAY(0x5592cb6be6f0)",
    # prometheus#1990.
    "erlang_vm_logical_processors_available unknown",
    # nginx-lua-prometheus#3.
    'nginx_http_request_duration_seconds_bucket{host="\'"",le="00.010"} 1',
)


def test_odd_lines_cost_themselves() -> None:
    reading = read("\n".join(("first 1", *ODD_LINES, 'lhm {"a"="b" "c"="d"} 2', "last 3")) + "\n")
    assert values(reading) == {1, 2, 3}
    assert f"{len(ODD_LINES)} malformed" in reading.problems[0].message


GARBAGE = (
    *(
        b"",
        b"?",
        b"\0",
        b"\xff\xfe",
        b"{",
        b'x{a="',
        b'x{a="1" b',
        b"# TYPE",
        b'# TYPE x "',
        b"<p>",
    ),
    *(b'{"', b"x 1e999", b"x -", b"\r", b'"', b"x{} {} 1", b"x" * 70_000, b'x{a="' + b"y" * 20_000),
)


def library_page(generate: Callable[[prometheus_client.CollectorRegistry], bytes]) -> list[bytes]:
    """Returns the lines of a page that prometheus_client writes."""
    registry = prometheus_client.CollectorRegistry()
    counter = prometheus_client.Counter("http_requests", "All.", ["path"], registry=registry)
    duration = prometheus_client.Histogram(
        "duration_seconds", "Time.", ["path"], registry=registry, buckets=(0.1, 1)
    )
    for path in ('/a"b\\c\n', "/b{}"):
        counter.labels(path).inc(3)
        duration.labels(path).observe(0.3)
    prometheus_client.Info("build", "Version.", registry=registry).info({"version": "1.2"})
    prometheus_client.Summary("size_bytes", "Size.", registry=registry).observe(7)
    prometheus_client.Gauge("queue", "Length.", registry=registry).set(5)
    return generate(registry).splitlines()


@pytest.mark.parametrize(
    "generate", [prometheus_client.generate_latest, openmetrics.generate_latest], ids=["text", "om"]
)
def test_a_strange_line_costs_itself(
    generate: Callable[[prometheus_client.CollectorRegistry], bytes],
) -> None:
    """Each line of a page in turn is garbage, begins or ends in garbage, or stands twice."""
    lines = library_page(generate)
    parser = TextParser("u", lambda _: True, PageLimits(1000), keep_created=lambda _: True)
    alone = [parsed_lines(parser, [line]) for line in lines]
    assert sum(map(len, alone)) > 20
    for number, line in enumerate(lines):
        others = {text for index, texts in enumerate(alone) if index != number for text in texts}
        for strange in (*GARBAGE, line + b'"\0', line[: len(line) // 2], b"\0" + line):
            page = [*lines[:number], strange, *lines[number + 1 :]]
            assert others <= parsed_lines(parser, page), strange[:100]
        twice = parsed_lines(parser, [*lines[:number], line, *lines[number:]])
        assert twice == others | alone[number]


def parsed_lines(parser: TextParser, lines: list[bytes]) -> set[bytes]:
    try:
        families = parser.parse(b"\n".join((*lines, b""))).families
    except BadData:
        return set()
    return {line for family in families for line in family.lines.splitlines()}


TRITON = (
    "# TYPE nv_inference_request_failure counter\n"
    'nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 6\n'
    "# TYPE nv_inference_pending_request_count gauge\n"
    'nv_inference_pending_request_count{model="m",version="1"} 3\n'
    "# TYPE mine gauge\nmine 1\n"
)


def test_values_that_a_dialect_exports_are_no_conflict() -> None:
    """The dialect of Triton exports both names of its own page, from the rows of the reading."""
    reserved = frozenset(("nv_inference_request_failure", "nv_inference_pending_request_count"))

    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses["/metrics"] = http_response(TRITON)
            row = ServerAddressRow(("here",), "127.0.0.1", 1, f"http://{fake.url}/metrics", True)
            readings = {"triton": {"here": Reading((row,))}}
            context = Context(
                Paths(), tuple, lambda: 0, lambda name: readings.get(name, {}),
                reserved_names=lambda: reserved | {"mine"},
                dialect_names=lambda: reserved,
            )  # fmt: skip
            upstream: UpstreamSource = build(Settings(), context)
            try:
                (target,) = await upstream.discover()
                reading = await target.read()
            finally:
                await upstream.close()
            assert QueueRow(("here", "m", "1"), 3.0, (("BACKEND", 6.0),)) in reading.rows
            assert reading.families == ()
            (problem,) = reading.problems
            assert "1 conflict (mine)" in problem.message

    asyncio.run(scenario())
