"""`--dataset FOLDER` of adapter files: imported once, and a dataset from then on."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from typer.testing import CliRunner

from lorasweep import cli
from lorasweep.features.common.errors import UserError
from lorasweep.sweep.imports.open_dataset import open_dataset
from lorasweep.sweep.imports.run import RECORD
from lorasweep.sweep.look.layer_table import read_layer_table
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.sweep.watch.terminal import Reporter
from tests.sweeps.test_imports import LAYERS, adapter, classes, run

pytestmark = pytest.mark.usefixtures("local_ray")


def opened(folder: Path, cache: Path, **options):
    """The source and the scan of a folder, as a run opens it."""
    spec = SweepSpec(str(folder), **options)
    with Reporter() as reporter:
        return open_dataset(spec, RuntimeOptions(cache_dir=cache), None, reporter)


def imports(cache: Path) -> set[Path]:
    return {record.parent for record in (cache / "imports").glob(f"*/{RECORD}")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    classes(tmp_path / "in")
    return tmp_path / "in"


def test_it_is_what_data_import_makes_of_it(folder, tmp_path):
    source, scan = opened(folder, tmp_path / "cache")
    run(folder, out=tmp_path / "out")
    _, of_import = opened(tmp_path / "out", tmp_path / "cache")
    assert source.label == "in"
    assert scan == of_import
    assert [layer.name for layer in scan.layers] == list(LAYERS)


def test_it_is_imported_once_and_anew_when_files_change(folder, tmp_path):
    cache = tmp_path / "cache"
    first, scan = opened(folder, cache)
    again, _ = opened(folder, cache)
    assert again.stamps == first.stamps
    assert len(imports(cache)) == 1

    adapter(folder / "cats" / "adapter-7" / "pytorch_lora_weights.safetensors", seed=7)
    _, scan_of_more = opened(folder, cache)
    assert scan_of_more.num_rows == scan.num_rows + 1
    assert scan_of_more.fingerprint != scan.fingerprint
    assert len(imports(cache)) == 2


def test_labels_are_those_asked_for(folder, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("name,colour\n" + "".join(f"adapter-{i},c{i % 3}\n" for i in range(5)))
    _, scan = opened(folder, tmp_path / "cache", labels=str(table))
    assert scan.classes == ["c0", "c1", "c2"]
    assert scan.num_rows == 5  # one has no label
    (made,) = imports(tmp_path / "cache")
    assert json.loads((made / RECORD).read_bytes())["unlabelled"] == ["cats/adapter-5"]
    table.write_text(table.read_text() + "adapter-5,c0\n")
    _, scan = opened(folder, tmp_path / "cache", labels=str(table))
    assert scan.num_rows == 6


def test_a_folder_that_holds_cache_and_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    cache = Path(".feature_cache")
    source, scan = opened(Path("."), cache)
    assert (source.label, scan.num_rows) == ("in", 6)
    run_dir = folder / "ray_results" / "in"
    (run_dir / "models").mkdir(parents=True)
    (run_dir / "sweep.json").touch()
    (run_dir / "models" / "model.safetensors").touch()
    again, _ = opened(Path("."), cache)
    assert again.stamps == source.stamps
    assert len(imports(cache)) == 1


def test_layers_without_a_dataset(folder, tmp_path):
    with Reporter() as reporter:
        options = RuntimeOptions(cache_dir=tmp_path / "cache")
        table = read_layer_table(SweepSpec(str(folder)), options, reporter)
    assert [row.layer.name for row in table.rows] == list(LAYERS)


def test_a_run_directory_says_how_to_import_it_again(folder, tmp_path, monkeypatch):
    from lorasweep.sweep.request.declared import declared_by
    from lorasweep.sweep.request.split_columns import split_rule
    from lorasweep.sweep.store.sweep_file import make_sweep_file

    table = tmp_path / "labels.csv"
    table.write_text("name,label\n" + "".join(f"adapter-{i},{'ab'[i % 2]}\n" for i in range(6)))
    monkeypatch.chdir(tmp_path)
    given = {"labels": "labels.csv", "min_coverage": 0.5, "base": "sd-1", "checkpoints": "all"}
    spec = SweepSpec("in", representations=("ensemble",), num_runs=1, **given)
    options = RuntimeOptions(cache_dir=tmp_path / "cache")
    with Reporter() as reporter:
        source, scan = open_dataset(spec, options, None, reporter)
    declared = declared_by(spec, split_rule(spec, source, scan), scan.tensors)
    again = make_sweep_file(spec, declared, source, scan, options).spec()
    assert again.dataset == str(folder)
    assert again.imports == spec.imports
    monkeypatch.chdir("/")
    with Reporter() as reporter:
        found, _ = open_dataset(again, options, None, reporter)
    assert found.stamps == source.stamps
    assert len(imports(tmp_path / "cache")) == 1


def test_the_command_line_takes_a_folder(folder, tmp_path):
    words = ["run", "--dataset", str(folder), "--labels", "folder", "--cache-dir", str(tmp_path)]
    words += ["--output-dir", str(tmp_path / "runs"), "--dry-run"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert len(imports(tmp_path)) == 1
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_imported_is_one_line(folder, tmp_path):
    adapter(folder / "cats" / "bad" / "x.safetensors", bad=next(iter(LAYERS)))
    with pytest.raises(UserError, match="NaN"):
        opened(folder, tmp_path / "cache")
    _, scan = opened(folder, tmp_path / "cache", skip_bad_samples=True)
    assert scan.num_rows == 6


def test_options_of_an_import_are_for_adapter_files_only(folder, tmp_path):
    run(folder, out=tmp_path / "out")
    with pytest.raises(UserError, match="--labels"):
        opened(tmp_path / "out", tmp_path / "cache", labels="metadata:x")


@pytest.mark.long
def test_ranks_from_1_to_128(tmp_path):
    from lorasweep.sweep.engine.feature_stage import features_only

    for i, rank in enumerate((1, 2, 16, 128)):
        adapter(tmp_path / "in" / "ab"[i % 2] / f"{rank}.safetensors", seed=i, rank=rank)
    spec = SweepSpec(str(tmp_path / "in"), representations=("ensemble", "update_spectrum"))
    with Reporter() as reporter:
        options = RuntimeOptions(cache_dir=tmp_path / "cache", dashboard=False)
        report = features_only(spec, options, reporter)
    assert report["adapters"] == 4
    found = datasets.load_from_disk(str(*imports(tmp_path / "cache")))
    assert sorted(found["rank"]) == [1, 2, 16, 128]
    spectra = datasets.load_from_disk(report["representations"]["update_spectrum"])
    assert all(np.isfinite(spectra[name]).all() for name in spectra.column_names)
