"""Every number of a report, recomputed from the records by another path."""

import csv
import itertools
import json
from statistics import fmean, stdev

import datasets
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from lorasweep.sweep.report.analysis import Analysis
from lorasweep.sweep.report.runs import load_run

from .conftest import ZOO

CONFIGS = ("all_layers", "visual_only")
NAMES = ("stats", "matrix_norms", "info_theoretic")
SEEDS = (42, 43, 44, 45)


@pytest.fixture(scope="module")
def tables(zoo_report):
    """Table name -> its rows as CSV holds them."""
    found = {}
    for path in (zoo_report / "tables").glob("*.csv"):
        with path.open(newline="") as file:
            found[path.stem] = list(csv.DictReader(file))
    return found


@pytest.fixture(scope="module")
def records(zoo_run):
    """(config, representation) -> records by seed."""
    return {
        (config, name): [
            json.loads((zoo_run / f"checkpoints/{config}/{name}/seed-{seed}.json").read_text())
            for seed in SEEDS
        ]
        for config in CONFIGS
        for name in NAMES
    }


@pytest.fixture(scope="module")
def truth():
    """True classes of the splits, cut by `datasets` itself."""
    labels = datasets.load_from_disk(str(ZOO))["category_label"][:]
    whole = datasets.Dataset.from_dict({"category_label": labels})  # a copy: cuts leave files
    first = whole.train_test_split(test_size=0.3, seed=42)
    second = first["test"].train_test_split(test_size=0.67, seed=42)
    parts = {"train": first["train"], "val": second["train"], "test": second["test"]}
    return {name: np.array(part["category_label"]) for name, part in parts.items()}


@pytest.fixture(scope="module")
def draws(records, truth):
    """2,000 experiments with other seeds and test adapters, drawn one by one."""
    rng = np.random.default_rng(7)
    hits = {
        pair: np.array([r["predictions"]["test"] for r in of]) == truth["test"]
        for pair, of in records.items()
    }
    n = len(truth["test"])
    values = {pair: [] for pair in hits}
    for _ in range(2000):
        seeds, adapters = rng.integers(0, len(SEEDS), len(SEEDS)), rng.integers(0, n, n)
        for pair, hit in hits.items():
            values[pair].append(hit[np.ix_(seeds, adapters)].mean())
    return {pair: np.array(v) for pair, v in values.items()}


def number(row, name):
    return float(row[name])


def ends(row, name):
    return float(row[f"{name}_low"]), float(row[f"{name}_high"])


def accuracies(records, pair, truth):
    return np.array(
        [metrics.accuracy_score(truth, r["predictions"]["test"]) for r in records[pair]]
    )


def holm(p_values):
    """By the definition: reject while p ≤ α/(m − i); the adjusted p is the least such α."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = {}
    for i, at in enumerate(order):
        adjusted[at] = min(1, max((len(p_values) - j) * p_values[order[j]] for j in range(i + 1)))
    return [adjusted[i] for i in range(len(p_values))]


def macro_f1(truth, predicted):
    """As scikit-learn has it, which takes milliseconds for each."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (truth, predicted), 1)
    seen = counts.sum(0) + counts.sum(1)
    return (2 * counts.diagonal()[seen > 0] / seen[seen > 0]).mean()


def test_the_ranking(tables, records, truth, draws):
    rows = tables["ranking"]
    assert [(r["config"], r["rank"]) for r in rows] == [
        (c, str(i)) for c in CONFIGS for i in (1, 2, 3)
    ]
    for config in CONFIGS:
        shown = [number(r, "test_accuracy") for r in rows if r["config"] == config]
        assert shown == sorted(shown, reverse=True)
    rng = np.random.default_rng(3)
    for row in rows:
        pair = row["config"], row["representation"]
        accuracy = accuracies(records, pair, truth["test"])
        assert number(row, "test_accuracy") == pytest.approx(accuracy.mean())
        expected = stats.t.interval(0.95, 3, accuracy.mean(), stats.sem(accuracy))
        assert ends(row, "test_accuracy_seeds") == pytest.approx(np.clip(expected, 0, 1))
        low, high = np.percentile(draws[pair], [2.5, 97.5])
        n, hits = len(truth["test"]), accuracy.mean() * len(truth["test"])
        if min(hits, n - hits) < 8:  # few are wrong: at least as wide as the exact interval
            low = min(low, stats.beta.ppf(0.025, hits, n - hits + 1))
            high = max(high, stats.beta.ppf(0.975, hits + 1, n - hits))
        assert ends(row, "test_accuracy") == pytest.approx((low, high), abs=0.02)
        predictions = np.array([r["predictions"]["test"] for r in records[pair]])
        macro = [metrics.f1_score(truth["test"], p, average="macro") for p in predictions]
        assert number(row, "macro_f1") == pytest.approx(fmean(macro))
        assert macro == pytest.approx([macro_f1(truth["test"], p) for p in predictions])
        resampled = []
        for _ in range(300):
            at = rng.integers(0, len(truth["test"]), len(truth["test"]))
            seeds = rng.integers(0, 4, 4)
            resampled.append(fmean(macro_f1(truth["test"][at], predictions[s][at]) for s in seeds))
        assert ends(row, "macro_f1") == pytest.approx(
            np.percentile(resampled, [2.5, 97.5]), abs=0.03
        )
        commonest = np.bincount(truth["test"]).max() / len(truth["test"])
        low = min(ends(row, "test_accuracy")[0], ends(row, "test_accuracy_seeds")[0])
        above = low > max(0.1, commonest)
        assert row["above_chance"] == str(above)


