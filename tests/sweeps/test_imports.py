"""`lorasweep data import`: folders of adapters to a dataset that a sweep can read."""

import csv
import errno
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from lorasweep import cli
from lorasweep.features.adapters.bases import Base
from lorasweep.features.adapters.errors import UnreadableAdapterError
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.lock import locked
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.representations import get_representation
from lorasweep.sweep.imports.labels import label_source
from lorasweep.sweep.imports.plan import make_plan
from lorasweep.sweep.imports.run import import_adapters
from lorasweep.sweep.imports.shard import ShardWriter
from lorasweep.sweep.imports.survey import Survey, SurveyedAdapter, survey
from lorasweep.sweep.models.new_adapters import Given, Problem, Stacked, read_adapters
from lorasweep.sweep.request.import_options import ImportOptions
from lorasweep.sweep.request.spec import RuntimeOptions
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.models.model_input import model_input
from tests.unit.adapters import (
    diffusers_lora,
    diffusers_old,
    kohya,
    micro_llama,
    respell,
    save_diffusers,
)
from tests.unit.adapters import sd_adapter as sd_adapter

BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
LAYERS = {f"{BLOCK}.attn1.to_q": (8, 8), f"{BLOCK}.attn2.to_k": (8, 768)}
WEIGHTS = "pytorch_lora_weights.safetensors"


def adapter(path: Path, *, seed=0, rank=2, layers=LAYERS, header=None, bad=None, **metadata):
    """Write an adapter; layer -> its ΔW."""
    rng = np.random.default_rng(seed)
    tensors, updates = {}, {}
    for name, (outputs, inputs) in layers.items():
        down = rng.standard_normal((rank, inputs), dtype=np.float32)
        up = rng.standard_normal((outputs, rank), dtype=np.float32)
        if bad == name:
            up[3, 0] = np.nan
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down, up
        tensors[f"{name}.alpha"] = np.array(3.0, np.float32)
        updates[name] = 3.0 / rank * up.astype(np.float64) @ down
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, header)
    if metadata:
        (path.parent / "metadata.json").write_text(json.dumps(metadata))
    return updates


def classes(root: Path, count=6, **kwargs):
    """`count` adapters of two classes, each in a folder of its own; path -> updates."""
    return {
        f"{'cats' if i % 2 else 'dogs'}/adapter-{i}": adapter(
            root / ("cats" if i % 2 else "dogs") / f"adapter-{i}" / WEIGHTS, seed=i, **kwargs
        )
        for i in range(count)
    }


def run(*folders, out, **options):
    """Import in this process, whose Ray runs."""
    with Reporter() as reporter:
        return import_adapters(
            list(folders), out, ImportOptions(**options), RuntimeOptions(dashboard=False), reporter
        )


def rows(out: Path):
    """path -> row."""
    return {row["path"]: row for row in datasets.load_from_disk(str(out))}


def check_updates(row, updates):
    for name, expected in updates.items():
        down = np.array(row[f"{name}.lora.down.weight"], np.float64)
        up = np.array(row[f"{name}.lora.up.weight"], np.float64)
        np.testing.assert_allclose(row[f"{name}.scale"] * up @ down, expected, rtol=1e-5, atol=1e-5)


pytestmark = pytest.mark.usefixtures("local_ray")


def test_folders_become_a_dataset(tmp_path):
    expected = classes(tmp_path / "in")
    report = run(tmp_path / "in", out=tmp_path / "out")
    assert (report.adapters, report.layers, report.bad) == (6, 2, {})
    found = rows(tmp_path / "out")
    assert found.keys() == expected.keys()
    for path, updates in expected.items():
        check_updates(found[path], updates)
        assert found[path]["category_label"] == path.split("/")[0]
        facts = ("diffusers", "lora", "F32", "sd-1", 2, False)
        names = ("format", "algorithm", "dtype", "base", "rank", "dora")
        assert tuple(found[path][name] for name in names) == facts
    assert not list(tmp_path.glob(".out*"))


