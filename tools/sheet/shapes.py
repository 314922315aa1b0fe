"""SVG elements, and Grafana's colours."""

from __future__ import annotations

from html import escape

TEXT, GREY = "#d8d9da", "#8e8e8e"
CHARACTER = 0.6
"""Width of a character as a ratio of the font size."""
PALETTE = (
    *("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9"),
    *("#8ab8ff", "#fa6400", "#37872d", "#e0b400", "#1f60c4"),
)
NAMED_COLOURS = {
    "green": "#73bf69",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "text": GREY,
}


def palette(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def colour(name: str) -> str:
    """Returns the colour of a name; a colour as it is."""
    return NAMED_COLOURS.get(name, name)


def rectangle(
    x: float, y: float, width: float, height: float, fill: str, *, border: str = ""
) -> str:
    stroke = f" stroke='{border}'" if border else ""
    size = f"width='{max(width, 0):.1f}' height='{max(height, 0):.1f}'"
    return f"<rect x='{x:.1f}' y='{y:.1f}' {size} fill='{fill}'{stroke}/>"


def text(
    x: float,
    y: float,
    value: str,
    *,
    colour: str = TEXT,
    size: float = 12,
    bold: bool = False,
    anchor: str = "",
    limit: float = 0,
) -> str:
    """Returns a line of text. limit: pixels at which it is cut, as Grafana does."""
    characters = int(limit / (CHARACTER * size))
    if limit and len(value) > characters:
        value = value[: max(characters - 1, 0)] + "…"
    extra = f" text-anchor='{anchor}'" if anchor else ""
    extra += " font-weight='bold'" if bold else ""
    extra += f" font-size='{size:.0f}'" if size != 12 else ""
    return f"<text x='{x:.1f}' y='{y:.1f}' fill='{colour}'{extra}>{escape(value)}</text>"
