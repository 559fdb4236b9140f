"""Layouts of folders as trainers leave them: what is an adapter, and what its label is."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lorasweep.features.adapters.adapter import open_adapter
from lorasweep.features.adapters.errors import BadAdapterError
from lorasweep.features.common.errors import UserError
from lorasweep.sweep.imports.checkpoints import passed_over
from lorasweep.sweep.imports.labels import as_column, label_column, label_source
from lorasweep.sweep.imports.open_dataset import open_dataset
from lorasweep.sweep.imports.survey import survey
from lorasweep.sweep.models.new_adapters import find_adapters
from lorasweep.sweep.request.import_options import ImportOptions
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.sweep.watch.terminal import Reporter
from tests.test_cli import check_refused, invoke

PEFT_LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "x/llm"}


def pair(layer, down=".lora_A.weight", up=".lora_B.weight", seed=0):
    rng = np.random.default_rng(seed)
    return {
        layer + down: rng.standard_normal((2, 8), dtype=np.float32),
        layer + up: rng.standard_normal((8, 2), dtype=np.float32),
    }


def peft_folder(folder, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(pair(PEFT_LAYER, seed=seed), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))


def kohya_file(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file(pair(layer, ".lora_down.weight", ".lora_up.weight", seed), path)


def labels(folder, checkpoints="last"):
    """name -> label of what is found, and why the rest is passed over."""
    looked = survey([folder], label_source("folder"), 64, checkpoints=checkpoints)
    assert not looked.bad
    return {item.name: item.label for item in looked.found}, looked.aside


def test_what_lies_beside_an_adapter_changes_neither_layout_nor_label(tmp_path):
    for name in ("cats/a", "cats/b", "dogs/c"):
        peft_folder(tmp_path / name)
    beside = tmp_path / "cats" / "a"
    torch.save({"model.mm_projector.weight": torch.ones(2, 2)}, beside / "non_lora_trainables.bin")
    save_file({"clip_l": np.ones((1, 8), np.float32)}, beside / "embeddings.safetensors")
    (beside / "value_head.pt").write_bytes(b"junk")
    found, aside = labels(tmp_path)
    assert found == {"cats/a": "cats", "cats/b": "cats", "dogs/c": "dogs"}
    assert {path.rpartition("/")[2] for path in aside} == {
        "non_lora_trainables.bin", "embeddings.safetensors", "value_head.pt",
    }  # fmt: skip
    assert all("lies beside an adapter, and is none" in reason for reason in aside.values())


def components(run, seed=0):
    """An adapter of PEFT in folders of its components, with scales of their own."""
    layers = {
        "unet": "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "text_encoder": "text_model.encoder.layers.0.self_attn.q_proj",
    }
    for i, (component, layer) in enumerate(layers.items()):
        folder = run / component
        folder.mkdir(parents=True)
        content = pair(f"base_model.model.{layer}", seed=seed + i)
        save_file(content, folder / "adapter_model.safetensors")
        config = {**CONFIG, "lora_alpha": 2 * (i + 1)}
        (folder / "adapter_config.json").write_text(json.dumps(config))


def test_an_adapter_in_folders_of_its_components_is_one(tmp_path):
    for i, run in enumerate(("cats/run-0", "cats/run-1", "dogs/run-0")):
        components(tmp_path / run, seed=2 * i)
    found, aside = labels(tmp_path)
    assert found == {"cats/run-0": "cats", "cats/run-1": "cats", "dogs/run-0": "dogs"}
    assert not aside
    adapter = open_adapter(tmp_path / "cats" / "run-1")
    names = [
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    ]
    assert list(adapter.shapes) == names
    assert (adapter.format, adapter.algorithms, adapter.alphas) == (
        "peft", ("lora",), dict(zip(names, [2.0, 4.0])),
    )  # fmt: skip
    for i, (_, layer) in enumerate(adapter.read()):
        down, up = pair("x", seed=2 + i).values()
        np.testing.assert_array_equal(layer.up @ layer.down, up @ down)
        assert layer.scale == i + 1
    (item,) = survey([tmp_path / "dogs"], label_source("folder"), 64).found
    assert not item.has_changed()
    place = tmp_path / "dogs" / "run-0" / "text_encoder" / "adapter_config.json"
    place.write_text(json.dumps({**CONFIG, "lora_alpha": 16}))
    assert item.has_changed()
    given = find_adapters([str(tmp_path)], tmp_path)
    assert [path.name for path in given.files] == ["run-0", "run-1", "run-0"]


def test_a_component_alone_is_an_adapter_in_a_folder(tmp_path):
    components(tmp_path / "cats" / "a")
    shutil.rmtree(tmp_path / "cats" / "a" / "unet")
    assert labels(tmp_path)[0] == {"cats/a/text_encoder": "a"}


def trained(tmp_path):
    for run in ("cats/run-0", "dogs/run-0"):
        peft_folder(tmp_path / run)
        for step in (500, 1000):
            peft_folder(tmp_path / run / f"checkpoint-{step}")
    for step in (500, 1000):
        peft_folder(tmp_path / "dogs" / "cut" / f"checkpoint-{step}")


@pytest.mark.parametrize(
    ("checkpoints", "names"),
    [
        ("last", ["cats/run-0", "dogs/run-0", "dogs/cut/checkpoint-1000"]),
        (
            "500",
            [f"{run}/checkpoint-500" for run in ("cats/run-0", "dogs/run-0", "dogs/cut")],
        ),
        ("700", []),
    ],
)
def test_checkpoints_have_their_runs_label_and_one_of_them_is_read(tmp_path, checkpoints, names):
    trained(tmp_path)
    if not names:
        with pytest.raises(UserError, match="no adapter is left: 8 are passed over"):
            labels(tmp_path, checkpoints)
        return
    found, aside = labels(tmp_path, checkpoints)
    assert found == {name: name.split("/")[0] for name in names}
    assert len(aside) == 8 - len(names)
    assert all("(--checkpoints)" in reason for reason in aside.values())


def test_all_checkpoints_are_of_the_class_of_their_run(tmp_path):
    trained(tmp_path)
    found, aside = labels(tmp_path, "all")
    assert Counter(found.values()) == {"cats": 3, "dogs": 5}
    assert not aside


def test_epochs_and_states_of_kohya_are_passed_over(tmp_path):
    for name in ("cats/fluffy", "dogs/rex"):
        kohya_file(tmp_path / f"{name}.safetensors")
        kohya_file(tmp_path / f"{name}-000002.safetensors")
        kohya_file(tmp_path / f"{name}-step00000500.safetensors")
        kohya_file(tmp_path / f"{name}-state" / "model.safetensors")
        (tmp_path / f"{name}-state" / "train_state.json").write_text("{}")
    kohya_file(tmp_path / "dogs" / "style-000001.safetensors")  # no last one: an adapter's own name
    found, aside = labels(tmp_path)
    assert found == {
        "cats/fluffy.safetensors": "cats",
        "dogs/rex.safetensors": "dogs",
        "dogs/style-000001.safetensors": "dogs",
    }
    reasons = Counter(reason.partition(",")[0].partition(":")[0] for reason in aside.values())
    assert reasons == {"is a checkpoint": 4, "is a state of a training": 2}
    assert "cats/fluffy-000002.safetensors" in labels(tmp_path, "2")[0]


def test_what_is_no_checkpoint_is_never_passed_over(tmp_path):
    places = [tmp_path / name for name in ("a-000001.safetensors", "checkpoints", "x", "x-1")]
    assert passed_over(places, "last") == {}
    assert passed_over(places, "7") == {}


def test_parts_of_a_split_adapter_are_refused(tmp_path):
    name = "adapter_model-00001-of-00002.safetensors"
    kohya_file(tmp_path / name)
    with pytest.raises(BadAdapterError, match="is part 1 of 2 of an adapter: join"):
        open_adapter(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "not downloaded"),
        (b"<!DOCTYPE html><html>" + b"x" * 999, "a web page"),
        (b"\n<html><body>" + b"x" * 999, "a web page"),
        (b'{"error":"Repository not found"}' + b" " * 40, "a server's answer"),
        (b"", "is empty"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin", "pt"])
def test_what_was_saved_in_place_of_a_download_is_named(tmp_path, suffix, content, reason):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadAdapterError, match=reason):
        open_adapter(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (
            b'{"a.lora_A.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},'
            b'"a.lora_A.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}',
            "names a.lora_A.weight twice",
        ),
        (
            b'{"a.lora_A.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},'
            b'"a.lora_B.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}',
            "tensors a.lora_A.weight and a.lora_B.weight share bytes",
        ),
    ],
)
def test_a_header_that_says_things_twice_is_refused(tmp_path, header, reason):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(BadAdapterError, match=reason):
        open_adapter(path)


def table(tmp_path, content, suffix="csv"):
    """Label of each of `x/a` and `x/b` by a table."""
    for name in "ab":
        kohya_file(tmp_path / "set" / "x" / f"{name}.safetensors")
    path = tmp_path / f"labels.{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = survey([tmp_path / "set"], label_source(str(path)), 64).found
    return label_column([item.label for item in found])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("file,label\na,01\nb,1\n", ["01", "1"]),
        ("file,label\na,3\nb,1\n", [3, 1]),
        ("file,label\na,true\nb,false\n", ["true", "false"]),
        ("file,label\na,2024-01-01\nb,2024-02-01\n", ["2024-01-01", "2024-02-01"]),
        ("file,label\na,10:30\nb,11:30\n", ["10:30", "11:30"]),
        ("file;label\na;cat\nb;dog\n", ["cat", "dog"]),
        ("path,label\nx\\a.safetensors,cat\nx\\b.safetensors,dog\n", ["cat", "dog"]),
        ("\ufefffile,label\r\na,caf\u00e9\r\nb,th\u00e9\r\n", ["caf\u00e9", "th\u00e9"]),
        ("file,label\na,cat\nb,dog\n".encode("utf-16"), ["cat", "dog"]),
    ],
)
def test_tables_as_other_programs_write_them(tmp_path, content, expected):
    assert table(tmp_path, content) == expected


def test_other_columns_of_a_table_are_as_written(tmp_path):
    """Any of them may be predicted: `01` is not `1` there either, and `true` is no number."""
    path = tmp_path / "labels.csv"
    path.write_text(
        "file,label,code,flag,day,count,loss,mixed\n"
        "a,cat,01,true,2024-01-02 10:00,3,0.5,1e-3\n"
        "b,dog,1,false,2024-01-03 10:00,12,,none\n"
    )
    rows = label_source(str(path)).rows
    columns = {
        name: as_column(name, [row.get(name) for row in rows.values()]) for name in rows["a"]
    }
    assert columns == {
        "label": ["cat", "dog"],
        "code": ["01", "1"],
        "flag": ["true", "false"],
        "day": ["2024-01-02 10:00", "2024-01-03 10:00"],
        "count": [3, 12],
        "loss": [0.5, None],
        "mixed": ["1e-3", "none"],
    }


def test_a_run_chooses_checkpoints_of_a_folder(tmp_path):
    trained(tmp_path / "in")
    options = RuntimeOptions(cache_dir=tmp_path / "cache")
    with Reporter() as reporter:
        counts = {
            spec.checkpoints: open_dataset(spec, options, None, reporter)[1].num_rows
            for spec in (SweepSpec(str(tmp_path / "in"), checkpoints=of) for of in ("last", "all"))
        }
    assert counts["all"] > counts["last"] == 3


def test_a_table_of_tabs(tmp_path):
    assert table(tmp_path, "file\tlabel\na\tcat\nb\tdog\n", "tsv") == ["cat", "dog"]


def test_names_are_alike_however_their_accents_are_written(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    kohya_file(tmp_path / "set" / f"{apart}.safetensors")
    (tmp_path / "labels.csv").write_text(f"file,label\n{composed},drink\n")
    source = label_source(str(tmp_path / "labels.csv"))
    (item,) = survey([tmp_path / "set"], source, 64).found
    assert item.label == "drink"


def test_a_table_of_another_encoding_is_refused_with_its_line(tmp_path):
    content = "file,label\na,cat\nb,caf\u00e9\n".encode("cp1252")
    with pytest.raises(UserError, match=r"is no UTF-8 text \(line 3, perhaps 'b,caf\u00e9'\)"):
        table(tmp_path, content)


def test_booleans_are_classes_by_name():
    assert label_column([True, False, None]) == ["true", "false", None]


def test_a_dry_run_shows_the_classes_and_writes_nothing(tmp_path):
    trained(tmp_path / "in")
    result = invoke("data", "import", tmp_path / "in", tmp_path / "out", "--dry-run")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "layout   3 folders with an adapter each; labels: the folder above" in lines
    assert any(line.split()[:3] == ["dogs", "2", "dogs/cut/checkpoint-1000,"] for line in lines)
    assert "3 adapters, 1 layers; nothing is written" in lines
    assert any(line.startswith("passed over 5 that may be adapters") for line in lines)
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("text", ["first", "-1", "1.5", ""])
def test_strange_checkpoints_are_refused(tmp_path, text):
    with pytest.raises(UserError, match="need last, all or the number of a step"):
        ImportOptions(checkpoints=text).validate()
    result = invoke("data", "import", tmp_path, tmp_path / "out", f"--checkpoints={text}")
    check_refused(result, "need last, all or the number of a step")
