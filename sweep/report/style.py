"""How figures look: colours for the colour-blind, vector text, and both themes of the page."""

from __future__ import annotations

import io
import itertools
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import write_atomic
from lorasweep.features.layers.configs import LAYER_CONFIGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches: a page's text width in most journals' one-column layout."""

_TALLEST = 300
"""Inches: at 200 dpi more is too much for a PNG of Matplotlib's."""

INK, MUTED, GRID = "#1d1d20", "#6b6b73", "#dcdce2"

# Okabe and Ito, "Color Universal Design", 2008, in an order that keeps neighbours apart.
SERIES = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d52", "#8c6bb1",
)  # fmt: skip

# Light -> dark theme; colours that are not here stay as they are.
DARK = {
    INK: "#e8e8ec", MUTED: "#a0a0aa", GRID: "#3a3a42",
    "#0072b2": "#4aa8e0", "#d55e00": "#f0813a", "#009e73": "#2fc79b", "#cc79a7": "#dd94ba",
    "#4d4d52": "#c0c0c8", "#8c6bb1": "#b196d4",
}  # fmt: skip

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
LINES = [(colour, _DASHES[i % 3]) for i, colour in enumerate((*SERIES, INK))]
"""(colour, dashes) of up to nine lines: told apart without colour, too."""


@dataclass(frozen=True)
class Style:
    """How a config is drawn, told apart without colour, too."""

    colour: str
    marker: str
    dashes: Any


def style_of(configs: Iterable[str]) -> dict[str, Style]:
    """Config -> its style: a built-in one looks the same in every report, others take what is left.

    The first 24 differ as lines, the first 72 as marks.
    """
    configs = list(configs)
    taken = {name: place for place, name in enumerate(LAYER_CONFIGS) if name in configs}
    free = (place for place in itertools.count() if place not in taken.values())
    return {config: _style(taken[config] if config in taken else next(free)) for config in configs}


def _style(place: int) -> Style:
    return Style(
        SERIES[place % len(SERIES)],
        MARKERS[place % len(MARKERS)],
        _DASHES[place // 3 % len(_DASHES)],
    )


_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Noto Sans CJK JP", "Noto Sans", "Arial"],
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a class may be called $x$
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Matplotlib's settings for the duration of the block; the user's own are left alone."""
    # It warns where it finds no home for its caches, which a container may well not have.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)  # type: ignore[arg-type]
        yield


def new_figure(height: float) -> Figure:
    """An empty figure of the page's width; `height` in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, min(height, _TALLEST)), layout="constrained")


def settle(figure: Figure) -> None:
    """Lay the figure out, once for all formats.

    Without any engine, since Matplotlib draws a figure twice to save it while there is one, even if
    that lays nothing out.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine(None)


_SAVED: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200, "facecolor": "white"},
    "pdf": {"metadata": {"CreationDate": None}},  # without a date, equal figures are equal files
}

FORMATS = tuple(_SAVED)
"""Of a figure's files, beside the page's own SVG."""


def read_formats(text: str) -> list[str]:
    """ "png,pdf" -> ["png", "pdf"]; "none" -> [].

    Raises:
        UserError: it names something else.
    """
    names = [name.strip() for name in text.split(",")]
    if names == ["none"]:
        return []
    if unknown := set(names) - set(FORMATS):
        raise UserError(f"--formats are {', '.join(FORMATS)} or none, not {min(unknown)!r}")
    return names


def save(figure: Figure, folder: Path, name: str, formats: Iterable[str]) -> None:
    """Write the figure as NAME.png, NAME.pdf."""
    for suffix in formats:
        sink = io.BytesIO()
        figure.savefig(sink, format=suffix, **_SAVED[suffix])
        write_atomic(folder / f"{name}.{suffix}", lambda file: file.write(sink.getbuffer()))


def inline_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an <svg> element for the page.

    Colours become variables that the page's theme may change; ids carry the figure's name, since
    all figures share one page.
    """
    import matplotlib

    sink = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    svg = sink.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for colour in DARK:
        svg = svg.replace(colour, f"var(--{colour[1:]}, {colour})")
    # Presentation belongs to the page: it scales, and it has a name.
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None  # matplotlib always writes one
    head = f'<svg viewBox="0 0 {size[1]} {size[2]}" role="img" aria-labelledby="{name}-title" '
    head += 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return f'{head}<title id="{name}-title">{title}</title>' + svg[svg.index(">") + 1 :]
