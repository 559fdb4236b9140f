"""results.json's entries and results.txt's tables, from records made up here."""

import numpy as np
import pytest

from lorasweep.sweep.store.results import format_results, mean_std, sample_std


def entry(name, val, loss, test, features=8):
    """An entry of results.json with one fit for each value."""
    found = {
        "representation": f"{name}_all_layers", "feature_dim": features, "num_layers": 2,
        "per_run_results": [{} for _ in val], "training_time_mean": 1.0,
    }  # fmt: skip
    for metric, values in {"val_acc": val, "val_log_loss": loss, "test_acc": test}.items():
        found[f"{metric}_mean"], found[f"{metric}_std"] = mean_std(values)
        found[f"{metric}_sample_std"] = sample_std(values)
    return found


def table(*entries):
    results = {
        "num_classes": 2, "dataset": "made-up", "failed": [], "all_layers_results": list(entries),
    }  # fmt: skip
    lines = format_results(results).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("---"))
    return [line.split() for line in lines[start + 1 :] if line], lines


def test_both_deviations_are_kept():
    values = [0.5, 0.7, 0.9]
    assert mean_std(values) == (pytest.approx(0.7), pytest.approx(np.std(values)))
    assert sample_std(values) == pytest.approx(np.std(values, ddof=1))
    assert sample_std([0.5]) is None
    assert sample_std([0.5, None]) is None


def test_one_fit_has_no_spread_and_several_have_the_samples():
    rows, _ = table(
        entry("stats", [0.9, 0.7], [0.1, 0.1], [0.5, 0.7]), entry("one", [0.6], [0.1], [1.0])
    )
    (stats, one) = rows
    assert stats[:3] == ["stats", "8", "2"]
    assert " ".join(stats).endswith("80.0% ± 14.1 60.0% ± 14.1 undefined 1.0")
    assert one[:3] == ["one", "8", "1"]
    assert " ".join(one).endswith("60.0% ± – 100.0% ± – undefined 1.0")


def test_the_order_is_by_validation_and_a_tie_is_said():
    low = entry("low", [0.5], [0.1], [1.0])
    sure = entry("sure", [0.9], [0.2], [0.1])
    unsure = entry("unsure", [0.9], [0.3], [0.9])
    rows, lines = table(low, unsure, sure)
    assert [row[0] for row in rows[:3]] == ["sure", "unsure", "low"]
    assert "sure is tied with unsure in validation accuracy, chosen by validation log loss" in lines
    _, lines = table(low, sure)
    assert not any("tied" in line for line in lines)
