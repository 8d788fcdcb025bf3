"""What many tests need: a small machine, small networks, small blocks."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from pipeline.core.device import Compute

__all__ = ["CPU", "ROOT", "Page", "Plot", "plots", "section", "summary_of"]

ROOT = Path(__file__).resolve().parent.parent
CPU = Compute(device="cpu", precision="float32", channels_last=False, compile="never")


# The report as its readers' programs open it.


def summary_of(out: Path) -> dict:
    """summary.json of a report."""
    return json.loads((out / "summary.json").read_text())


class Page(HTMLParser):
    """Collects elements and text; fails on nothing by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def section(out: Path, heading: str) -> str:
    """The page's HTML below a heading, up to the next; empty where there is no such heading."""
    parts = (out / "index.html").read_text(encoding="utf-8").split("<h2>")
    return next((part for part in parts if part.startswith(f"{heading}</h2>")), "")


class Plot(NamedTuple):
    """A small plot, in its own units."""

    caption: str
    lines: dict[str, tuple[str, list[tuple[float, float]]]]  # by name: class names, points
    texts: list[str]


def plots(html: str) -> list[Plot]:
    """Every plot of a piece of the page, values read off between the labelled lines of its grid."""
    return [_plot(figure) for figure in re.findall(r"<figure.*?</figure>", html, re.DOTALL)]


def _plot(figure: str) -> Plot:
    grid = re.findall(r'<line class="grid"[^>]* y1="([^"]+)"[^>]*/>\s*<text[^>]*>([^<]+)<', figure)
    (low, zero), (high, one) = ((float(at), float(text)) for at, text in (grid[0], grid[-1]))
    lines = {}
    for style, path, name in re.findall(r'<polyline class="([^"]+)" points="([^"]+)">(?:<title>([^<]*))?', figure):
        pairs = [tuple(map(float, pair.split(","))) for pair in path.split()]
        lines[name] = (style, [(x, zero + (y - low) / (high - low) * (one - zero)) for x, y in pairs])
    caption = re.search(r"<figcaption>([^<]*)", figure)[1]
    return Plot(caption, lines, re.findall(r"<text[^>]*>([^<]*)", figure))
