"""One order of methods: validation accuracy, then log loss, then fewer features; ties are said."""

import itertools

from lorasweep.trainables.store.standing import (
    Standing,
    best_of,
    in_order,
    tie_in_words,
    tied_with_best,
)


def test_the_order_is_by_accuracy_then_loss_then_features():
    ordered = {
        "best": Standing(0.9, 0.3, 10),
        "more features": Standing(0.9, 0.3, 20),
        "features not known": Standing(0.9, 0.3),
        "worse loss": Standing(0.9, 0.4, 5),
        "loss not known": Standing(0.9, None, 5),
        "less accurate": Standing(0.8, 0.1, 1),
        "not known": Standing(None),
    }
    for names in itertools.permutations(ordered):
        assert in_order({name: ordered[name] for name in names}) == list(ordered)
    assert tied_with_best(ordered) == list(ordered)[1:5]
    assert best_of({"b": Standing(0.5, 0.1, 3), "a": Standing(0.5, 0.1, 3)}) == "b"


def test_last_bits_are_no_difference():
    third = sum([0.1] * 3) / 3
    assert third != 0.1
    assert Standing(third, 0.5, 1).order == Standing(0.1, 0.5, 1).order


def test_ties_are_said_with_how_they_were_broken():
    best = Standing(0.9, 0.3, 10)
    assert tie_in_words({"a": best, "b": Standing(0.8, 0.1, 1)}) == ""
    assert tie_in_words({"a": best, "b": Standing(0.9, 0.4, 1)}) == (
        "tied with b in validation accuracy, chosen by validation log loss"
    )
    assert tie_in_words({"a": best, "b": Standing(0.9, 0.3, 11), "c": Standing(0.9, 0.4, 1)}) == (
        "tied with 2 others in validation accuracy, "
        "chosen by validation log loss and fewer features"
    )
    assert tie_in_words({"a": best, "b": best}).endswith("chosen as the first of equals")


def test_the_standing_of_records_is_a_mean_over_fits():
    def record(accuracy, loss):
        return {"metrics": {"val_acc": accuracy, "val_log_loss": loss}, "feature_dim": 7}

    assert Standing.of_records([record(0.5, 1.0), record(1.0, 2.0)]) == (0.75, 1.5, 7)
    assert Standing.of_records([record(0.5, 1.0), {"metrics": {"val_acc": 1.0}}])[1] is None
