"""`inference-exporter reference`: from a CSV file, a page, a Prometheus; and its rules."""

from __future__ import annotations

import base64
import http.server
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from exporter import reference_builder
from exporter.reference_builder import main, parse_bounds
from exporter.sources.predictions.reference_file import read_reference
from tests import clean_interpreter
from tests.clean_interpreter import COMMAND_LINE

PAGE = """\
# TYPE output histogram
output_bucket{version="1",le="1.0"} 2
output_bucket{version="1",le="2.0"} 5
output_bucket{version="1",le="+Inf"} 6
output_count{version="1"} 6
output_bucket{version="2",le="1"} 10
output_bucket{version="2",le="2"} 10
output_bucket{version="2",le="+Inf"} 20
output_bucket{version="3",le="7"} 1
output_bucket{version="3",le="+Inf"} 1
output_bucket{version="3" le=broken
decisions_total{class="a \\"b\\"\\n",host="x"} 3
decisions_total{class="c",host="x"} 1
decisions_total{class="c",host="y"} 2
"""


@pytest.fixture
def page(tmp_path: Path) -> str:
    file = tmp_path / "page.txt"
    file.write_text(PAGE)
    return str(file)


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(("wine", *arguments)) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    printed.pop("origin")
    return printed


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(("wine", *arguments)) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("\n") == 1, "one line"
    return captured.err


def test_a_csv_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "predictions.csv"
    file.write_text("id,quality\n1,0.5\n2,1\n3,1.5\n4,9\n")
    source = ("--csv", str(file), "--column", "quality")
    assert made(capsys, *source, "--buckets", "0:2:0.5") == {
        "bounds": [0, 0.5, 1, 1.5, 2],
        "buckets": [0, 1, 2, 3, 3],
        "count": 4,
        "sum": 12,
    }
    assert made(capsys, *source) == {"labels": {"0.5": 1, "1": 1, "1.5": 1, "9": 1}}
    assert "no column colour; those are id, quality" in refused(
        capsys, "--csv", str(file), "--column", "colour"
    )
    file.write_text("id,quality\n1,0.5\n2,\n")
    assert "row 3: '' is not a number" in refused(capsys, *source, "--buckets", "0,1")
    file.write_bytes(b"quality\n\xff\n")
    assert "cannot be read" in refused(capsys, *source)


