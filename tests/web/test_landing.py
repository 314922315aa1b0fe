"""The landing page: status and remedies of each source, escaping, contrast."""

from __future__ import annotations

import html.parser
import itertools
import re

import pytest

from exporter.status_report import StatusLine
from exporter.web.landing import format_age, format_duration, landing_page
from tests.paths import ROOT

GPU = "NVIDIA GPUs"
GOOD = (
    StatusLine("gpu", GPU, "ok", targets=("0", "1"), series=20, age=1.0, duration=0.0124),
    StatusLine("triton", "Triton", "not found", message="no response", remedy="set its URL"),
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


class _ParsedPage(html.parser.HTMLParser):
    """Parses a page; checks that every element is closed in order, collects text and attributes."""

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
    def visible_text(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_a_page_without_failures() -> None:
    page = _ParsedPage(landing_page(GOOD, "/metrics"))
    assert "No problems" in page.visible_text
    assert "How to fix it" not in page.visible_text
    assert "last success 1 s ago poll duration 12 ms series 20 0 1" in page.visible_text
    assert "not found no response set its URL" in page.visible_text
    assert "Disabled by host.enabled: off" in page.visible_text
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == ["./metrics", "./-/ready", "./-/healthy", "./metrics?collect%5B%5D=gpu"]
    page = _ParsedPage(landing_page(GOOD, "/m", "/a b", "/x%20y"))
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == [f"/x%20y{path}" for path in ("/m", "/-/ready", "/-/healthy")] + [
        "/x%20y/m?collect%5B%5D=gpu"
    ]
    assert "/a b/m for Prometheus /a b/-/ready /a b/-/healthy for probes" in page.visible_text


def test_remedies_come_first_and_equal_errors_are_grouped() -> None:
    page = _ParsedPage(landing_page(BAD, "/metrics"))
    text = page.visible_text
    assert text.startswith("2 of 3 sources need attention")
    assert text.index("How to fix it") < text.index("reboot") < text.index("join docker")
    assert "✕ 1 (GPU-a), 11 (GPU-b) last success 7 min ago GPU is lost reboot" in text
    assert text.count("GPU is lost") == 1
    # Working instances are listed first: 10, but not 1 and 11, which failed.
    assert "series 20 0 10 ✕" in text


def test_an_unhealthy_gpu_stays_listed_with_reason_and_remedy() -> None:
    unhealthy = StatusLine(
        "gpu", GPU, "unhealthy", target="1 (GPU-a)", message="drain: XID 79", remedy="reboot it"
    )
    page = _ParsedPage(landing_page((GOOD[0], unhealthy, *GOOD[1:]), "/metrics"))
    text = page.visible_text
    assert text.startswith("1 GPU needs attention")
    assert "series 20 0 1 ! 1 (GPU-a) drain: XID 79 reboot it" in text


def test_text_from_outside_is_escaped() -> None:
    hostile = "<script>alert('1')</script>\"&\x1b[31m\u202eabc\n"
    line = StatusLine(
        "gpu",
        hostile,
        "failed",
        targets=(hostile,),
        message=hostile,
        remedy=hostile,
        notes=(hostile,),
        series=1,
    )
    target = StatusLine(
        "gpu", hostile, "failed", target=hostile + "2", message=hostile, remedy=hostile + "2"
    )
    text = landing_page((line, target), "/met<ri>cs\"'")
    page = _ParsedPage(text)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _, _ in page.attributes}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<script" not in text


def test_many_instances_are_folded() -> None:
    line = StatusLine("upstream", "Others", "ok", targets=tuple(map(str, range(1000))), series=1)
    page = _ParsedPage(landing_page((line,), "/metrics"))
    assert "976 more" in page.visible_text


def test_no_source_found_and_starting() -> None:
    assert "No source found" in _ParsedPage(landing_page((), "/metrics")).visible_text
    starting = (StatusLine("gpu", GPU, "starting"),)
    assert "Starting" in _ParsedPage(landing_page(starting, "/metrics")).visible_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1, "just now"),
        (1.4, "1 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7200, "2 h ago"),
        (200_000, "2 d ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0.4 ms"), (0.0124, "12 ms"), (0.9, "900 ms"), (4, "4.0 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def _luminance(colour: str) -> float:
    """Returns the relative luminance (WCAG 2.1)."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _colours(css: str) -> list[dict[str, str]]:
    """Returns the custom properties of each :root block: light, dark."""
    blocks = re.findall(r":root \{([^}]*)\}", css)
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in blocks]


LIGHT, DARK = _colours((ROOT / "exporter/web/style.css").read_text())


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(scheme: dict[str, str]) -> None:
    backgrounds = ("background", "card")
    texts = [name for name in scheme if name not in (*backgrounds, "line")]
    assert set(texts) >= {"text", "dim", "link", "ok", "partly", "failed"}
    for background, text in itertools.product(backgrounds, texts):
        luminances = _luminance(scheme[background]), _luminance(scheme[text])
        ratio = (max(luminances) + 0.05) / (min(luminances) + 0.05)
        assert ratio >= 4.5, (background, text, ratio)
