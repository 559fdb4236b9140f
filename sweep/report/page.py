"""report.html: one file with everything in it, from a template, figures and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import quote

from .facts import Facts
from .sections import Section
from .style import DARK
from .tables import Table

GENERATOR = '<meta name="generator" content="lorasweep">'
"""By this a page is known for ours."""


@dataclass(frozen=True)
class PageFigure:
    """A drawn figure: its name, section, title and caption, and the <svg> element."""

    name: str
    section: Section
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class PageSection:
    """A part of the page with its figures and tables."""

    title: str
    figures: Sequence[PageFigure]
    tables: Sequence[Table]

    @property
    def anchor(self) -> str:
        """Its id in the page."""
        return re.sub(r"[^a-z]+", "-", self.title.lower()).strip("-")


def arrange(figures: Sequence[PageFigure], tables: Sequence[Table]) -> list[PageSection]:
    """Figures and tables under their headings; sections with neither are left out.

    Raises:
        KeyError: a figure or table is of no section.
    """
    drawn: dict[Section, list[PageFigure]] = {section: [] for section in Section}
    listed: dict[Section, list[Table]] = {section: [] for section in Section}
    for figure in figures:
        drawn[figure.section].append(figure)
    for table in tables:
        listed[table.section].append(table)
    return [
        PageSection(section.value, drawn[section], listed[section])
        for section in Section
        if drawn[section] or listed[section]
    ]


@dataclass(frozen=True)
class Page:
    """The whole page.

    Attributes:
        notices: what is missing or to be watched out for.
        findings: the result, in sentences.
        facts: heading -> (what, value) cells, at the end.
    """

    title: str
    subtitle: str
    notices: Sequence[str]
    findings: Sequence[str]
    sections: Sequence[PageSection]
    facts: dict[str, Facts]


def render(page: Page) -> str:
    """The page as HTML; it loads nothing."""
    import jinja2

    assets = files(__package__)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["data_url"] = lambda text: f"data:text/csv;charset=utf-8,{quote(text)}"
    template = environment.from_string((assets / "page.html").read_text(encoding="utf-8"))
    return template.render(
        page=page,
        generator=GENERATOR,
        style=(assets / "page.css").read_text(encoding="utf-8"),
        script=(assets / "page.js").read_text(encoding="utf-8"),
        dark=[(colour[1:], other) for colour, other in DARK.items()],
        sort_value=_sort_value,
    )


def _sort_value(value: object) -> str:
    """What a cell is sorted by; empty: always last."""
    if isinstance(value, tuple):
        value = value[0]
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)