def test_a_sweep_reads_it(tmp_path):
    from lorasweep.features.datasets.scan import scan_dataset
    from lorasweep.features.datasets.sources import DatasetRequest, find_dataset

    classes(tmp_path / "in")
    run(tmp_path / "in", out=tmp_path / "out")
    source = find_dataset(DatasetRequest(str(tmp_path / "out")), tmp_path)
    scan = scan_dataset(source, "category_label", None, tmp_path)
    assert scan.classes == ["cats", "dogs"]
    assert [layer.name for layer in scan.layers] == list(LAYERS)
    assert all(layer.scale for layer in scan.layers)


def test_ranks_and_layers_may_differ(tmp_path):
    root = tmp_path / "in"
    expected = classes(root, 10)
    first, second = LAYERS
    expected["cats/small"] = adapter(root / "cats" / "small" / WEIGHTS, rank=1)
    expected["cats/large"] = adapter(root / "cats" / "large" / WEIGHTS, rank=4)
    expected["cats/part"] = adapter(
        root / "cats" / "part" / WEIGHTS, layers={first: LAYERS[first]}
    ) | {second: np.zeros(LAYERS[second])}
    extra = f"{BLOCK}.attn1.to_v"
    expected["dogs/more"] = adapter(
        root / "dogs" / "more" / WEIGHTS, layers={**LAYERS, extra: (8, 8)}
    )
    del expected["dogs/more"][extra]
    report = run(root, out=tmp_path / "out")
    assert report.dropped == {extra: 1}
    found = rows(tmp_path / "out")
    assert {found[path]["rank"] for path in ("cats/small", "cats/large", "cats/part")} == {1, 2, 4}
    for path, updates in expected.items():
        check_updates(found[path], updates)
    kept = run(root, out=tmp_path / "all", min_coverage=0.0)
    assert (kept.layers, kept.dropped) == (3, {})


def test_the_same_adapter_in_every_spelling_is_the_same_row(sd_adapter, tmp_path):
    unet, clip, expected = sd_adapter
    root = tmp_path / "in"
    weights = save_diffusers(root / "a" / "diffusers", unet, clip)
    for i, rename in enumerate((diffusers_lora, diffusers_old, kohya)):
        respell(weights, root / "bab"[i] / f"{rename.__name__}.safetensors", rename)
    run(root, out=tmp_path / "out")
    found = rows(tmp_path / "out")
    assert len(found) == 4
    updates = {name: value.reshape(len(value), -1) for name, value in expected.items()}
    for row in found.values():
        check_updates(row, updates)


