"""What stands in the tables of one run's report."""

from __future__ import annotations

from collections.abc import Sequence

from .analysis import Analysis, Estimate, Tested
from .class_tables import class_count_table, class_drop_table, class_table, confusion_table
from .statistics import ALPHA
from .tables import (
    Column,
    Table,
    Value,
    decimal,
    interval_of,
    p_value,
    percent,
    signed_percent,
    yes_no,
)

_CONFIG = Column("config", "config")
_REPRESENTATION = Column("representation", "representation")


def run_tables(analysis: Analysis) -> list[Table]:
    """Every table of a report that has something in it."""
    tables = [
        ranking_table(analysis),
        *(ablation_table(analysis, config) for config in analysis.ablations),
        *(comparison_table(analysis, config) for config in analysis.configs),
        rank_table(analysis),
        split_table(analysis),
        *(class_table(analysis, config) for config in analysis.configs),
        *(class_drop_table(analysis, config) for config in analysis.ablations),
        cost_table(analysis),
        retained_table(analysis),
        stability_table(analysis),
        calibration_table(analysis),
        *(confusion_table(analysis, config) for config in analysis.configs),
        class_count_table(analysis),
        missing_table(analysis),
    ]
    return [table for table in tables if table.rows]


def _interval(name: str, heading: str = "95 % interval", explain: str = "") -> Column:
    return Column(name, heading, interval_of(percent), explain or "95 % interval", interval=True)


def _ends(estimate: Estimate | None) -> Value:
    return (estimate.low, estimate.high) if estimate else None


def ranking_table(analysis: Analysis) -> Table:
    """Test accuracy and macro F1 of every pair, best first within its config."""
    return Table(
        "ranking",
        "Test accuracy and macro F1 (%), best first",
        [
            _CONFIG,
            Column("rank", "rank"),
            _REPRESENTATION,
            Column("features", "features", explain="width of the classifier's input"),
            Column("test_accuracy", "test acc", percent),
            _interval("test_accuracy", "acc, 95 %"),
            _interval(
                "test_accuracy_seeds", "seeds only", "t interval over seeds: this split only"
            ),
            Column("macro_f1", "macro F1", percent),
            _interval("macro_f1", "F1, 95 %"),
            Column("above_chance", "above chance", yes_no, "both intervals lie above both"),
        ],
        [
            [
                config,
                rank,
                r.representation,
                r.features,
                r.accuracy.value,
                _ends(r.accuracy),
                _ends(r.accuracy_seeds),
                r.macro_f1.value,
                _ends(r.macro_f1),
                analysis.above_chance(r),
            ]
            for config in analysis.configs
            for rank, r in enumerate(analysis.ranked(config), 1)
        ],
        f"Chance is {percent(analysis.chance)} %; always answering the commonest class gives "
        f"{percent(analysis.majority)} %, and only what lies above both is above chance. 95 % "
        f"intervals resample {analysis.resampled}; "
        "“seeds only” is the t interval over seeds, which holds for this one test split.",
    )


_TESTS = [
    Column("difference", "difference", signed_percent, "mean over seeds, percentage points"),
    _interval("difference"),
    Column("p_bootstrap", "p", p_value, "hierarchical bootstrap: new seeds and new adapters"),
    Column("p_bootstrap_holm", "p, Holm", p_value, "the same, adjusted for the whole table"),
    Column("p_seeds", "p, seeds", p_value, "paired t-test over seeds: this test split only"),
    Column("p_seeds_holm", "p, seeds, Holm", p_value, "the same, adjusted for the whole table"),
    Column("p_wilcoxon", "p, Wilcoxon", p_value, "signed-rank test over seeds, not adjusted"),
    Column("cohens_d", "d", decimal(1), "Cohen's d of the paired differences over seeds"),
    Column("distinguishable", "distinguishable", yes_no, f"p, Holm and p, seeds, Holm < {ALPHA}"),
]
_TEST_NOTE = (
    "p resamples seeds and test adapters together (hierarchical bootstrap): would the difference "
    "show again with new seeds and new adapters? “seeds” tests vary the seed alone: they hold for "
    "this test split. With few seeds the first is too sure, with few adapters the second: what is "
    "distinguishable passes both."
)


def _tests(tested: Sequence[Tested]) -> list[list[Value]]:
    return [
        [
            t.test.difference,
            (t.test.low, t.test.high),
            t.test.p_bootstrap,
            t.holm_bootstrap,
            t.test.p_seeds,
            t.holm_seeds,
            t.test.p_wilcoxon,
            t.test.effect,
            t.distinguishable,
        ]
        for t in tested
    ]


def ablation_table(analysis: Analysis, config: str) -> Table:
    """What every representation loses from all layers to another config."""
    rows = analysis.ablations[config]
    return Table(
        f"ablation_{config}",
        f"Drop in test accuracy from all_layers to {config} (percentage points)",
        [
            _REPRESENTATION,
            Column("all_layers", "all_layers", percent),
            Column(config, config, percent),
            *_TESTS[:2],
            Column("relative", "relative", signed_percent, "share of the accuracy with all layers"),
            _interval("relative", "relative, 95 %"),
            *_TESTS[2:],
        ],
        [
            [
                row.first.representation,
                row.first.accuracy.value,
                row.second.accuracy.value,
                *tests[:2],
                row.relative.value if row.relative else None,
                _ends(row.relative),
                *tests[2:],
            ]
            for row, tests in zip(rows, _tests(rows))
        ],
        f"{_TEST_NOTE} Relative drops stand where the accuracy with all layers is above chance.",
    )


