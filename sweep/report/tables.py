"""The report's tables: made once from the analysis, written as text, CSV, LaTeX and HTML cells."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasweep.features.common.files import write_text
from lorasweep.sweep.store.results import format_table

from .sections import Section

Value = str | int | float | bool | tuple[float, float] | None
"""A cell is an interval: its two ends."""
UNDEFINED = "–"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: in CSV files, with the unit where there is one.
        heading: for people.
        show: formats a defined value for people.
        explain: what it is, where the heading does not say.
        interval: whether its values are intervals; CSV files have NAME_low and NAME_high.
    """

    name: str
    heading: str
    show: Callable[[Any], str] = str
    explain: str = ""
    interval: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        section: where on the page it stands.
        name: of its files.
        title: one line.
        rows: values as they are computed; shares are not percentages.
        note: what a reader must know to read it right.
    """

    section: Section
    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    note: str = ""

    def shown(self, row: Sequence[Value]) -> list[str]:
        """A row's cells as text."""
        return [
            UNDEFINED if _undefined(value) else " ".join(column.show(value).split())
            for column, value in zip(self.columns, row)
        ]

    def to_text(self) -> str:
        """Aligned plain text."""
        body = format_table([c.heading for c in self.columns], [self.shown(r) for r in self.rows])
        return "\n".join([self.title, "", body, *(["", self.note] if self.note else [])]) + "\n"

    def to_csv(self) -> str:
        """RFC 4180 with a header line; numbers in full precision, undefined ones empty."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(
            [
                name
                for c in self.columns
                for name in ([f"{c.name}_low", f"{c.name}_high"] if c.interval else [c.name])
            ]
        )
        for row in self.rows:
            cells: list[object] = []
            for column, value in zip(self.columns, row):
                if isinstance(value, tuple):
                    cells += value
                elif column.interval:
                    cells += ["", ""]
                else:
                    cells.append("" if _undefined(value) else value)
            writer.writerow(cells)
        return text.getvalue()

    def to_latex(self) -> str:
        """A table environment with booktabs' rules."""
        numeric = [
            all(_undefined(v) or type(v) in (int, float, tuple) for v in values)
            for values in (zip(*self.rows) if self.rows else [()] * len(self.columns))
        ]
        cells = [[c.heading for c in self.columns], *(self.shown(row) for row in self.rows)]
        lines = [" & ".join(map(latex_escape, row)) + r" \\" for row in cells]
        note = f" {self.note}" if self.note else ""
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex_escape(self.title + '.' + note)}}}",
                rf"\label{{tab:{self.name.replace('_', '-')}}}",
                rf"\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}",
                r"\toprule",
                lines[0],
                r"\midrule",
                *lines[1:],
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def write(self, folder: Path) -> None:
        """Write NAME.txt, NAME.csv and NAME.tex."""
        write_text(folder / f"{self.name}.txt", self.to_text())
        write_text(folder / f"{self.name}.csv", self.to_csv())
        write_text(folder / f"{self.name}.tex", self.to_latex())


def _undefined(value: Value) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "α": r"$\alpha$", "<": "$<$",
    ">": "$>$", "≥": r"$\geq$", "≤": r"$\leq$",
    # After the end of a row, these would be its arguments.
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip


def latex_escape(text: str) -> str:
    """Text that LaTeX typesets as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


# How values are shown


def decimal(digits: int) -> Callable[[float], str]:
    """A number with a fixed count of decimals."""
    return lambda value: _number(value, f".{digits}f")


def percent(value: float) -> str:
    """A share as 12.3, the unit being in the heading."""
    return _number(100 * value, ".1f")


def signed_percent(value: float) -> str:
    """A difference of shares as +12.3."""
    return _number(100 * value, "+.1f")


def _number(value: float, how: str) -> str:
    """Formatted, with a real minus sign; what rounds to 0 has none."""
    shown = format(value, how)
    return shown.lstrip("+-") if float(shown) == 0 else shown.replace("-", "−")


def interval_of(show: Callable[[float], str]) -> Callable[[tuple[float, float]], str]:
    """Shows an interval's ends."""
    return lambda ends: f"{show(ends[0])} to {show(ends[1])}"


def p_value(value: float) -> str:
    """Three decimals; never 0."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def yes_no(value: bool) -> str:
    """yes or no."""
    return "yes" if value else "no"
