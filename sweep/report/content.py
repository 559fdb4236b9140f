"""What stands in the tables of one run's report."""

from __future__ import annotations

from lorasweep.features.layers.families import family_of

from .analysis import Analysis
from .class_tables import (
    class_count_table,
    class_drop_table,
    class_table,
    confusion_table,
)
from .columns import CONFIG, REPRESENTATION, ends, interval_column
from .difference_tables import (
    ablation_table,
    comparison_table,
    contrast_table,
)
from .family_tables import family_table
from .importance_tables import importance_tables
from .sections import Section
from .tables import (
    Column,
    Table,
    Value,
    decimal,
    percent,
    signed_percent,
    yes_no,
)


def run_tables(analysis: Analysis) -> list[Table]:
    """Every table of a report that has something in it."""
    tables = [
        ranking_table(analysis),
        *(contrast_table(analysis, config) for config in analysis.configs),
        *(ablation_table(analysis, config) for config in analysis.ablations),
        *(family_table(analysis, family) for family in analysis.families),
        *(comparison_table(analysis, config) for config in analysis.configs),
        split_table(analysis),
        *(class_table(analysis, config) for config in analysis.configs),
        *(class_drop_table(analysis, config) for config in analysis.ablations),
        *importance_tables(analysis),
        cost_table(analysis),
        retained_table(analysis),
        stability_table(analysis),
        calibration_table(analysis),
        *(confusion_table(analysis, config) for config in analysis.configs),
        class_count_table(analysis),
        missing_table(analysis),
    ]
    return [table for table in tables if table.rows]


def ranking_table(analysis: Analysis) -> Table:
    """Test accuracy and macro F1 of every cell, best first within its config."""
    return Table(
        Section.RANKING,
        "ranking",
        "Test accuracy and macro F1 (%), the best by validation first",
        [
            CONFIG,
            Column("rank", "rank"),
            REPRESENTATION,
            Column("features", "features", explain="width of the classifier's input"),
            Column("test_accuracy", "test acc", percent),
            interval_column("test_accuracy", "acc, 95 %"),
            interval_column(
                "test_accuracy_seeds",
                "seeds only",
                f"t interval over {analysis.paired_by}{analysis.seeds_hold_for}",
            ),
            Column("macro_f1", "macro F1", percent),
            interval_column("macro_f1", "F1, 95 %"),
            Column("above_chance", "above chance", yes_no, "both intervals lie above both"),
        ],
        [
            [
                config,
                rank,
                r.method,
                r.features,
                r.accuracy.value,
                ends(r.accuracy),
                ends(r.accuracy_seeds),
                r.macro_f1.value,
                ends(r.macro_f1),
                analysis.above_chance(r),
            ]
            for config in analysis.configs
            for rank, r in enumerate(analysis.ranked(config), 1)
        ],
        f"Chance is {percent(analysis.chance)} %; always answering the commonest class gives "
        f"{percent(analysis.majority)} %, and only what lies above both is above chance. 95 % "
        f"intervals resample {analysis.resampled}; "
        f"“seeds only” is the t interval over {analysis.paired_by}{analysis.seeds_hold_for}."
        f"{_pooled(analysis)}",
    )


def _pooled(analysis: Analysis) -> str:
    if not analysis.run.split.folds:
        return ""
    return " Every seed tests each adapter once; its scores are those of all folds together."


def split_table(analysis: Analysis) -> Table:
    """Train, validation and test accuracy side by side."""
    return Table(
        Section.OVERFITTING,
        "splits",
        "Accuracy on train, validation and test (%), mean over seeds",
        [
            CONFIG,
            REPRESENTATION,
            Column("train_accuracy", "train", percent),
            Column("val_accuracy", "validation", percent),
            Column("test_accuracy", "test", percent),
            Column("gap", "train − test", signed_percent, "overfitting gap, percentage points"),
        ],
        [
            [r.config, r.method, r.train_acc, r.val_acc, r.accuracy.value, r.gap]
            for r in analysis.cells.values()
        ],
    )


