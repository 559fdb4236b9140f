"""The catalogue of a report's figures: what each is called, says, and is drawn by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import class_figures, curve_figures, score_figures
from .analysis import Analysis
from .tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportFigure:
    """A figure and what it says.

    Attributes:
        name: of its files.
        title: one line.
        caption: what is drawn, and what to watch out for; also for those who cannot see it.
        draw: makes it.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def run_figures(analysis: Analysis) -> Iterator[ReportFigure]:
    """Every figure of a report for which there are numbers."""
    if not analysis.pairs:
        return
    seeds = len(analysis.run.sweep.grid.seeds)
    of_seeds = f"over {seeds} seeds" if seeds > 1 else "of one seed"
    both = f"Bars are 95 % intervals that resample {analysis.resampled}"
    yield ReportFigure(
        "ranking",
        "Test accuracy and macro F1",
        f"{both}. The dashed line is guessing ({percent(analysis.chance)} %), the dotted one "
        f"always answering the commonest class ({percent(analysis.majority)} % accuracy).",
        lambda: score_figures.ranking(analysis),
    )
    for config, rows in analysis.ablations.items():
        yield ReportFigure(
            f"ablation_{config}",
            f"From all_layers to {config}",
            f"Left: test accuracy with all layers and with {config}. Right: the drop. {both}; "
            "filled where the drop is distinguishable from none after Holm's correction.",
            lambda config=config, rows=rows: score_figures.ablation(analysis, config, rows),  # type: ignore[misc]
        )
    if any(ranking is not None for ranking in analysis.rankings.values()):
        yield ReportFigure(
            "critical_difference",
            "Average rank over seeds",
            "1 is best. Representations under one bar are less than the critical difference "
            "(Nemenyi, α = 0.05) apart: not distinguishable. Blocks are seeds of one test split.",
            lambda: score_figures.critical_difference(analysis),
        )
    yield ReportFigure(
        "splits",
        "Accuracy on train, validation and test",
        "Mean over seeds. The distance between the train and the test mark is overfitting.",
        lambda: score_figures.splits(analysis),
    )
    yield ReportFigure(
        "learning_curves",
        "Validation accuracy by epoch",
        f"Mean {of_seeds}; the band reaches from the lowest to the highest seed. A line "
        "ends where fewer than half of the seeds were still training.",
        lambda: curve_figures.learning_curves(
            analysis, "val_acc_history", "validation accuracy (%)", 100
        ),
    )
    yield ReportFigure(
        "training_loss",
        "Training loss by epoch",
        f"Cross-entropy in nats, mean {of_seeds}; bands and ends as above.",
        lambda: curve_figures.learning_curves(analysis, "train_loss_history", "training loss", 1),
    )
    yield ReportFigure(
        "precision_recall",
        "Precision and recall on test",
        "Micro-averaged over classes, mean over seeds: the highest precision of any threshold with "
        "at least that recall.",
        lambda: curve_figures.precision_recall(analysis),
    )
    yield ReportFigure(
        "calibration",
        "Calibration on test",
        "Accuracy against confidence in 15 bins, all seeds together; the area of a mark shows how "
        "many predictions it stands for. Below the diagonal is overconfident.",
        lambda: curve_figures.calibration(analysis),
    )
    for config in analysis.configs:
        yield ReportFigure(
            f"confusion_{config}",
            f"Confusion on test, {config}",
            "Share (%) of a true class's adapters (row) that were given each class (column), mean "
            "over seeds. Rows of classes without test adapters are empty.",
            lambda config=config: class_figures.confusion(analysis, config),  # type: ignore[misc]
        )
    yield ReportFigure(
        "classes",
        "Accuracy on each class",
        "Mean over seeds, from the confusion matrices. Few test adapters make a class uncertain; "
        "the table has their number.",
        lambda: class_figures.classes(analysis),
    )
    if analysis.ablations:
        yield ReportFigure(
            "class_drop",
            "Drop in accuracy on each class",
            "From all_layers, in percentage points, mean over seeds; negative is a gain.",
            lambda: class_figures.class_drop(analysis),
        )
    yield ReportFigure(
        "cost",
        "Accuracy against feature width and training time",
        f"{both}. Times are means of a trial's training on the machine of this run.",
        lambda: score_figures.cost(analysis),
    )
    if any(row.retained for rows in analysis.ablations.values() for row in rows):
        yield ReportFigure(
            "retained",
            "Information retained",
            f"Share of the accuracy above chance that is kept. {both}. Representations that are "
            "not above chance with all layers are left out.",
            lambda: score_figures.retained(analysis),
        )
    if seeds > 1:
        yield ReportFigure(
            "stability",
            "Test accuracy of every seed",
            "A mark is a seed, the line their mean.",
            lambda: score_figures.stability(analysis),
        )
