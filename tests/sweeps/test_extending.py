"""What users bring themselves: the snippets of docs/extending.md as a package, swept and edited."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.plugins import find_origin, source_files
from lorasweep.features.layers.configs import get_configs
from lorasweep.features.numerics.matrix_batch import MatrixBatch
from lorasweep.features.representations import get_representation
from lorasweep.sweep.models.choice import refusal
from lorasweep.sweep.models.predict import find_models, predict
from lorasweep.sweep.report.analysis import Analysis
from lorasweep.sweep.report.content import run_tables
from lorasweep.sweep.report.runs import load_run
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.sweep.watch.status import read_status
from lorasweep.trainables.classifiers.catalogue import find_classifier
from lorasweep.trainables.store.run_dir import RunDir

ROOT = Path(__file__).parents[2]
DOCS = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
SNIPPETS = {
    match[1]: match[2]
    for match in re.finditer(r"```python\n# (\w+\.py)\n(.*?)```", DOCS, re.DOTALL)
}
ENTRY_POINTS = """\
[lorasweep.representations]
row_norms = mine.norms:row_norms
[lorasweep.classifiers]
centroids = mine.centroids:Centroids
[lorasweep.configs]
queries = mine.layers:queries
"""


def test_the_docs_have_one_of_each():
    assert list(SNIPPETS) == ["norms.py", "centroids.py", "layers.py"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of an installed package `mine` with the snippets as modules."""
    site = tmp_path / "site"
    (site / "mine").mkdir(parents=True)
    (site / "mine" / "__init__.py").write_text("")
    for name, text in SNIPPETS.items():
        (site / "mine" / name).write_text(text)
    info = site / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    yield site / "mine"
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_a_package_brings_one_of_each(package, sanity, tmp_path, sanity_cache):
    spec = SweepSpec(
        str(sanity),
        representations=("stats", "row_norms"),
        configs=("all_layers", "queries"),
        classifiers=("mlp", "centroids"),
        num_runs=2,
        settings={"mlp": {"hidden_dim": 16, "epochs": 3}, "centroids": {"temperature": 5.0}},
    )
    options = RuntimeOptions(
        tmp_path / "out", "run", cache_dir=sanity_cache, log_to="none", dashboard=False
    )
    result = run_sweep(spec, options)
    assert result.failed == []
    # Per config: two representations, by mlp with two seeds, by centroids with one.
    assert result.summary["ran"] == 12
    entries = {e["representation"]: e for e in result.results["queries_results"]}
    assert list(entries) == [
        "stats_queries", "stats@centroids_queries",
        "row_norms_queries", "row_norms@centroids_queries",
    ]  # fmt: skip
    assert {e["classifier"] for e in entries.values()} == {"mlp", "centroids"}
    assert len(entries["stats@centroids_queries"]["per_run_results"]) == 1
    assert run_sweep(spec, options).summary["ran"] == 0

    # An edited representation is made anew, and nothing else.
    norms = package / "norms.py"
    norms.write_text(norms.read_text().replace("norm(dim=2)", "norm(dim=2, p=1)"))
    again = run_sweep(spec, options)
    # All three came from one package, whose hash has changed; stats by mlp on all layers has not.
    assert (again.summary["skipped"], again.summary["ran"]) == (2, 10)
    assert len(list(RunDir(result.run_dir).plugins.iterdir())) == 2

    # Without the package: status and report need none, restore has its copy.
    for file in package.rglob("*.py"):
        file.unlink()
    assert len(read_status(result.run_dir).done) == 12
    reported = Analysis(load_run(result.run_dir))
    assert ("queries", "row_norms@centroids") in reported.cells
    assert run_tables(reported)
    restored = read_sweep_file(result.run_dir).spec()
    RunDir(result.run_dir).records()[0].unlink()
    assert run_sweep(restored, options).summary["ran"] == 1