def cost_table(analysis: Analysis) -> Table:
    """Accuracy beside width and training time."""
    return Table(
        Section.COST,
        "cost",
        "Width of the features and training time",
        [
            CONFIG,
            REPRESENTATION,
            Column("features", "features"),
            Column("values_per_tensor", "per tensor", explain="values per layer tensor"),
            Column("test_accuracy", "test acc", percent),
            Column("train_seconds", "s per trial", decimal(2), "mean training time of a trial"),
            Column("epochs", "steps", decimal(1), "mean number until it stopped: epochs, rounds …"),
        ],
        [
            [
                r.config,
                r.method,
                r.features,
                r.features // r.layers,
                r.accuracy.value,
                r.seconds,
                r.epochs,
            ]
            for r in analysis.cells.values()
        ],
        "Times depend on the machine and on what ran beside a trial.",
    )


def retained_table(analysis: Analysis) -> Table:
    """How much of the accuracy above chance a config keeps."""
    return Table(
        Section.RETAINED,
        "retained",
        "Information retained: share of the accuracy above chance that a layer config keeps (%)",
        [
            CONFIG,
            REPRESENTATION,
            Column("retained", "retained", percent),
            interval_column("retained"),
        ],
        [
            [config, row.first.method, row.retained.value, ends(row.retained)]
            for config, rows in analysis.ablations.items()
            for row in rows
            if row.retained
        ],
        f"(accuracy − chance) / (accuracy with all layers − chance); 95 % intervals "
        f"resample {analysis.resampled}. Representations that "
        "are not above chance with all layers are left out.",
    )


def stability_table(analysis: Analysis) -> Table:
    """How much the seed matters."""
    return Table(
        Section.STABILITY,
        "stability",
        "Test accuracy over seeds (%)",
        [
            CONFIG,
            REPRESENTATION,
            Column("mean", "mean", percent),
            Column("std", "std", percent, "sample standard deviation"),
            Column("lowest", "lowest", percent),
            Column("highest", "highest", percent),
            Column("agreement", "agreement", percent, "two seeds predict the same class"),
        ],
        [
            [
                r.config,
                r.method,
                r.accuracy.value,
                r.std,
                float(r.test.min()),
                float(r.test.max()),
                r.agreement,
            ]
            for r in analysis.cells.values()
        ],
        "Agreement is the share of test adapters to which two seeds give the same class.",
    )


def calibration_table(analysis: Analysis) -> Table:
    """How far confidence is from accuracy."""
    return Table(
        Section.CALIBRATION,
        "calibration",
        "Calibration on test, mean over seeds",
        [
            CONFIG,
            REPRESENTATION,
            Column("ece", "ECE (%)", percent, "expected calibration error, 15 bins"),
            Column("log_loss", "log loss", decimal(3), "nats"),
        ],
        [[r.config, r.method, r.ece, r.log_loss] for r in analysis.cells.values()],
    )


def missing_table(analysis: Analysis) -> Table:
    """What the grid asks for and is not in this report."""
    run = analysis.run
    rows: list[list[Value]] = []
    for name, configs in run.sweep.grid.groups.items():
        for method in run.sweep.grid.by_method:
            cells = [(c, method) for c in configs if method in run.sweep.grid.methods_of(c)]
            incomplete = {cell for cell in cells if run.missing(cell)}
            if not incomplete:
                continue
            missing = sum(len(run.missing(cell)) for cell in incomplete)
            failed = sum(key.cell in incomplete for key in run.failed)
            finished = sum(len(run.sweep.grid.keys_of(cell)) for cell in incomplete) - missing
            many = f" ({len(incomplete)} of {len(cells)} configs)" if family_of(configs[0]) else ""
            rows.append([name + many, method, finished, missing - failed, failed])
    return Table(
        Section.MISSING,
        "missing",
        "Left out of this report: not all of their trials are finished",
        [
            CONFIG,
            REPRESENTATION,
            Column("finished", "seeds finished"),
            Column("to_do", "to do"),
            Column("failed", "failed"),
        ],
        rows,
    )
