"""A real sweep through power cuts and a fault; `make chaos` has many more."""

import errno
import random

import pytest

from tests.programs import require_fuse

from .mount import KILL, Fault
from .sweep import CHANGES, Found, cut_power, fail_once, record, recover

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    require_fuse()
    return record(tmp_path_factory.mktemp("recorded"))


def test_what_a_cut_leaves_is_right_or_not_there(recorded, tmp_path):
    found = Found()
    cut_power(recorded, tmp_path / "left", 150, random.Random(1), found)
    assert found.wrong == []
    assert found.seen["record"]
    assert found.seen["features"]


def test_the_same_command_goes_on_from_what_is_left(recorded, tmp_path):
    found = Found()
    recover(recorded, tmp_path, random.Random(2), found)
    assert found.wrong == []
    assert found.seen["completed"] == 1


def test_a_worker_that_dies_in_an_operation_costs_nothing(recorded, tmp_path):
    found = Found()
    own = sum(o.by_worker and o.kind in CHANGES for o in recorded.operations)
    assert fail_once(recorded, tmp_path, Fault(CHANGES, True, own // 2, KILL), found)
    assert found.wrong == []


@pytest.mark.parametrize("by_worker", [False, True])
def test_a_disk_that_fails_is_told_in_a_line(by_worker, recorded, tmp_path):
    found = Found()
    fault = Fault(frozenset({"rename"}), by_worker, 1, errno.EIO)
    assert fail_once(recorded, tmp_path, fault, found)
    assert found.wrong == []
    assert "error: the disk says: Input/output error" in (tmp_path / "log").read_text()