@pytest.fixture
def files(tmp_path):
    """A folder with the snippets as files that stand alone."""
    for name, text in SNIPPETS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_file_is_known_by_itself_and_the_siblings_it_imports(files):
    (files / "helper.py").write_text("X = 1\n")
    norms = files / "norms.py"
    norms.write_text("import helper\n" + norms.read_text())
    first = find_origin(f"{norms}:row_norms", "")
    (files / "layers.py").write_text("# no concern of norms.py\n")
    assert find_origin(f"{norms}:row_norms", "") == first
    (files / "helper.py").write_text("X = 2\n")
    assert find_origin(f"{norms}:row_norms", "") != first
    copy = first.copied(files / "copies")
    assert sorted(p.name for p in copy.root.iterdir()) == ["helper.py", "norms.py"]


PLACES = ["features", "sweep", "trainables", "zoo", "lorasweep"]


@pytest.fixture(params=["beside a user's own folders", "in the root of a checkout"])
def crowded(request, tmp_path, monkeypatch):
    """A working directory with the snippets beside folders that are called as ours are."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name, text in SNIPPETS.items():
        (folder / name).write_text(text)
    for name in PLACES[:4]:
        if "checkout" in request.param:
            (folder / name).symlink_to(ROOT / name)
        else:
            (folder / name / "core").mkdir(parents=True)
            (folder / name / "__init__.py").write_text("raise ImportError('a user's own')\n")
    (folder / "lorasweep").mkdir()  # a clone of the repository, which is no package
    (folder / "cli.py").write_text("raise ImportError('a user's own')\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return folder


def test_plug_ins_work_beside_folders_of_any_name(crowded, sanity, tmp_path):
    names = {}
    for name, (load, thing) in {
        "norms.py": (get_representation, "row_norms"),
        "centroids.py": (find_classifier, "Centroids"),
        "layers.py": (lambda reference: get_configs([reference])[0], "queries"),
    }.items():
        found = load(f"{crowded / name}:{thing}")
        found = found[0] if isinstance(found, tuple) else found
        names[name] = found.name
        origin = find_origin(f"{crowded / name}:{thing}", "")
        assert [str(path) for path in source_files(origin.root, origin.module)] == [name]
    assert list(names.values()) == ["row_norms", "centroids", "queries"]
    taken = [name for name in PLACES[:4] if name in sys.modules]
    assert taken == []


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_the_docs_snippets_run_beside_folders_of_any_name(crowded, sanity, tmp_path, sanity_cache):
    spec = SweepSpec(
        str(sanity),
        representations=("norms.py:row_norms",),
        classifiers=("centroids.py:Centroids",),
        configs=("layers.py:queries",),
        num_runs=1,
    )
    options = RuntimeOptions(
        tmp_path / "out", "run", cache_dir=sanity_cache, log_to="none", dashboard=False
    )
    result = run_sweep(spec, options)
    assert (result.failed, result.summary["ran"]) == ([], 1)
    (model,) = find_models(result.run_dir)
    assert model.cell == ("queries", "row_norms@centroids")


def test_a_file_with_the_name_of_this_program_is_refused(files):
    (files / "lorasweep.py").write_text(SNIPPETS["norms.py"])
    with pytest.raises(UserError, match=r"lorasweep.py has the name of this program: rename it"):
        get_representation(f"{files}/lorasweep.py:row_norms")


OLD_NORMS = """
from features.representations import representation
from trainables.classifiers.base import Config

@representation("old_norms", version=1, values=("mean",))
def old_norms(batch):
    from features.core.errors import UserError  # a function's imports, too
    assert UserError.__module__ == "lorasweep.features.common.errors"
    return batch.matrices.double().norm(dim=2).mean(1, keepdim=True)
