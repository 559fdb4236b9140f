"""What a report says of importance: made-up records, so that every number is known."""

import csv

import numpy as np
import pytest

from lorasweep.features.layers.names import network_order
from lorasweep.features.representations import REPRESENTATIONS
from lorasweep.sweep.report.analysis import Analysis
from lorasweep.sweep.report.content import run_tables
from lorasweep.sweep.report.figure_catalogue import run_figures
from lorasweep.sweep.report.importance import importance_of, short_layers, top_columns, unavailable
from lorasweep.sweep.report.importance_tables import importance_tables
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.trial_key import TrialKey

from .synthetic_run import CONFIGS, MANY, made_up_run

LAYERS = [
    f"unet.{block}.attentions.0.transformer_blocks.0.{attention}.to_{projection}"
    for block in ("up_blocks.1", "down_blocks.0", "mid_block")
    for attention in ("attn2", "attn1")
    for projection in ("k", "q")
]
KINDS = ["mean", "std", "max"]
PCA = "columns of pca:64 are mixed from those of all layers"


def with_importance(run):
    """Give every record an importance that its seed and its group decide."""
    for key, record in run.records.items():
        record["importance"] = {
            "samples": 29,
            "repeats": 5,
            "layers": groups(LAYERS, key),
            "kinds": groups(KINDS, key),
        }
        if key.classifier == "linear":
            top = [[f"{LAYERS[i]}.lora.up.weight", "std", 1.0 - 0.1 * i] for i in range(4)]
            record["importance"]["columns"] = top[: 4 - (key.seed == 43)]
        if "/pca:" in key.representation:
            record["importance"] = {"unavailable": PCA}
    return run


def groups(names, key):
    part = {
        "names": names,
        "accuracy": [0.01 * i for i in range(len(names))],
        "log_loss": [0.1 * i - 0.1 + 0.01 * (key.seed - 42) for i in range(len(names))],
    }
    if key.classifier == "linear":
        part["weights"] = [1.0 + i for i in range(len(names))]
    return part


@pytest.fixture
def analysis(tmp_path):
    labels = ("stats", "spectral@linear", "spectral/pca:64")
    return Analysis(with_importance(made_up_run(tmp_path / "run", labels, CONFIGS[:2])))


def rows(table):
    return list(csv.DictReader(table.to_csv().splitlines()))


def test_means_and_spreads_are_over_seeds_and_layers_in_the_order_of_the_network(analysis):
    found = importance_of(analysis, ("all_layers", "stats"), "layers")
    assert [item.name for item in found] == sorted(LAYERS, key=network_order)
    assert found[0].name == LAYERS[7]  # down_blocks.0, self-attention, q
    assert found[0].log_loss.mean == pytest.approx(0.1 * 7 - 0.1 + 0.01)
    assert found[0].log_loss.std == pytest.approx(0.01)
    assert found[0].accuracy.mean == pytest.approx(0.07)
    assert found[0].accuracy.std == pytest.approx(0, abs=1e-15)
    assert found[0].weight is None
    kinds = importance_of(analysis, ("all_layers", "spectral@linear"), "kinds")
    assert [(item.name, item.weight.mean) for item in kinds] == [
        ("mean", 1.0), ("std", 2.0), ("max", 3.0),
    ]  # fmt: skip


def test_columns_that_most_seeds_list_come_first(analysis):
    found = top_columns(analysis, ("all_layers", "spectral@linear"))
    assert [(row.column, row.seeds) for row in found] == [
        (f"{LAYERS[i]}.lora.up.weight", 2 if i == 3 else 3) for i in range(4)
    ]
    assert [row.weight for row in found] == pytest.approx([1.0, 0.9, 0.8, 0.7])
    assert top_columns(analysis, ("all_layers", "stats")) == []


def test_the_tables(analysis):
    tables = {table.name: table for table in run_tables(analysis)}
    layers = rows(tables["importance_layers_all_layers"])
    assert len(layers) == 2 * len(LAYERS)
    of_linear = [row for row in layers if row["representation"] == "spectral@linear"]
    assert float(of_linear[0]["weight"]) == 8.0
    assert {row["weight"] for row in layers if row["representation"] == "stats"} == {""}
    assert f"Not available: spectral/pca:64: {PCA}." in tables["importance_kinds_visual_only"].note
    assert len(rows(tables["importance_columns_visual_only"])) == 4
    assert unavailable(analysis, [("all_layers", "stats")]) == ""