def check_tests(rows, pairs, records, truth, draws):
    """The columns of paired tests, for rows that compare pairs in this order."""
    tested = []
    for row, (a, b) in zip(rows, pairs, strict=True):
        first, second = (accuracies(records, pair, truth["test"]) for pair in (a, b))
        assert number(row, "difference") == pytest.approx(first.mean() - second.mean())
        difference = draws[a] - draws[b]
        assert ends(row, "difference") == pytest.approx(
            np.percentile(difference, [2.5, 97.5]), abs=0.02
        )
        expected = min(1, 2 * min((difference <= 0).mean(), (difference >= 0).mean()))
        noise = 2 * np.sqrt(expected / 2 * (1 - expected / 2) / len(difference))
        assert number(row, "p_bootstrap") == pytest.approx(expected, abs=0.005 + 5 * noise)
        t = stats.ttest_rel(first, second)
        assert number(row, "p_seeds") == pytest.approx(t.pvalue)
        moved = (first - second)[np.abs(first - second) > 1e-9].round(9)
        assert number(row, "p_wilcoxon") == pytest.approx(stats.wilcoxon(moved).pvalue)
        d = (first - second).mean() / stdev(first - second)
        assert number(row, "cohens_d") == pytest.approx(d)
        tested.append((number(row, "p_bootstrap"), t.pvalue))
    for column, p_values in zip(("p_bootstrap", "p_seeds"), zip(*tested)):
        adjusted = [number(row, f"{column}_holm") for row in rows]
        assert adjusted == pytest.approx(holm(p_values))
    for row in rows:
        both = max(number(row, "p_bootstrap_holm"), number(row, "p_seeds_holm"))
        assert row["distinguishable"] == str(both < 0.05)


def test_the_ablation(tables, records, truth, draws):
    rows = tables["ablation_visual_only"]
    assert [row["representation"] for row in rows] == list(NAMES)
    pairs = [(("all_layers", name), ("visual_only", name)) for name in NAMES]
    check_tests(rows, pairs, records, truth, draws)
    for row, (a, b) in zip(rows, pairs):
        whole, part = (accuracies(records, pair, truth["test"]).mean() for pair in (a, b))
        assert number(row, "all_layers") == pytest.approx(whole)
        assert number(row, "visual_only") == pytest.approx(part)
        if a[1] == "info_theoretic":  # at chance
            assert row["relative"] == row["relative_low"] == row["relative_high"] == ""
            continue
        assert number(row, "relative") == pytest.approx((whole - part) / whole)
        expected = np.percentile(1 - draws[b] / draws[a], [2.5, 97.5])
        assert ends(row, "relative") == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_best_by_validation_with_every_other(tables, records, truth, draws, config):
    rows = tables[f"comparisons_{config}"]
    validation = {
        name: fmean(record["metrics"]["val_acc"] for record in records[config, name])
        for name in NAMES
    }
    best = max(NAMES, key=validation.__getitem__)
    pairs = [((config, row["first"]), (config, row["second"])) for row in rows]
    assert [(a[1], b[1]) for a, b in pairs] == [(best, name) for name in NAMES if name != best]
    check_tests(rows, pairs, records, truth, draws)


