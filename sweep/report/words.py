"""What the numbers of a run say, in sentences."""

from __future__ import annotations

from lorasweep.features.layers.families import WITHOUT_TOP, noun_of, without_count

from .analysis import REFERENCE, Analysis
from .cells import Ablation, Estimate, Tested
from .contrasts import Contrast
from .family_results import FamilyResults
from .tables import percent

_MOST_LISTED, _FIRST_LISTED = 12, 8


def findings(analysis: Analysis) -> list[str]:
    """The report's first paragraphs; empty if no cell is complete."""
    if not analysis.run.complete:
        return []
    tested = analysis.tests_differences
    return [
        *(_best(analysis, config) for config in analysis.configs),
        *_at_chance(analysis),
        *(_contrasts(config, rows) for config, rows in analysis.contrasts.items() if tested),
        *(_drop(config, rows) for config, rows in analysis.ablations.items() if tested),
        *(_where(analysis, of) for of in analysis.families.values() if of.family != WITHOUT_TOP),
        *_without(analysis),
        _caution(analysis),
    ]


def listed(names: list[str]) -> str:
    """a, b and c; of more than a dozen, the first ones and how many more there are."""
    if len(names) > _MOST_LISTED:
        names = [*names[:_FIRST_LISTED], f"{len(names) - _FIRST_LISTED} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def shown(estimate: Estimate) -> str:
    """12.3 % (95 % interval 10.0 to 14.5)."""
    low, high = percent(estimate.low), percent(estimate.high)
    return f"{percent(estimate.value)} % (95 % interval {low} to {high})"


def _best(analysis: Analysis, config: str) -> str:
    method = analysis.best_by_validation(config)
    best = analysis.cells[config, method]
    text = (
        f"{config}: {method} is the best by validation; its test accuracy is "
        f"{shown(best.accuracy)}, chance being {percent(analysis.chance)} %."
    )
    if tie := analysis.tie(config):
        text += f" It is {tie}."
    highest = [r for r in analysis.best(config) if r is not best]
    if highest and highest[0].accuracy.value > best.accuracy.value:
        verb = "has" if len(highest) == 1 else "have"
        names = listed([result.method for result in highest])
        text += f" The highest {verb} {names}, {shown(highest[0].accuracy)}."
    rows = analysis.comparisons[config] if analysis.tests_differences else []
    certain = [row for row in rows if row.distinguishable]
    for words, chosen in (
        ("Not distinguishable from it", [row for row in rows if not row.distinguishable]),
        ("Distinguishably lower", [row for row in certain if row.test.difference > 0]),
        ("Distinguishably higher", [row for row in certain if row.test.difference < 0]),
    ):
        if chosen:
            text += f" {words}: {listed([row.second.method for row in chosen])}."
    return text


def _contrasts(config: str, rows: list[tuple[Contrast, Tested]]) -> str:
    """What every contrast comes to, by the best row of either kind."""
    said = [
        f"{contrast.question}: {_points(tested.test.difference)} percentage points "
        f"({tested.first.method} − {tested.second.method}"
        f"{'' if tested.distinguishable else '; not distinguishable'})"
        for contrast, tested in rows
    ]
    return f"{config}, the best of a kind by validation against that of another. {'. '.join(said)}."


def _where(analysis: Analysis, found: FamilyResults) -> str:
    """Which member of a family is the best by validation, and how many say anything."""
    method, results = next(iter(found.results.items()))
    noun = noun_of(found.family)
    ranks = found.ranks(method)
    best = results[min(ranks, key=lambda config: ranks[config])]
    above = sum(analysis.above_chance(result) or False for result in results.values())
    said = f" With {method}, {above} of {len(results)} {noun}s alone are above chance."
    name = next(member.name for member in found.members if member.config == best.config)
    return (
        f"{found.family}: by validation {method} on {name} alone is the best; its test accuracy is "
        f"{shown(best.accuracy)}.{said if analysis.tests_differences else ''}"
    )


def _without(analysis: Analysis) -> list[str]:
    """What is left of the best method, by validation with all that remains, at the largest K."""
    found = analysis.families.get(WITHOUT_TOP)
    if found is None:
        return []
    method, results = next(iter(found.results.items()))
    config = max(results, key=lambda config: without_count(config) or 0)
    text = (
        f"{method} without its {without_count(config)} best layers (by validation alone): test "
        f"accuracy {shown(results[config].accuracy)}"
    )
    whole = analysis.cells.get((REFERENCE, method))
    return [text + (f", with all layers {shown(whole.accuracy)}." if whole else ".")]


def _at_chance(analysis: Analysis) -> list[str]:
    found = []
    for config in analysis.configs:
        names = [r.method for r in analysis.ranked(config) if analysis.above_chance(r) is False]
        if names:
            verb = "is" if len(names) == 1 else "are"
            found.append(
                f"{config}: {listed(names)} {verb} not above chance (guessing gives "
                f"{percent(analysis.chance)} %, always answering the commonest class "
                f"{percent(analysis.majority)} %)."
            )
    return found


def _drop(config: str, rows: list[Ablation]) -> str:
    ordered = sorted(rows, key=lambda row: -row.test.difference)
    certain = [row for row in ordered if row.distinguishable]
    unclear = [row.first.method for row in ordered if not row.distinguishable]
    if not certain:
        return (
            f"From {REFERENCE} to {config}: no representation's test accuracy changes "
            "distinguishably."
        )
    most, least = certain[0], certain[-1]
    text = (
        f"From {REFERENCE} to {config}: {len(certain)} of {len(rows)} representations change "
        f"distinguishably, by {_points(-most.test.difference)} ({most.first.method})"
    )
    if least is not most:
        text += f" to {_points(-least.test.difference)} ({least.first.method})"
    text += " percentage points of test accuracy."
    if unclear:
        text += f" Not distinguishable from no change: {listed(unclear)}."
    return text


def _points(difference: float) -> str:
    """A difference of shares as −20.3."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def _caution(analysis: Analysis) -> str:
    run = analysis.run
    seeds, n_test = len(run.sweep.grid.seeds), run.sizes["test"]
    if run.split.folds:
        return _folds_caution(analysis)
    unseeded = (
        " Rows that no seed changes are told from each other by the test adapters alone."
        if run.sweep.grid.unseeded
        else ""
    )
    if seeds == 1:
        return (
            f"There is one seed and one split with {n_test} test adapters. Intervals resample the "
            "adapters alone: what another seed or another training set would give is not known, "
            f"and nothing that a seed decides is called distinguishable.{unseeded}"
        )
    text = f"All seeds share one split with {n_test} test adapters."
    end = "Neither says what another training set would give."
    if run.split.per_seed:
        text = f"Every seed has a split of its own, with about {n_test} test adapters."
        end = "The test over seeds is corrected for training sets that overlap."
    text += (
        " Intervals resample seeds and test adapters together. “Distinguishable” means p < 0.05 "
        f"after Holm's correction, both so and over seeds alone. {end}{unseeded}"
    )
    if seeds < 5:
        text += f" With {seeds} seeds, what the seed does is hardly known."
    return text


def _folds_caution(analysis: Analysis) -> str:
    """Explain tests and intervals where a seed has several folds."""
    run = analysis.run
    text = (
        f"Every seed tests each of {len(run.labels)} adapters once, in {len(run.split.folds)} "
        f"folds. Intervals resample {analysis.resampled}."
    )
    if not analysis.tests_differences:
        return text
    return (
        f"{text} “Distinguishable” means p < 0.05 after Holm's correction, both so and by a t-test "
        f"over {analysis.paired_by}, corrected for training sets that overlap."
    )