def comparison_table(analysis: Analysis, config: str) -> Table:
    """Every two representations of a config."""
    rows = analysis.comparisons[config]
    return Table(
        f"comparisons_{config}",
        f"Every two representations compared by test accuracy, {config}: first − second",
        [Column("first", "first"), Column("second", "second"), *_TESTS],
        [
            [row.first.representation, row.second.representation, *tests]
            for row, tests in zip(rows, _tests(rows))
        ],
        _TEST_NOTE,
    )


def rank_table(analysis: Analysis) -> Table:
    """Average ranks over seeds."""
    rows: list[list[Value]] = []
    for config, ranking in analysis.rankings.items():
        if ranking is not None:
            ranked = zip(ranking.ranks, analysis.of_config(config))
            rows += [
                [config, r.representation, float(rank), ranking.critical_difference,
                 ranking.p_friedman]
                for rank, r in sorted(ranked, key=lambda item: item[0])
            ]  # fmt: skip
    return Table(
        "ranks",
        "Average rank over seeds (1 is best)",
        [
            _CONFIG,
            _REPRESENTATION,
            Column("mean_rank", "mean rank", decimal(2)),
            Column("critical_difference", "critical difference", decimal(2), "Nemenyi, α = 0.05"),
            Column("p_friedman", "p, Friedman", p_value, "that all rank alike"),
        ],
        rows,
        "Ranks less than the critical difference apart are not distinguishable on this test split; "
        "the blocks of the test are seeds, not datasets.",
    )


def split_table(analysis: Analysis) -> Table:
    """Train, validation and test accuracy side by side."""
    return Table(
        "splits",
        "Accuracy on train, validation and test (%), mean over seeds",
        [
            _CONFIG,
            _REPRESENTATION,
            Column("train_accuracy", "train", percent),
            Column("val_accuracy", "validation", percent),
            Column("test_accuracy", "test", percent),
            Column("gap", "train − test", signed_percent, "overfitting gap, percentage points"),
        ],
        [
            [r.config, r.representation, r.train_acc, r.val_acc, r.accuracy.value, r.gap]
            for r in analysis.pairs.values()
        ],
    )


def cost_table(analysis: Analysis) -> Table:
    """Accuracy beside width and training time."""
    return Table(
        "cost",
        "Width of the features and training time",
        [
            _CONFIG,
            _REPRESENTATION,
            Column("features", "features"),
            Column("values_per_tensor", "per tensor", explain="values per layer tensor"),
            Column("test_accuracy", "test acc", percent),
            Column("train_seconds", "s per trial", decimal(2), "mean training time of a trial"),
            Column("epochs", "epochs", decimal(1), "mean number of epochs until it stopped"),
        ],
        [
            [
                r.config,
                r.representation,
                r.features,
                r.features // r.layers,
                r.accuracy.value,
                r.seconds,
                r.epochs,
            ]
            for r in analysis.pairs.values()
        ],
        "Times depend on the machine and on what ran beside a trial.",
    )


def retained_table(analysis: Analysis) -> Table:
    """How much of the accuracy above chance a config keeps."""
    return Table(
        "retained",
        "Information retained: share of the accuracy above chance that a layer config keeps (%)",
        [
            _CONFIG,
            _REPRESENTATION,
            Column("retained", "retained", percent),
            _interval("retained"),
        ],
        [
            [config, row.first.representation, row.retained.value, _ends(row.retained)]
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
        "stability",
        "Test accuracy over seeds (%)",
        [
            _CONFIG,
            _REPRESENTATION,
            Column("mean", "mean", percent),
            Column("std", "std", percent, "sample standard deviation"),
            Column("lowest", "lowest", percent),
            Column("highest", "highest", percent),
            Column("agreement", "agreement", percent, "two seeds predict the same class"),
        ],
        [
            [
                r.config,
                r.representation,
                r.accuracy.value,
                r.std,
                float(r.test.min()),
                float(r.test.max()),
                r.agreement,
            ]
            for r in analysis.pairs.values()
        ],
        "Agreement is the share of test adapters to which two seeds give the same class.",
    )


def calibration_table(analysis: Analysis) -> Table:
    """How far confidence is from accuracy."""
    return Table(
        "calibration",
        "Calibration on test, mean over seeds",
        [
            _CONFIG,
            _REPRESENTATION,
            Column("ece", "ECE (%)", percent, "expected calibration error, 15 bins"),
            Column("log_loss", "log loss", decimal(3), "nats"),
        ],
        [[r.config, r.representation, r.ece, r.log_loss] for r in analysis.pairs.values()],
    )


def missing_table(analysis: Analysis) -> Table:
    """What the grid asks for and is not in this report."""
    run = analysis.run
    rows: list[list[Value]] = []
    for pair in run.sweep.grid.pairs:
        missing = run.missing(pair)
        if missing:
            failed = [key.seed for key in run.failed if key.pair == pair]
            finished = len(run.sweep.grid.seeds) - len(missing)
            rows.append([*pair, finished, len(missing) - len(failed), len(failed)])
    return Table(
        "missing",
        "Left out of this report: not all of their seeds are finished",
        [
            _CONFIG,
            _REPRESENTATION,
            Column("finished", "seeds finished"),
            Column("to_do", "to do"),
            Column("failed", "failed"),
        ],
        rows,
    )
