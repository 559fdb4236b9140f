"""All figures of a report: the modules that declare them are imported here."""

from __future__ import annotations

from . import (  # noqa: F401 - imported, each declares its figures
    class_figures,
    curve_figures,
    family_figures,
    importance_figures,
    map_figures,
    score_figures,
)
from .analysis import Analysis
from .figures import ReportFigure, declared_figures


def run_figures(analysis: Analysis) -> list[ReportFigure]:
    """Return every figure for which an analysis has numbers, in the order of the page."""
    return declared_figures(analysis)