def test_splits_cost_calibration_and_stability(tables, records, truth):
    def by_cell(name):
        return {(row["config"], row["representation"]): row for row in tables[name]}

    for pair, of in records.items():
        scores = [r["metrics"] for r in of]
        splits = by_cell("splits")[pair]
        for split in ("train", "val", "test"):
            expected = fmean(s[f"{split}_acc"] for s in scores)
            assert number(splits, f"{split}_accuracy") == pytest.approx(expected)
        gap = fmean(s["train_acc"] - s["test_acc"] for s in scores)
        assert number(splits, "gap") == pytest.approx(gap)
        val = fmean(metrics.accuracy_score(truth["val"], r["predictions"]["val"]) for r in of)
        assert number(splits, "val_accuracy") == pytest.approx(val)

        cost = by_cell("cost")[pair]
        assert int(cost["features"]) == of[0]["feature_dim"]
        assert int(cost["values_per_tensor"]) * of[0]["num_layers"] == of[0]["feature_dim"]
        seconds = fmean(r["timing"]["train_seconds"] for r in of)
        assert number(cost, "train_seconds") == pytest.approx(seconds)
        epochs = fmean(len(r["curves"]["val_acc_history"]) for r in of)
        assert number(cost, "epochs") == pytest.approx(epochs)

        calibration = by_cell("calibration")[pair]
        errors = []
        for record in of:
            bins = record["calibration"]["test"]
            filled = [i for i, n in enumerate(bins["count"]) if n]
            errors.append(
                sum(
                    bins["count"][i] * abs(bins["accuracy"][i] - bins["confidence"][i])
                    for i in filled
                )
                / len(truth["test"])
            )
        assert number(calibration, "ece") == pytest.approx(fmean(errors))
        loss = fmean(s["test_log_loss"] for s in scores)
        assert number(calibration, "log_loss") == pytest.approx(loss)

        stability = by_cell("stability")[pair]
        accuracy = list(accuracies(records, pair, truth["test"]))
        assert number(stability, "mean") == pytest.approx(fmean(accuracy))
        assert number(stability, "std") == pytest.approx(stdev(accuracy))
        assert number(stability, "lowest") == pytest.approx(min(accuracy))
        assert number(stability, "highest") == pytest.approx(max(accuracy))
        alike = [
            fmean(x == y for x, y in zip(a["predictions"]["test"], b["predictions"]["test"]))
            for a, b in itertools.combinations(of, 2)
        ]
        assert number(stability, "agreement") == pytest.approx(fmean(alike))


def test_what_is_retained(tables, records, truth, draws):
    rows = {row["representation"]: row for row in tables["retained"]}
    above = {
        r["representation"] for r in tables["ranking"]
        if r["config"] == "all_layers" and r["above_chance"] == "True"
    }  # fmt: skip
    assert set(rows) == above
    assert "matrix_norms" in above
    for name, row in rows.items():
        whole, part = (
            accuracies(records, (config, name), truth["test"]).mean() for config in CONFIGS
        )
        assert number(row, "retained") == pytest.approx((part - 0.1) / (whole - 0.1))
        ratios = (draws["visual_only", name] - 0.1) / (draws["all_layers", name] - 0.1)
        expected = np.percentile(ratios, [2.5, 97.5])
        assert ends(row, "retained") == pytest.approx(expected, abs=0.06)


def normalised(records, pair, truth):
    """Mean over seeds of scikit-learn's normalised confusion matrix."""
    return np.mean(
        [
            metrics.confusion_matrix(
                truth["test"], r["predictions"]["test"], labels=range(10), normalize="true"
            )
            for r in records[pair]
        ],
        axis=0,
    )


def test_classes(tables, records, truth, zoo_run):
    analysis = Analysis(load_run(zoo_run))
    counts = {name: np.bincount(part, minlength=10) for name, part in truth.items()}
    for i, row in enumerate(tables["class_counts"]):
        assert {name: int(row[name]) for name in counts} == {n: c[i] for n, c in counts.items()}
    for config in CONFIGS:
        for name in NAMES:
            expected = normalised(records, (config, name), truth)
            np.testing.assert_allclose(analysis.confusion((config, name)), expected)
            rows = tables[f"classes_{config}"]
            assert [number(r, name) for r in rows] == pytest.approx(np.diag(expected))
            assert [int(r["test_adapters"]) for r in rows] == counts["test"].tolist()
    for name in NAMES:
        whole, part = (np.diag(normalised(records, (c, name), truth)) for c in CONFIGS)
        shown = [number(r, name) for r in tables["class_drop_visual_only"]]
        assert shown == pytest.approx(whole - part)


def test_curves(records, truth, zoo_run):
    analysis = Analysis(load_run(zoo_run))
    for pair, of in records.items():
        curves = analysis.curves(pair, "train_loss_history")
        for row, record in zip(curves, of):
            history = record["curves"]["train_loss_history"]
            assert row[: len(history)].tolist() == history
            assert np.isnan(row[len(history) :]).all()
        expected = np.array([r["precision_recall"]["test"] for r in of])
        np.testing.assert_array_equal(analysis.precision_recall(pair), expected)
        confidence, accuracy, count = analysis.calibration(pair)
        assert count.sum() == len(SEEDS) * len(truth["test"])
        for i, n in enumerate(count):
            bins = [r["calibration"]["test"] for r in of if r["calibration"]["test"]["count"][i]]
            assert n == sum(b["count"][i] for b in bins)
            if not n:
                assert np.isnan(confidence[i])
                assert np.isnan(accuracy[i])
                continue
            for pooled, name in ((confidence, "confidence"), (accuracy, "accuracy")):
                expected = sum(b["count"][i] * b[name][i] for b in bins) / n
                assert pooled[i] == pytest.approx(expected)
