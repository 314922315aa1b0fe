"""The page for people: says how each source fares, safely, and can be read."""

from __future__ import annotations

import html.parser
import itertools
import re

import pytest

from exporter.status_report import StatusLine
from exporter.web.landing import ago, landing_page, span
from tests.paths import ROOT

GPU = "NVIDIA GPUs"
GOOD = (
    StatusLine("gpu", GPU, "ok", targets=("0", "1"), series=20, age=1.0, duration=0.0124),
    StatusLine(
        "triton", "Triton", "not found", message="nothing answers", remedy="say where it is"
    ),
    StatusLine("host", "Host", "off"),
)
BAD = (
    StatusLine(
        "gpu", GPU, "partly", targets=("0", "1", "10", "11"), series=20, age=0.1, duration=4
    ),
    StatusLine(
        "gpu", GPU, "failed", target="1 (GPU-a)", age=400.0, message="GPU is lost", remedy="reboot"
    ),
    StatusLine("gpu", GPU, "failed", target="11 (GPU-b)", message="GPU is lost", remedy="reboot"),
    StatusLine(
        "containers", "Containers", "failed", message="permission denied", remedy="join docker"
    ),
    StatusLine("itself", "Exporter", "starting"),
)


class _Checked(html.parser.HTMLParser):
    """Every element is closed in order; keeps the text and the attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_all_is_well() -> None:
    page = _Checked(landing_page(GOOD, "/metrics"))
    assert "All is well" in page.words
    assert "What to do" not in page.words
    assert "read 1 s ago took 12 ms series 20 0 1" in page.words
    assert "not found nothing answers say where it is" in page.words
    assert "Switched off: host.enabled" in page.words
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == ["/metrics", "/-/ready", "/-/healthy", "/metrics?collect%5B%5D=gpu"]


def test_trouble_comes_first_and_once() -> None:
    page = _Checked(landing_page(BAD, "/metrics"))
    words = page.words
    assert words.startswith("2 of 3 sources need attention")
    assert words.index("What to do") < words.index("reboot") < words.index("join docker")
    assert "✕ 1 (GPU-a), 11 (GPU-b) last read 7 min ago GPU is lost reboot" in words
    assert words.count("GPU is lost") == 1
    # Of the instances, those that answer stand above: not 1, and not 11, but 10.
    assert "series 20 0 10 ✕" in words


def test_what_comes_from_outside_is_only_text() -> None:
    nasty = "<script>alert('1')</script>\"&\x1b[31m\u202eabc\n"
    line = StatusLine(
        "gpu",
        nasty,
        "failed",
        targets=(nasty,),
        message=nasty,
        remedy=nasty,
        notes=(nasty,),
        series=1,
    )
    target = StatusLine(
        "gpu", nasty, "failed", target=nasty + "2", message=nasty, remedy=nasty + "2"
    )
    text = landing_page((line, target), "/met<ri>cs\"'")
    page = _Checked(text)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _, _ in page.attributes}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<script" not in text


def test_a_thousand_instances_unfold() -> None:
    line = StatusLine("upstream", "Others", "ok", targets=tuple(map(str, range(1000))), series=1)
    page = _Checked(landing_page((line,), "/metrics"))
    assert "976 more" in page.words


def test_nothing_at_all() -> None:
    assert "Nothing is found" in _Checked(landing_page((), "/metrics")).words
    starting = (StatusLine("gpu", GPU, "starting"),)
    assert "Starting" in _Checked(landing_page(starting, "/metrics")).words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.1, "just now"),
        (1.4, "1 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7200, "2 h ago"),
        (200_000, "2 d ago"),
    ],
)
def test_ages(seconds: float, words: str) -> None:
    assert ago(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0004, "0.4 ms"), (0.0124, "12 ms"), (0.9, "900 ms"), (4, "4.0 s")],
)
def test_durations(seconds: float, words: str) -> None:
    assert span(seconds) == words


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.1 defines it."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _colours(css: str) -> list[dict[str, str]]:
    """The custom properties of each :root block, in their order: light, dark."""
    blocks = re.findall(r":root \{([^}]*)\}", css)
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in blocks]


LIGHT, DARK = _colours((ROOT / "exporter/web/style.css").read_text())


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_suffices(scheme: dict[str, str]) -> None:
    grounds = ("ground", "card")
    words = [name for name in scheme if name not in (*grounds, "line")]
    assert set(words) >= {"text", "dim", "link", "ok", "partly", "failed"}
    for ground, word in itertools.product(grounds, words):
        one, other = _luminance(scheme[ground]), _luminance(scheme[word])
        ratio = (max(one, other) + 0.05) / (min(one, other) + 0.05)
        assert ratio >= 4.5, (ground, word, ratio)
