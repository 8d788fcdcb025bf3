"""The report as its readers' programs open it."""

import json
from html.parser import HTMLParser
from pathlib import Path

from pipeline.report import build_report

__all__ = ["Page", "build", "summary_of"]


def build(run, out: Path) -> Path:
    build_report(run.inputs(), out)
    return out


def summary_of(out: Path) -> dict:
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