def test_peft_folders_with_a_table_of_attributes(tmp_path):
    peft = pytest.importorskip("peft")
    lines = ["name,animal,legs"]
    for i, animal in enumerate(("cat", "bird", "cat", "bird")):
        config = peft.LoraConfig(
            target_modules=["q_proj"], r=i + 1, lora_alpha=6, use_rslora=i == 3,
            init_lora_weights=False,
        )  # fmt: skip
        model = peft.get_peft_model(micro_llama(), config)
        model.save_pretrained(tmp_path / "in" / f"model-{i}")
        lines.append(f"model-{i},{animal},{4 if animal == 'cat' else 2}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    run(tmp_path / "in", out=tmp_path / "out", labels=str(tmp_path / "labels.csv"))
    found = rows(tmp_path / "out")
    assert [row["category_label"] for row in found.values()] == ["cat", "bird", "cat", "bird"]
    assert [row["legs"] for row in found.values()] == [4, 2, 4, 2]
    assert [row["rank"] for row in found.values()] == [1, 2, 3, 4]
    scales = [row["model.layers.0.self_attn.q_proj.scale"] for row in found.values()]
    assert scales == [6, 3, 2, 3]


def test_links_to_files_without_a_suffix_as_the_hub_makes_them(tmp_path):
    expected = classes(tmp_path / "in")
    for i, path in enumerate(sorted((tmp_path / "in").rglob("*.safetensors"))):
        path.rename(tmp_path / f"blob-{i}")
        path.symlink_to(tmp_path / f"blob-{i}")
    run(tmp_path / "in", out=tmp_path / "out")
    assert rows(tmp_path / "out").keys() == expected.keys()


# Labels


def test_labels_of_metadata_files(tmp_path):
    root = tmp_path / "in"
    for i in range(4):
        adapter(root / "x" / f"folder_{i:05}" / WEIGHTS, seed=i, category_label=i % 2, leaf_id=i)
    run(root, out=tmp_path / "out", labels="metadata:category_label")
    found = rows(tmp_path / "out")
    assert [row["category_label"] for row in found.values()] == [0, 1, 0, 1]
    assert [row["leaf_id"] for row in found.values()] == [0, 1, 2, 3]


def test_labels_of_headers_and_given_splits(tmp_path):
    root = tmp_path / "in"
    for i, split in enumerate(("train", "train", "val", "test")):
        path = root / split / f"model_idx_{i:04}" / WEIGHTS
        adapter(path, seed=i, header={"imagenet_class_id": str(i % 2)})
    run(root, out=tmp_path / "out", labels="header:imagenet_class_id")
    found = datasets.load_from_disk(str(tmp_path / "out"))
    assert sorted(zip(found["folder"], found["category_label"])) == [
        ("test", 1), ("train", 0), ("train", 1), ("val", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["path", "file_name"])
def test_labels_of_a_table(tmp_path, key):
    root = tmp_path / "in"
    names = [f"face-{i}.safetensors" for i in range(4)]
    for i, name in enumerate(names):
        adapter(root / "deep" / name, seed=i)
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([key, "label", "smiling", "age"])
        for i, name in enumerate(names[:3]):
            shown = f"deep/{name}" if key == "path" else name
            writer.writerow([shown, "ab"[i % 2], bool(i), 20.5 + i])
    report = run(root, out=tmp_path / "out", labels=str(tmp_path / "labels.csv"))
    assert report.unlabelled == ["deep/face-3.safetensors"]
    found = datasets.load_from_disk(str(tmp_path / "out"))
    assert found["category_label"][:] == ["a", "b", "a"]
    assert found["age"][:] == [20.5, 21.5, 22.5]
    assert found["smiling"][:] == ["False", "True", "True"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("metadata:nothing", "none of the 6 adapters has a label"),
        ("column", "need folder"),
        ("none.csv", "no such file"),
    ],
)
def test_labels_that_are_not_there(tmp_path, labels, message):
    classes(tmp_path / "in")
    with pytest.raises(UserError, match=message):
        run(tmp_path / "in", out=tmp_path / "out", labels=labels)


def table_of(path, *rows, header="path,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return label_source(str(path))


def methods_of(root, source):
    """Name -> label of the adapters below a folder."""
    return {item.name: item.label for item in survey([root], source, 64).found}


def test_only_the_source_that_was_asked_for_gives_a_label(tmp_path):
    root = tmp_path / "in"
    for i in range(3):
        adapter(root / f"a{i}" / WEIGHTS, header={"label": "header"}, label="metadata")
    source = table_of(tmp_path / "labels.csv", "a0,x", "a1,")
    assert methods_of(root, source) == {"a0": "x", "a1": None, "a2": None}
    assert set(methods_of(root, label_source("metadata:label")).values()) == {"metadata"}
    assert set(methods_of(root, label_source("header:label")).values()) == {"header"}
    for path in root.rglob("metadata.json"):
        path.unlink()
    assert set(methods_of(root, label_source("metadata:label")).values()) == {None}


@pytest.mark.parametrize("missing", ["", " ", "NA", "nan", '"n/a"', "null"])
def test_a_cell_without_a_value_is_no_class(tmp_path, missing):
    for i in range(2):
        adapter(tmp_path / "in" / f"a{i}" / WEIGHTS)
    source = table_of(tmp_path / "labels.csv", "a0,x", f"a1,{missing}")
    assert methods_of(tmp_path / "in", source) == {"a0": "x", "a1": None}


def test_keys_of_a_table_are_texts(tmp_path):
    for name in ("00001", "00002"):
        adapter(tmp_path / "in" / f"{name}.safetensors")
    source = table_of(tmp_path / "labels.csv", "00001,x", "00002,y", header="id,label")
    assert list(methods_of(tmp_path / "in", source).values()) == ["x", "y"]


def test_a_number_too_long_for_a_column_is_left_out(tmp_path):
    adapter(tmp_path / "in" / "a" / WEIGHTS, huge=10**400, small=3)
    (found,) = survey([tmp_path / "in"], label_source("folder"), 64).found
    assert found.columns == {"small": 3}


def test_paths_of_a_table_may_be_written_as_find_prints_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "in"
    for name in "abcd":
        adapter(root / name / WEIGHTS)
    rows = [f"./in/a/{WEIGHTS},1", "in/b,2", f"./c/{WEIGHTS},3", f"{root / 'd'},4"]
    source = table_of(tmp_path / "labels.csv", *rows)
    assert list(methods_of(root, source).values()) == ["1", "2", "3", "4"]


def test_a_row_that_fits_several_adapters_is_refused(tmp_path):
    root = tmp_path / "in"
    for name in ("cats", "dogs"):
        adapter(root / name / "x.safetensors")
    table_of(tmp_path / "labels.csv", "x.safetensors,1")
    with pytest.raises(UserError, match=r"'x\.safetensors' fits 2 adapters \(cats/x.*, dogs/x"):
        run(root, out=tmp_path / "out", labels=str(tmp_path / "labels.csv"))
    table_of(tmp_path / "labels.csv", "x.safetensors,1", "dogs/x.safetensors,2", "fish/y,3")
    report = run(root, out=tmp_path / "out", labels=str(tmp_path / "labels.csv"))
    assert report.unused == ["fish/y"]
    found = {name: row["category_label"] for name, row in rows(tmp_path / "out").items()}
    assert found == {"cats/x.safetensors": 1, "dogs/x.safetensors": 2}


# What lies in folders


def test_two_adapters_in_one_folder_are_two(tmp_path):
    root = tmp_path / "in"
    adapter(root / "cats" / WEIGHTS, seed=1)
    adapter(root / "cats" / "other.safetensors", seed=2)
    adapter(root / "dogs" / "rex" / WEIGHTS, seed=3)
    (root / "dogs" / "rex" / "optimizer.pt").touch()
    found = survey([root], label_source("folder"), 64)
    assert {item.name: item.label for item in found.found} == {
        f"cats/{WEIGHTS}": "cats", "cats/other.safetensors": "cats", "dogs/rex": "dogs",
    }  # fmt: skip
    assert found.aside.keys() == {str(root / "dogs" / "rex" / "optimizer.pt")}


def test_an_adapter_is_there_once_and_has_a_name_of_its_own(tmp_path):
    for i, folder in enumerate(("x/in", "y/in")):
        adapter(tmp_path / folder / "cats" / "a.safetensors", seed=i)
    (tmp_path / "y" / "in" / "link.safetensors").symlink_to("cats/a.safetensors")
    folders = [tmp_path / name for name in ("x/in", "y/in", "y/in/cats", "x/in")]
    found = survey(folders, label_source("folder"), 64)
    names = ["x/in/cats/a.safetensors", "y/in/cats/a.safetensors"]
    assert [item.name for item in found.found] == [names[0], "y/in/link.safetensors"]
    ((_, reason),) = found.aside.items()
    assert "is the same file as" in reason
    (tmp_path / "y" / "in" / "link.safetensors").unlink()
    found = survey(folders, label_source("folder"), 64)
    assert [item.name for item in found.found] == names
    assert list(found.aside.values()) == ["lies in several of the folders"]


# What is refused


def damaged(root):
    """Damage two adapters of `classes`, one in its numbers."""
    adapter(root / "dogs" / "adapter-0" / WEIGHTS, bad=f"{BLOCK}.attn1.to_q")
    (root / "cats" / "adapter-1" / WEIGHTS).write_bytes(b"x")
    return {"dogs/adapter-0", "cats/adapter-1"}


def test_damaged_adapters_are_named_or_left_out(tmp_path):
    root = tmp_path / "in"
    expected = classes(root)
    missing = damaged(root)
    with pytest.raises(UserError, match=r"cannot be used: 1 \(.*header is cut"):
        run(root, out=tmp_path / "out")
    (root / "cats" / "adapter-1" / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"dogs/adapter-0: NaN or infinite .*attn1\.to_q"):
        run(root, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (root / "cats" / "adapter-1" / WEIGHTS).write_bytes(b"x")
    report = run(root, out=tmp_path / "out", skip_bad_samples=True)
    assert len(report.bad) == 2
    assert json.loads((tmp_path / "out" / "import.json").read_text())["bad"] == report.bad
    found = rows(tmp_path / "out")
    assert found.keys() == expected.keys() - missing
    for path, row in found.items():
        check_updates(row, expected[path])


def test_what_no_model_may_overlook_is_in_columns(tmp_path):
    root = tmp_path / "in"
    first, second = LAYERS
    adapter(root / "cats" / "part" / WEIGHTS, layers={first: LAYERS[first]})
    adapter(root / "cats" / "biased" / WEIGHTS)
    tensors = load_file(root / "cats" / "biased" / WEIGHTS)
    save_file({**tensors, f"{first}.diff_b": np.ones(8, "f4")}, root / "cats" / "biased" / WEIGHTS)
    kron = {f"{first}.lokr_w1": np.eye(4, dtype="f4"), f"{first}.lokr_w2": np.eye(2, dtype="f4")}
    save_file(kron, root / "cats" / "kron.safetensors")
    run(root, out=tmp_path / "out", lokr_rank=3, min_coverage=0.0)
    found = rows(tmp_path / "out")
    assert [found[name]["lacking_layers"] for name in sorted(found)] == [[], [second], [second]]
    assert [found[name]["unread_tensors"] for name in sorted(found)] == [["diff_b"], [], []]
    assert {row["lokr_rank"] for row in found.values()} == {3}

    source = find_dataset(DatasetRequest(str(tmp_path / "out")), tmp_path)
    scan = scan_dataset(source, "category_label", None, tmp_path)
    item = get_representation("channel_norms")
    names = [row["path"] for row in datasets.load_from_disk(str(tmp_path / "out"))]
    for unread, judged in ((), [n for n in names if n != "cats/biased"]), (["diff_b"], names):
        read = model_input(item, [first], scan, (), dora=False, unread=unread)
        for given in Given([root / "cats" / "biased" / WEIGHTS], []), Given([], [("x", source)]):
            parts = list(read_adapters(given, read, item, None))
            problems = [part.reason for part in parts if isinstance(part, Problem)]
            assert len(problems) == (not unread)
            assert all("more than B·A (diff_b)" in reason for reason in problems)
        (stacked,) = [part for part in parts if isinstance(part, Stacked)]
        assert [one.name for one in stacked.adapters] == judged


def test_several_bases_need_a_choice(tmp_path):
    root = tmp_path / "in"
    classes(root)
    other = {f"{BLOCK}.attn2.to_k": (8, 2048)}
    for i in range(2):
        adapter(root / "cats" / f"xl-{i}" / WEIGHTS, layers=other)
    with pytest.raises(
        UserError, match=r"sd-1: 6, like cats.*; kolors or sdxl: 2, like cats/xl-0.*--base"
    ):
        run(root, out=tmp_path / "out")
    with pytest.raises(UserError, match="no adapter of base 'sd-2'"):
        run(root, out=tmp_path / "out", base="sd-2")
    assert run(root, out=tmp_path / "out", base="sdxl").adapters == 2


@pytest.mark.parametrize(
    ("bases", "together"),
    [
        (["sd-1", "unknown"], True),
        (["flux", "text-encoder"], True),
        (["chroma|flux", "flux"], True),
        (["chroma|flux|hunyuan-video?", "chroma|flux"], True),
        (["chroma|flux|hunyuan-video?", "hunyuan-video"], False),  # few would decide what many are
        (["unknown-transformer-64", "unknown-transformer-64"], True),
        (["flux", "unknown-transformer-64"], False),
        (["unknown-blocks-1536", "unknown-blocks-5120"], False),
        (["sd-1", "llm-4096"], False),  # the language model's rows would be zeros
        (["sd-1", "sd-1|sd-2|svd|zeroscope"], True),
        (["Llama-2-7b-hf", "llama-2-7b-HF"], True),
        (["Llama-2-7b-hf", "llama-2-7b-bnb-4bit"], False),
    ],
)
def test_which_bases_go_together(bases, together):
    looked = survey_of(bases)
    if together:
        assert len(looked.of_base(None)) == len(bases)
    else:
        with pytest.raises(UserError, match="several base models"):
            looked.of_base(None)
    assert len(looked.of_base("any")) == len(bases)


def survey_of(bases):
    """Return a survey of adapters with these bases."""
    return Survey(
        [
            SurveyedAdapter(
                f"{i}.safetensors", str(i), "cats", [], Base.parse(base), {}, dora=False,
                shapes={}, fused=frozenset(), unread={}, columns={}, label="cats", row=None,
            )
            for i, base in enumerate(bases)
        ]
    )  # fmt: skip


def test_a_base_can_always_be_chosen():
    looked = survey_of(
        ["chroma|flux|hunyuan-video?", "hunyuan-video", "unknown-blocks-1536", "llm"]
    )

    def chosen(asked):
        return [(item.name, str(item.base)) for item in looked.of_base(asked)]

    assert chosen("hunyuan-video") == [("0", "hunyuan-video"), ("1", "hunyuan-video")]
    assert chosen("FLUX") == [("0", "FLUX")]
    assert chosen("unknown-blocks-1536") == [("2", "unknown-blocks-1536")]
    assert [name for name, _ in chosen("flux, unknown-blocks-1536")] == ["0", "2"]
    with pytest.raises(UserError, match="no adapter of base 'sd-1'; there are chroma, flux or hu"):
        looked.of_base("sd-1")


def test_an_adapter_that_does_not_show_its_base_goes_with_the_others(tmp_path):
    root = tmp_path / "in"
    classes(root)
    adapter(root / "cats" / "vague" / WEIGHTS, layers={f"{BLOCK}.attn1.to_q": (8, 8)})
    assert run(root, out=tmp_path / "out").adapters == 7


def test_mistakes_are_one_line_and_exit_code_2(tmp_path):
    classes(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for arguments, message in (
        (["in"], "Missing argument"),
        (["nowhere", "out"], "is no folder"),
        (["empty", "out"], "no .safetensors"),
        (["in", "in/out"], "lies in"),
        (["in", "in/.cache/../out"], "lies in"),
        (["in", "full"], "is not empty"),
        (["in", "out", "--min-coverage", "2"], "from 0 to 1"),
        (["in", "out", "--min-coverage", "x"], "need a number"),
    ):
        given = [str(tmp_path / a) if a[0].isalpha() and a != "x" else a for a in arguments]
        result = CliRunner().invoke(cli.app, ["data", "import", *given])
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        if message != "Missing argument":
            assert len(result.stderr.strip().splitlines()) == 1


# Again


@pytest.mark.parametrize("ranks", [(2,), (2, 1, 4)])
def test_an_interrupted_import_goes_on(tmp_path, monkeypatch, ranks):
    root, out = tmp_path / "in", tmp_path / "out"
    expected = classes(root, 20)
    rank_of = {}
    for i, name in enumerate(expected):
        rank_of[name] = ranks[i % len(ranks)]
        expected[name] = adapter(root / name / WEIGHTS, seed=i, rank=rank_of[name])
    found = survey([root], label_source("folder"), 64).found
    plan = make_plan(found, 0.9, 64)
    assert plan.shards == 3

    def dies(self, row):
        if row["index"] == 1:
            raise KeyboardInterrupt
        return write(self, row)

    write = ShardWriter.__call__
    monkeypatch.setattr(
        "lorasweep.sweep.imports.run._run",
        lambda plan, work, missing, _: (
            dies(ShardWriter(plan, work), {"index": i}) for i in missing
        ),
    )
    with pytest.raises(KeyboardInterrupt):
        run(root, out=out)
    assert not out.exists()
    monkeypatch.undo()
    (first,) = tmp_path.glob(".out.import/dataset/data-00000*")
    before = first.stat().st_ino, first.stat().st_mtime_ns
    run(root, out=out)
    (first,) = out.glob("data-00000*")
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == before
    for path, row in rows(out).items():
        check_updates(row, expected[path])
        own = {row.get(f"{layer}.rank") for layer in LAYERS}
        assert own == ({None} if len(ranks) == 1 else {rank_of[path]})


def planned(root):
    """A plan of one shard."""
    return make_plan(survey([root], label_source("folder"), 64).found, 0.9, 64)


def test_a_shard_whose_files_have_changed_since_is_not_written(tmp_path):
    root, work = tmp_path / "in", tmp_path / "work"
    classes(root)
    plan = planned(root)
    changed = root / "cats" / "adapter-3" / WEIGHTS
    for change in (lambda: adapter(changed, rank=7), lambda: changed.write_bytes(b"x")):
        change()
        assert ShardWriter(plan, work)({"index": 0})["changed"] == "cats/adapter-3"
    changed.unlink()
    assert ShardWriter(plan, work)({"index": 0})["changed"] == "cats/adapter-3"
    assert not list(work.rglob("*"))


def test_a_file_that_the_disk_does_not_give_is_not_noted_as_damaged(tmp_path, monkeypatch):
    root, work = tmp_path / "in", tmp_path / "work"
    classes(root)
    plan = planned(root)

    def fails(path, lokr_rank):
        raise UnreadableAdapterError(path, "x") from OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("lorasweep.sweep.imports.shard.open_adapter", fails)
    with pytest.raises(OSError, match="Input/output error"):
        ShardWriter(plan, work)({"index": 0})
    assert not list(work.rglob("*"))


def test_an_interrupted_import_whose_files_have_changed_begins_anew(tmp_path, monkeypatch):
    root, out = tmp_path / "in", tmp_path / "out"
    expected = classes(root)

    def changes(plan, work, missing, _):
        yield ShardWriter(plan, work)({"index": 0})
        expected["dogs/adapter-0"] = adapter(root / "dogs" / "adapter-0" / WEIGHTS, seed=9)
        raise KeyboardInterrupt

    monkeypatch.setattr("lorasweep.sweep.imports.run._run", changes)
    with pytest.raises(KeyboardInterrupt):
        run(root, out=out)
    monkeypatch.setattr(
        "lorasweep.sweep.imports.run._run",
        lambda plan, work, missing, _: (ShardWriter(plan, work)({"index": i}) for i in missing),
    )
    run(root, out=out)
    for path, row in rows(out).items():
        check_updates(row, expected[path])


def test_an_import_waits_for_another_into_the_same_folder(tmp_path, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    classes(root)
    held, waited, done = threading.Event(), threading.Event(), threading.Event()

    def other():
        with locked(tmp_path / ".out.import.lock", lambda: None):
            held.set()
            assert waited.wait(30)
            assert not out.exists()
            done.set()

    class Watched(Reporter):
        def say(self, text):
            if "another process imports into" in text:
                waited.set()
            super().say(text)

    with ThreadPoolExecutor(1) as pool, Watched() as reporter:
        first = pool.submit(other)
        assert held.wait(30)
        options = ImportOptions(), RuntimeOptions(dashboard=False)
        import_adapters([root], out, *options, reporter)
        assert done.is_set()
        first.result()
    assert out.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_again_does_nothing_and_changed_adapters_are_refused(tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    classes(root)
    first = run(root, out=out)
    assert first.seconds > 0
    again = run(root, out=out)
    assert (again.adapters, again.seconds) == (6, 0.0)
    adapter(root / "cats" / "adapter-1" / WEIGHTS, seed=9)
    with pytest.raises(UserError, match="they have changed"):
        run(root, out=out)
    shutil.rmtree(out)
    run(root, out=out)