def test_the_figures(analysis):
    figures = {item.name: item for item in run_figures(analysis) if "importance" in item.name}
    assert list(figures) == [
        f"importance_{axis}_{config}" for axis in ("layers", "kinds") for config in CONFIGS[:2]
    ]
    heat = figures["importance_layers_all_layers"].draw().axes[0]
    labels = [text.get_text() for text in heat.get_xticklabels()]
    assert sorted(labels) == ["spectral@linear", "stats"]
    names = [text.get_text() for text in heat.get_yticklabels()]
    assert names[:3] == ["down_blocks.0 0.0 self q", "down_blocks.0 0.0 self k",
                         "down_blocks.0 0.0 cross q"]  # fmt: skip
    drawn = np.asarray(heat.images[0].get_array())
    assert drawn.shape == (12, 2)
    assert drawn.max(axis=0) == pytest.approx([100, 100])
    assert drawn[names.index("up_blocks.1 0.0 cross k")] == pytest.approx([0, 0])  # below 0
    bars = figures["importance_kinds_all_layers"].draw().axes[0]
    assert [text.get_text() for text in bars.get_yticklabels()] == ["max", "std", "mean"]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([0.11, 0.01, -0.09])


def test_records_without_it_are_left_out(analysis):
    for key, record in analysis.run.records.items():
        if key.seed != 42 or key.representation == "spectral":
            del record["importance"]
    # Of what is left there is no spread.
    (first, *_) = importance_of(analysis, ("all_layers", "stats"), "layers")
    assert first.log_loss.std is None
    (table, *_) = importance_tables(analysis)
    assert {row["log_loss_rise_std"] for row in rows(table)} == {""}
    assert {row["representation"] for row in rows(table)} == {"stats"}
    for record in analysis.run.records.values():
        record.pop("importance", None)
    assert not any("importance" in item.name for item in run_figures(analysis))
    assert not any("importance" in table.name for table in run_tables(analysis))


def test_numbers_that_are_none_are_left_out_of_means(analysis):
    record = next(r for k, r in analysis.run.records.items() if k.method == "stats")
    record["importance"]["kinds"]["log_loss"][0] = None
    mean, *_ = importance_of(analysis, ("all_layers", "stats"), "kinds")
    assert mean.log_loss.mean == pytest.approx(-0.1 + 0.015)


def test_of_many_labels_the_best_are_listed_and_drawn(tmp_path):
    run = with_importance(made_up_run(tmp_path / "run", MANY[:40], CONFIGS[:1]))
    analysis = Analysis(run)
    tables = {table.name: table for table in importance_tables(analysis)}
    listed = {row["representation"] for row in rows(tables["importance_layers_all_layers"])}
    figures = {item.name: item for item in run_figures(analysis)}
    for text in (
        tables["importance_layers_all_layers"].note,
        figures["importance_layers_all_layers"].caption,
    ):
        assert "Of 40 representations, the best 24 are drawn" in text
    assert 10 < len(listed) <= 24
    panels = figures["importance_kinds_all_layers"].draw()
    assert sum(axes.get_visible() for axes in panels.axes) == len(listed)


def test_short_names_are_told_apart_or_not_shortened():
    flux = "transformer.transformer_blocks.3.attn.to_q"
    assert short_layers([flux, LAYERS[0]]) == [
        "transformer transformer_blocks.3 self q", "unet up_blocks.1 0.0 cross k",
    ]  # fmt: skip
    odd = ["unet.conv_in", LAYERS[0]]
    assert short_layers(odd)[0] == "unet.conv_in"
    twins = [f"{LAYERS[0]}.{name}" for name in ("a.x", "b.x")]
    assert len(set(short_layers(twins))) == 2


def test_a_real_run_finds_the_concept_in_cross_attention(zoo_run):
    """Without which its accuracy is far lower, too."""
    sums = {"attn1": 0.0, "attn2": 0.0}
    for seed in (42, 43, 44, 45):
        key = TrialKey("all_layers", "matrix_norms", seed)
        part = read_record(zoo_run, key)["importance"]
        assert part["samples"] == 29
        assert part["kinds"]["names"] == list(REPRESENTATIONS["matrix_norms"].values((4, 4)))
        rises = dict(zip(part["layers"]["names"], part["layers"]["log_loss"]))
        assert len(rises) == 64
        for attention in sums:
            sums[attention] += sum(v for name, v in rises.items() if f".{attention}." in name)
    assert sums["attn2"] > 1.2 * max(sums["attn1"], 0)
    alone = read_record(zoo_run, TrialKey("visual_only", "matrix_norms", 42))["importance"]
    assert len(alone["layers"]["names"]) == 32
