"""Where a local Ray keeps its files: what cannot work is one line at once."""

import os
import socket
import stat
from pathlib import Path

import pytest

from lorasweep.features.common.errors import UserError
from lorasweep.sweep.cluster.places import auth_token, require_places


@pytest.fixture(autouse=True)
def own_variables(monkeypatch, tmp_path):
    """No variables of Ray's, and a home of the test's own."""
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def test_usual_places_are_fine(monkeypatch):
    require_places()
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")  # Python takes /tmp then, and so does Ray
    require_places()
    assert not Path("/nowhere").exists()


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_whose_sockets_would_have_too_long_paths_is_named(monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, str(tmp_path / ("x" * 60)))
    with pytest.raises(UserError, match=rf"^{name}=.* is too long: .* 107 bytes, so that 39 are"):
        require_places()


def test_the_longest_folder_is_just_short_enough_for_a_socket():
    session = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
    path = Path("/tmp") / ("y" * (107 - len(session) - len("/tmp/")))
    with socket.socket(socket.AF_UNIX) as server, pytest.raises(FileNotFoundError):
        server.bind(str(path) + session)  # not "AF_UNIX path too long"
    with socket.socket(socket.AF_UNIX) as server, pytest.raises(OSError, match="too long"):
        server.bind(str(path) + "y" + session)


def test_a_file_and_a_forbidden_folder_are_named(monkeypatch):
    short = Path("/tmp") / f"lorasweep-test-{os.getpid()}"
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    short.touch()
    try:
        with pytest.raises(UserError, match=r"^RAY_TMPDIR=.* is no folder: Ray keeps its files"):
            require_places()
    finally:
        short.unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    try:
        with pytest.raises(UserError, match=r"^RAY_TMPDIR=.* cannot be used: Permission denied"):
            require_places()
    finally:
        short.rmdir()


def test_without_loopback_it_is_one_line(monkeypatch):
    def refuse(address, **_):
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(UserError, match=r"needs the loopback address 127\.0\.0\.1: Cannot assign"):
        require_places()


def test_a_home_that_can_be_written_needs_no_other_place():
    with auth_token() as variables:
        assert variables == {}


def test_without_a_home_the_token_lies_elsewhere_for_a_while(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # no folder can be made below it
    with auth_token() as variables:
        path = Path(variables["RAY_AUTH_TOKEN_PATH"])
        assert len(path.read_text()) == 32
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # the user's own choice counts
    with auth_token() as variables:
        assert variables == {}
