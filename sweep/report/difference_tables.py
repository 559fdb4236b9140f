"""The report's tables of differences: ablations, comparisons, ranks."""

from __future__ import annotations

from collections.abc import Sequence

from .analysis import REFERENCE, Analysis
from .cells import Tested
from .columns import REPRESENTATION, ends, interval_column
from .sections import Section
from .statistics import ALPHA
from .tables import (
    Column,
    Table,
    Value,
    decimal,
    p_value,
    percent,
    signed_percent,
    yes_no,
)


def _tests_columns(analysis: Analysis) -> list[Column]:
    over_seeds = f"paired t-test over {analysis.paired_by}{analysis.seeds_hold_for}"
    return [
        Column("difference", "difference", signed_percent, "mean over seeds, percentage points"),
        interval_column("difference"),
        Column("p_bootstrap", "p", p_value, "hierarchical bootstrap: new seeds and new adapters"),
        Column("p_bootstrap_holm", "p, Holm", p_value, "the same, adjusted for the whole table"),
        Column("p_seeds", "p, seeds", p_value, over_seeds),
        Column("p_seeds_holm", "p, seeds, Holm", p_value, "the same, adjusted for the whole table"),
        Column(
            "p_wilcoxon",
            "p, Wilcoxon",
            p_value,
            "signed-rank test over seeds that share a split, not adjusted",
        ),
        Column("cohens_d", "d", decimal(1), "Cohen's d of the paired differences over seeds"),
        Column("distinguishable", "distinguishable", yes_no, f"both p with Holm < {ALPHA}"),
    ]


def _note(analysis: Analysis) -> str:
    if not analysis.tests_differences:
        return f"Nothing is tested. {analysis.groups_notice}"
    if analysis.run.split.folds:
        hold = f"compare by {analysis.paired_by}, corrected for training sets that overlap"
    elif analysis.run.split.per_seed:
        hold = (
            "vary the seed and with it the split; they are corrected for training sets that overlap"
        )
    else:
        hold = "vary the seed alone: they hold for this test split"
    return (
        "p resamples seeds and test adapters together (hierarchical bootstrap): would the "
        f"difference show again with new seeds and new adapters? “seeds” tests {hold}. With few "
        "seeds the first is too sure, with few adapters the second: what is distinguishable passes "
        "both. Between two rows that no seed changes, the first decides alone."
    )


def _tests(tested: Sequence[Tested]) -> list[list[Value]]:
    return [
        [
            t.test.difference,
            (t.test.low, t.test.high),
            t.test.p_adapters,
            t.holm_adapters,
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
    rows, columns = analysis.ablations[config], _tests_columns(analysis)
    return Table(
        Section.ABLATION,
        f"ablation_{config}",
        f"Drop in test accuracy from {REFERENCE} to {config} (percentage points)",
        [
            REPRESENTATION,
            Column(REFERENCE, REFERENCE, percent),
            Column(config, config, percent),
            *columns[:2],
            Column("relative", "relative", signed_percent, "share of the accuracy with all layers"),
            interval_column("relative", "relative, 95 %"),
            *columns[2:],
        ],
        [
            [
                row.first.method,
                row.first.accuracy.value,
                row.second.accuracy.value,
                *tests[:2],
                row.relative.value if row.relative else None,
                ends(row.relative),
                *tests[2:],
            ]
            for row, tests in zip(rows, _tests(rows))
        ],
        f"{_note(analysis)} Relative drops stand where the accuracy with all layers is above "
        "chance.",
    )


def comparison_table(analysis: Analysis, config: str) -> Table:
    """A config's best representation by validation with every other."""
    rows = analysis.comparisons[config]
    return Table(
        Section.RANKING,
        f"comparisons_{config}",
        f"The best representation by validation with every other by test accuracy, {config}: "
        "first − second",
        [Column("first", "first"), Column("second", "second"), *_tests_columns(analysis)],
        [[row.first.method, row.second.method, *tests] for row, tests in zip(rows, _tests(rows))],
        f"{_note(analysis)} Which is the best was seen in validation accuracies alone.",
    )


def contrast_table(analysis: Analysis, config: str) -> Table:
    """What a config's contrasts come to."""
    rows = analysis.contrasts.get(config, [])
    tests = _tests([tested for _, tested in rows])
    return Table(
        Section.CONTRASTS,
        f"contrasts_{config}",
        f"One kind of representation or classifier against another, {config}: first − second",
        [
            Column("question", "question"),
            Column("first", "first"),
            Column("second", "second"),
            Column("first_accuracy", "first, test acc", percent),
            Column("second_accuracy", "second, test acc", percent),
            *_tests_columns(analysis),
        ],
        [
            [
                contrast.question,
                tested.first.method,
                tested.second.method,
                tested.first.accuracy.value,
                tested.second.accuracy.value,
                *cells,
            ]
            for (contrast, tested), cells in zip(rows, tests)
        ],
        f"Of either kind the best by validation is taken. {_note(analysis)}",
    )
