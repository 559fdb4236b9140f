"""Fixtures: one real local Ray per test session, and small datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lorasweep import SweepResult
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.zoo.random.sanity import make_sanity
from lorasweep.zoo.random.sd15 import matrix_column

from .browser import browser as browser

BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
NAMES = tuple(
    f"{BLOCK}.{attention}.to_q.lora.{side}.weight"
    for attention in ("attn1", "attn2")
    for side in ("down", "up")
)


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, keep a file's in one, so that its fixtures are made
    once, and in one those of all files that look at the same trained run."""

    def looks(item: pytest.Item) -> bool:
        return "zoo_run" in getattr(item, "fixturenames", ())

    together = {item.path for item in items if looks(item)}
    for item in items:
        group = "zoo_run" if item.path in together else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def grouped(request: pytest.FixtureRequest) -> None:
    """Fails where several processes do not keep a file's tests together: xdist tells groups by the
    ends of tests' names, and a pytest that it does not know lets no plugin write there."""
    names = [item.nodeid for item in request.session.items]
    assert not request.config.getoption("loadgroup", False) or all("@" in name for name in names)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray on this machine, started once."""
    import ray

    ray.init(
        "local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def sanity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sanity set with 6 adapters of each of 3 classes."""
    return make_sanity(tmp_path_factory.mktemp("data") / "sanity", samples=6, classes=3)


@pytest.fixture(scope="session")
def sanity_cache(local_ray: None, sanity: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every feature of the sanity set, computed once for the tests that are about something
    else."""
    from lorasweep.sweep.engine.feature_stage import features_only
    from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
    from lorasweep.sweep.watch.terminal import Reporter

    cache = tmp_path_factory.mktemp("cache")
    with Reporter() as reporter:
        features_only(SweepSpec(str(sanity)), RuntimeOptions(cache_dir=cache), reporter)
    return cache


@pytest.fixture(scope="session")
def sanity_run(
    sanity: Path, sanity_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> SweepResult:
    """What a run of 2 representations × 2 configs × 2 seeds on the sanity set returned, which no
    tracker was told of; its run directory is not to be changed."""
    from lorasweep import RuntimeOptions, SweepSpec, run_sweep

    spec = SweepSpec(
        str(sanity),
        representations=("stats", "matrix_norms"),
        num_runs=2,
        settings={"mlp": dict(hidden_dim=16, epochs=3)},
    )
    options = RuntimeOptions(
        tmp_path_factory.mktemp("sanity"), cache_dir=sanity_cache, log_to="none", save_models="none"
    )
    return run_sweep(spec, options)


def random_matrices(rows: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Layer tensor -> (rows, m, n) float32: rank 2, widths 8 and 6."""
    rng = np.random.default_rng(seed)
    shapes = [(2, 8), (8, 2), (2, 6), (8, 2)]
    return {
        name: rng.standard_normal((rows, *shape)).astype(np.float32)
        for name, shape in zip(NAMES, shapes)
    }


def adapter_table(rows: int = 12, seed: int = 0, **columns: object) -> pa.Table:
    """Random adapters with labels 0, 1, 2, 0, …; `columns` are added or replaced."""
    arrays = {name: matrix_column(m) for name, m in random_matrices(rows, seed).items()}
    arrays["category_label"] = pa.array(np.arange(rows) % 3)
    return pa.table({**arrays, **columns})


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write `adapter_table(…)` as a dataset folder."""

    def make(name: str = "adapters", **kwargs: object) -> Path:
        write_dataset(tmp_path / name, adapter_table(**kwargs))
        return tmp_path / name

    return make