def test_what_is_printed_is_a_reference_file(
    tmp_path: Path, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(("wine", "--page", page, "--metric", "output", "--match", "version=1")) == 0
    file = tmp_path / "reference.json"
    file.write_text(capsys.readouterr().out)
    reference = read_reference(str(file))
    assert (reference.bounds, reference.buckets, reference.count) == ((1, 2), (2, 5), 6)
    assert reference.origin.startswith("output of ")


def test_a_page(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = ("--page", page, "--metric")
    assert made(capsys, *source, "output", "--match", "version=2") == {
        "bounds": [1, 2],
        "buckets": [10, 10],
        "count": 20,
    }
    assert "have different bounds; select some by --match" in refused(capsys, *source, "output")
    assert "no histogram" in refused(capsys, *source, "outpu")
    assert made(capsys, *source, "decisions_total", "--by", "class") == {
        "labels": {'a "b"\n': 3, "c": 3}
    }
    assert "no series with the label colour" in refused(
        capsys, *source, "decisions_total", "--by", "colour"
    )


class Handler(http.server.BaseHTTPRequestHandler):
    """Returns the increase of two buckets, the first of which is extrapolated above the second."""

    queries: ClassVar[list[str]] = []
    authorizations: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.queries.append(urllib.parse.unquote_plus(self.path))
        self.authorizations.append(self.headers["Authorization"])
        values = {"1": "5.5", "2": "5", "+Inf": "8"}
        result = [{"metric": {"le": le}, "value": [0, value]} for le, value in values.items()]
        body = json.dumps({"status": "success", "data": {"result": result}}).encode()
        if "broken" in self.path:
            body = b'{"data": 1}'
        self.send_response(404 if "missing" in self.path else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_a_prometheus(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = ("--prometheus", server, "--metric")
    assert made(capsys, *source, "output", "--match", 'a=b"c', "--range", "1d") == {
        "bounds": [1, 2],
        "buckets": [5.5, 5.5],
        "count": 8,
    }
    assert Handler.queries[-1] == (
        '/api/v1/query?query=sum by (le) (increase(output_bucket{a="b\\"c"}[1d]))'
    )
    assert "did not return a query's result" in refused(capsys, *source, "broken")
    assert "404" in refused(capsys, *source, "missing")
    assert "not an http" in refused(capsys, "--prometheus", "ftp://x", "--metric", "output")


def test_the_password_of_a_url_is_sent_and_not_printed(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = server.removeprefix("http://")
    url = f"http://user:s%40cret@{address}"
    assert made(capsys, "--prometheus", url, "--metric", "output")["count"] == 8
    assert Handler.authorizations[-1] == "Basic " + base64.b64encode(b"user:s@cret").decode()
    for wrong in (url, "ftp://user:s%40cret@x", "http://user:s@cret@", "http://user:s%40cret@[x"):
        error = refused(capsys, "--prometheus", wrong, "--metric", "broken")
        assert "cret" not in error


@pytest.mark.parametrize("page", ["http://127.0.0.1:1/a b", "http://127.0.0.1:x/", "/dev/zero"])
def test_a_page_that_cannot_be_read(
    page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_builder, "_MAX_BYTES", 1000)
    refused(capsys, "--page", page, "--metric", "output")


def test_a_peer_that_is_no_http_server(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/nonsense\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        refused(capsys, "--page", url, "--metric", "output")
        thread.join()


def test_a_file_whose_name_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "\udcff.csv"
    file.write_text("quality\n1\n")
    assert made(capsys, "--csv", str(file), "--column", "quality") == {"labels": {"1": 1}}


def test_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("wine", "--rules", "--metric", "output", "--match", "job=api")) == 0
    (group,) = yaml.safe_load(capsys.readouterr().out)["groups"]
    assert [rule["labels"] for rule in group["rules"]] == [
        {"model": "wine", "window": "1h"},
        {"model": "wine", "window": "1d"},
    ]
    assert group["rules"][1]["expr"] == (
        'sum by (le) (label_replace(increase(output_bucket{job="api"}[1d]),'
        ' "le", "$1.0", "le", "(-?[0-9]+)"))'
    )
    assert main(("wine", "--rules", "--metric", "decisions_total", "--by", "class")) == 0
    (group,) = yaml.safe_load(capsys.readouterr().out)["groups"]
    assert group["rules"][0] == {
        "record": "model:predictions_by_label:increase",
        "expr": 'sum by (label) (label_replace(increase(decisions_total[1h]), "label", "$1",'
        ' "class", "(.*)"))',
        "labels": {"model": "wine", "window": "1h"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "exactly one of"),
        (("--csv", "a", "--page", "b"), "exactly one of"),
        (("--csv", "a"), "needs --column"),
        (("--page", "a"), "needs --metric"),
        (("--page", "a", "--metric", "a{b"), "needs --metric"),
        (("--page", "a", "--metric", "a", "--match", "b"), "is not LABEL=VALUE"),
        (("--page", "a", "--metric", "a", "--by", "1"), "is not the name of a label"),
        (("--csv", "a", "--column", "b", "--buckets", "1,0"), "must ascend"),
        (("--csv", "a", "--column", "b", "--buckets", "x"), "is not 0,0.5,1"),
        (("--prometheus", "a", "--metric", "a", "--range", "x"), "is not a duration"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(("wine", *arguments))
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_bounds() -> None:
    assert parse_bounds("0:1:0.1")[3] == 0.3, "not 0.30000000000000004"
    for text in ("0:1:0", "0:1:-1", "0:1e9:1", "nan", "0,inf", "", "1:2"):
        with pytest.raises(ValueError, match="--buckets"):
            parse_bounds(text)


def test_the_command_imports_no_source_and_no_client() -> None:
    program = (
        "import sys; from exporter.cli import run\n"
        "try: run(['reference', '--help'], {})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    done = clean_interpreter.run(program, after=COMMAND_LINE)
    assert done.returncode == 0, done.stderr
    assert "--predictions.reference" in done.stdout
    assert "exporter.reference_builder" in done.stdout.split()
    assert not {"aiohttp", "docker", "pynvml", "tritonclient", "exporter.app"} & set(
        done.stdout.split()
    )
