"""How a figure is declared: its name, section, title and caption stand above what draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .analysis import Analysis
from .family_results import FamilyResults
from .sections import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Draw = Callable[[Analysis], Figure]
    DrawConfig = Callable[[Analysis, str], Figure]
    DrawFamily = Callable[[Analysis, FamilyResults], Figure]

Caption = str | Callable[[Analysis], str]


@dataclass(frozen=True)
class ReportFigure:
    """A figure and what it says.

    Attributes:
        name: of its files.
        section: where on the page it stands.
        title: one line.
        caption: what is drawn, and what to watch out for; also for those who cannot see it.
        draw: makes it.
    """

    name: str
    section: Section
    title: str
    caption: str
    draw: Callable[[], Figure]


_DECLARED: dict[str, Callable[[Analysis], list[ReportFigure]]] = {}


def _declare(name: str, make: Callable[[Analysis], list[ReportFigure]]) -> None:
    if name in _DECLARED:
        raise ValueError(f"two figures are called {name}: one's files would be the other's")
    _DECLARED[name] = make


def figure(
    name: str,
    section: Section,
    title: str,
    caption: Caption,
    *,
    when: Callable[[Analysis], bool] = lambda analysis: True,
) -> Callable[[Draw], Draw]:
    """Declare a figure that the decorated function draws of an analysis, if it has complete cells
    of configs that are of no family.

    Arguments:
        name, section, title, caption: as in `ReportFigure`; a function makes a caption of numbers.
        when: whether there is something to draw.
    """

    def register(draw: Draw) -> Draw:
        def make(analysis: Analysis) -> list[ReportFigure]:
            if not (analysis.cells and when(analysis)):
                return []
            said = _said(caption, analysis)
            return [ReportFigure(name, section, title, said, lambda: draw(analysis))]

        _declare(name, make)
        return draw

    return register


def family_figure(
    name: str,
    title: str,
    caption: Callable[[Analysis, FamilyResults], str],
    *,
    families: Callable[[FamilyResults], bool],
) -> Callable[[DrawFamily], DrawFamily]:
    """Declare a figure of each of some families of configs; {family} in name and title becomes the
    family's.

    Arguments:
        name, title: as for `figure`.
        caption: made of the family's numbers.
        families: of which families there is one.
    """

    def register(draw: DrawFamily) -> DrawFamily:
        def make(analysis: Analysis) -> list[ReportFigure]:
            return [
                ReportFigure(
                    name.replace("{family}", family),
                    Section.FAMILIES,
                    title.replace("{family}", family),
                    caption(analysis, found),
                    lambda found=found: draw(analysis, found),  # type: ignore[misc]
                )
                for family, found in analysis.families.items()
                if families(found)
            ]

        _declare(name, make)
        return draw

    return register


def config_figure(
    name: str,
    section: Section,
    title: str,
    caption: Caption,
    *,
    configs: Callable[[Analysis], Iterable[str]],
) -> Callable[[DrawConfig], DrawConfig]:
    """Declare a figure of each of some configs; {config} in the words becomes the config's name.

    Arguments:
        name, section, title, caption: as for `figure`.
        configs: of which configs there is one.
    """

    def register(draw: DrawConfig) -> DrawConfig:
        def make(analysis: Analysis) -> list[ReportFigure]:
            said = _said(caption, analysis)
            return [
                ReportFigure(
                    name.replace("{config}", config),
                    section,
                    title.replace("{config}", config),
                    said.replace("{config}", config),
                    lambda config=config: draw(analysis, config),  # type: ignore[misc]
                )
                for config in configs(analysis)
            ]

        _declare(name, make)
        return draw

    return register


def _said(caption: Caption, analysis: Analysis) -> str:
    return caption if isinstance(caption, str) else caption(analysis)


def declared_figures(analysis: Analysis) -> list[ReportFigure]:
    """Return the figures, of the modules imported so far, for which there are numbers."""
    return [item for make in _DECLARED.values() for item in make(analysis)]
