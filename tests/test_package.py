"""One import name, what it gives, and what it refuses."""

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lorasweep

ROOT = Path(__file__).parents[1]


def python(script, cwd):
    return subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def test_every_public_name_is_there_and_says_what_it_is():
    assert len(set(lorasweep.__all__)) == len(lorasweep.__all__)
    for name in lorasweep.__all__:
        assert name in dir(lorasweep)
        assert inspect.getdoc(getattr(lorasweep, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'colour'"):
        lorasweep.colour  # noqa: B018


def test_importing_it_loads_nothing_heavy(tmp_path):
    done = python(
        "import sys, lorasweep\n"
        "heavy = {'ray', 'torch', 'datasets', 'pandas', 'numpy', 'sklearn', 'typer'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "lorasweep.representation, lorasweep.Classifier\n"
        "assert not {'ray', 'torch', 'pandas', 'sklearn'} & sys.modules.keys()\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["features", "trainables", "sweep", "zoo"])
def test_a_floor_has_no_second_name(name):
    done = python(f"import {name}", ROOT)
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: import this package as lorasweep.{name}, from an installed lorasweep"
    )


def test_a_copy_without_links_says_so(tmp_path):
    package = tmp_path / "lorasweep"
    package.mkdir()
    shutil.copy(ROOT / "src/lorasweep/__init__.py", package)
    (package / "features").write_text("../../features")  # a link, as an archive without links has
    done = python("import lorasweep", tmp_path)
    assert "lacks its symbolic links" in done.stderr.splitlines()[-1]