"""


def test_a_plug_in_of_version_0_1_loads_beside_a_user_s_own_folders(tmp_path, monkeypatch):
    (tmp_path / "old.py").write_text(OLD_NORMS)
    (tmp_path / "cwd" / "features").mkdir(parents=True)
    (tmp_path / "cwd" / "features" / "__init__.py").write_text("raise ImportError('mine')\n")
    monkeypatch.syspath_prepend(tmp_path / "cwd")
    found = get_representation(f"{tmp_path}/old.py:old_norms")
    batch = MatrixBatch(torch.ones(3, 2, 2))
    assert found.compute(batch).shape == (3, 1)
    assert "features" not in sys.modules
    (tmp_path / "new.py").write_text("import lorasweep\n" + OLD_NORMS)
    with pytest.raises(UserError, match="cannot be loaded: ImportError: mine"):
        get_representation(f"{tmp_path}/new.py:old_norms")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"representations": ("{files}/norms.py:row_norm",)}, "did you mean 'row_norms'"),
        ({"representations": ("{files}/layers.py:queries",)}, "is no representation"),
        ({"representations": ("{files}/gone.py:x",)}, "there is no file"),
        ({"representations": ("no_such_package.x:y",)}, "there is no package 'no_such_package'"),
        ({"representations": ("{files}/broken.py:x",)}, "cannot be loaded: ZeroDivisionError"),
        ({"configs": ("{files}/norms.py:row_norms",)}, "is no layer config"),
        ({"classifiers": ("{files}/centroids.py:CentroidFit",)}, "is no classifier"),
        ({"classifiers": ("liner",)}, "did you mean 'linear'"),
        ({"pairs": (("stats", "mlp"), ("stats", "mlp"))}, "given twice"),
        ({"representations": ("stats/pca:x",)}, "pca:K needs a number"),
        ({"representations": ("channel_norms:0",)}, "the size must be a whole number"),
        ({"settings": {"mlp": {"depth": 3}}}, "classifier mlp: unknown setting 'depth'"),
        ({"settings": {"mlp": {"epochs": "3"}}}, "'epochs' must be of type int"),
        ({"settings": {"linear": {}}}, "classifier 'linear', which is not in the grid"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(change, message, files, sanity, tmp_path):
    (files / "broken.py").write_text("1 / 0\n")
    change = {
        name: tuple(v.format(files=files) if isinstance(v, str) else v for v in value)
        if isinstance(value, tuple) else value
        for name, value in change.items()
    }  # fmt: skip
    spec = replace(SweepSpec(str(sanity)), **change)
    options = RuntimeOptions(
        tmp_path / "out", "run", cache_dir=tmp_path / "cache", save_models="none"
    )
    with pytest.raises(UserError, match=re.escape(message)) as error:
        run_sweep(spec, options)
    assert "\n" not in str(error.value)
    if "broken" in str(error.value):
        log = (RunDir(tmp_path / "out" / "run").logs / "plugins.log").read_text()
        assert "1 / 0" in log


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_a_model_of_ones_own_code_runs_it_only_when_told_to(
    package, sanity, tmp_path, sanity_cache
):
    mute = (
        SNIPPETS["centroids.py"]
        .replace("def export_state", "def other")
        .replace('"centroids", 1', '"mute", 1')
    )
    (package / "mute.py").write_text(mute)
    spec = SweepSpec(
        str(sanity),
        pairs=(("row_norms", "centroids"), ("stats", "mine.mute:Centroids")),
        configs=("queries",),
        num_runs=1,
    )
    options = RuntimeOptions(
        tmp_path / "out", "run", cache_dir=sanity_cache, log_to="none", save_models="all"
    )
    run_dir = run_sweep(spec, options).run_dir
    (model,) = find_models(run_dir)
    assert model.cell == ("queries", "row_norms@centroids")
    reason = refusal(run_dir, read_sweep_file(run_dir), ("queries", "stats@mute"))
    assert reason == "classifier mute keeps no model"

    def judge(folder, **kwargs):
        return predict(folder, model, [str(sanity)], ensemble=False, memo=tmp_path, **kwargs)

    with pytest.raises(UserError, match="--run-plugins"):
        judge(run_dir, run_plugins=False)
    verdicts = judge(run_dir, run_plugins=True)
    right = [v.probabilities.argmax() == i // 6 for i, v in enumerate(verdicts)]
    assert len(right) == 18
    assert np.mean(right) > 0.8
    for file in RunDir(run_dir).plugins.rglob("norms.py"):
        file.write_text(file.read_text() + "\n# edited\n")
    with pytest.raises(UserError, match="is not the code"):
        judge(run_dir, run_plugins=True)
