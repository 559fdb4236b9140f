"""Datasets on object storage give what folders of them give, and one line where they fail."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lorasweep import cli
from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from tests.conftest import adapter_table

ROOT = Path(__file__).parents[1]
SECRET = "not-to-be-written-down"


def scan(name, memo):
    source = find_dataset(DatasetRequest(str(name)), memo)
    return source, scan_dataset(source, "category_label", None, memo)


@pytest.fixture
def memory():
    """A bucket in this process's memory."""
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


@pytest.mark.parametrize("kind", ["save_to_disk", "parquet", "one file"])
def test_objects_are_the_dataset_that_their_folder_is(kind, memory, make_dataset, tmp_path):
    url = "memory://bucket/some/adapters"
    if kind == "save_to_disk":
        folder = make_dataset()
    else:
        folder = tmp_path / "adapters"
        folder.mkdir()
        pq.write_table(adapter_table(), folder / "train-0.parquet")
        pq.write_table(adapter_table(3), folder / "test-0.parquet")
    memory.put(str(folder), "/bucket/some/adapters", recursive=True)
    if kind == "one file":
        url += "/train-0.parquet"
    source, found = scan(url, tmp_path / "cache")
    local, expected = scan(folder, tmp_path / "cache")
    assert found == expected
    assert [f.read_bytes() for f in source.files] == [f.read_bytes() for f in local.files]
    before = [file.stat().st_ino for file in source.files]
    again, _ = scan(url + "/", tmp_path / "cache")
    assert [file.stat().st_ino for file in again.files] == before


def test_a_file_url_is_read_like_any_other(make_dataset, tmp_path):
    folder = make_dataset()
    source, found = scan(folder.as_uri(), tmp_path / "cache")
    assert found == scan(folder, tmp_path / "cache")[1]
    assert all(file.parent == tmp_path / "cache" / "objects" for file in source.files)


def test_a_changed_object_is_noticed_and_a_torn_copy_made_anew(memory, make_dataset, tmp_path):
    url, cache = "memory://bucket/adapters", tmp_path / "cache"
    memory.put(str(make_dataset("first", seed=1)), "/bucket/adapters", recursive=True)
    source, first = scan(url, cache)
    memory.rm("/bucket", recursive=True)
    memory.put(str(make_dataset("other", seed=2)), "/bucket/adapters", recursive=True)
    changed, second = scan(url, cache)
    assert second.fingerprint != first.fingerprint
    assert set(changed.files).isdisjoint(source.files)
    os.truncate(changed.files[0], 100)
    left = cache / "objects" / ".a-killed-copy.arrow.0123abcd.tmp"
    left.touch()
    assert scan(url, cache)[1] == second
    assert not left.exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://nothing/here", "there is nothing at memory://nothing/here"),
        ("memory://empty", "memory://empty is no dataset"),
        ("nosuch://bucket/x", "cannot read nosuch://bucket/x: .*nosuch"),
        ("ftp://me:pass-word@host/x", "holds credentials"),
        ("https://host/x.parquet?X-Signature=pass-word", "holds credentials"),
    ],
)
def test_what_cannot_be_read_is_one_line(url, reason, memory, tmp_path):
    memory.pipe("/empty/readme.txt", b"nothing")
    with pytest.raises(UserError, match=reason) as error:
        find_dataset(DatasetRequest(url), tmp_path)
    assert "\n" not in str(error.value)
    assert "pass-word" not in str(error.value)


def test_a_cache_that_cannot_be_written_is_one_line(memory, make_dataset, tmp_path):
    memory.put(str(make_dataset()), "/bucket/adapters", recursive=True)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot make .*cache/objects"):
        find_dataset(DatasetRequest("memory://bucket/adapters"), tmp_path / "cache")


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # what Python itself does to block an import
    with pytest.raises(UserError, match=r"pip install s3fs"):
        find_dataset(DatasetRequest("s3://bucket/x"), tmp_path)


@pytest.mark.parametrize("option", ["--output-dir", "--cache-dir"])
def test_run_directory_and_cache_are_no_urls(option, sanity):
    words = ["run", "--dataset", str(sanity), option, "s3://bucket/x", "--dry-run"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert f"{option} 's3://bucket/x' is a URL" in " ".join(result.output.split())


# A real server


class Server:
    """A local S3 server, and commands that know it as their users would."""

    def __init__(self, port: int) -> None:
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def python(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def upload(self, folder: Path, url: str) -> None:
        code = (
            "import sys, s3fs; fs = s3fs.S3FileSystem(); folder, url = sys.argv[1:]; "
            "fs.makedirs(url.split('/')[2], exist_ok=True); "
            "fs.put(folder + '/', url + '/', recursive=True)"
        )
        self.python("-c", code, str(folder), url).check_returncode()

    def lorasweep(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "cli", *words, **environment)

    @contextmanager
    def refusing_strangers(self):
        """Answer with 403 whom the server does not know: everybody."""
        self._unchecked_requests("0")
        try:
            yield
        finally:
            self._unchecked_requests("inf")

    def _unchecked_requests(self, count: str) -> None:
        url = f"{self.environment['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        asked = urllib.request.Request(url, count.encode(), plain)
        urllib.request.urlopen(asked, timeout=5).close()


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(port)
    log = tmp_path_factory.mktemp("s3") / "log"
    with open(log, "w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)],
            env=server.environment,
            stdout=out,
            stderr=out,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(server.environment["AWS_ENDPOINT_URL"], timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait()


def test_a_sweep_is_planned_from_s3_and_a_changed_object_noticed(s3, make_dataset, tmp_path):
    url = "s3://bucket/some/adapters"
    prints = []
    for seed in (1, 1, 2):
        s3.upload(make_dataset(f"seed-{seed}", seed=seed), url)
        done = s3.lorasweep("run", "--dataset", url, "--cache-dir", str(tmp_path), "--dry-run")
        assert done.returncode == 0, done.stderr + done.stdout
        scans = [json.loads(path.read_text()) for path in (tmp_path / "scans").iterdir()]
        prints.append({item["scan"]["fingerprint"] for item in scans})
    local = scan(tmp_path / "seed-1", tmp_path / "other")[1].fingerprint
    assert prints[0] == prints[1] == {local}  # the same bytes written again are no change
    assert len(prints[2]) == 2


@pytest.mark.parametrize(
    ("url", "environment", "reason"),
    [
        ("s3://no-such-bucket/x", {}, r"s3://no-such-bucket/x"),
        ("s3://bucket-2/no-such-key", {}, r"there is nothing at s3://bucket-2/no-such-key"),
        ("s3://bucket-2/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, r"cannot read s3://"),
    ],
)
def test_what_s3_refuses_is_one_line(url, environment, reason, s3, make_dataset, tmp_path):
    s3.upload(make_dataset(), "s3://bucket-2/adapters")
    words = ["run", "--dataset", url, "--cache-dir", str(tmp_path / "cache"), "--dry-run"]
    done = s3.lorasweep(*words, **environment)
    assert done.returncode == 2
    assert re.search(reason, done.stderr)
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_who_may_not_read_is_told_so_in_one_line(s3, make_dataset, tmp_path):
    url = "s3://bucket-3/adapters"
    s3.upload(make_dataset(), url)
    words = ["run", "--dataset", url, "--cache-dir", str(tmp_path / "cache"), "--dry-run"]
    with s3.refusing_strangers():
        done = s3.lorasweep(*words)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: cannot read {url}: .*\n", done.stderr)
    assert SECRET not in done.stderr
    assert s3.lorasweep(*words).returncode == 0


@pytest.mark.long
def test_a_sweep_from_s3_has_the_numbers_of_one_from_the_folder(s3, tmp_path, sanity):
    url = "s3://sweeps/sanity"
    s3.upload(sanity, url)
    made = {}
    for name, dataset in (("s3", url), ("local", str(sanity))):
        cache = tmp_path / name
        words = ["--representations", "stats,flat", "--num-runs", "1", "--name", name]
        where = ["--output-dir", str(tmp_path / "out"), "--cache-dir", str(cache)]
        done = s3.lorasweep("run", "--dataset", dataset, *words, *where, "--no-dashboard")
        assert done.returncode == 0, done.stderr + done.stdout
        shards = {f.relative_to(cache): f.read_bytes() for f in cache.rglob("data-*.arrow")}
        results = json.loads((tmp_path / "out" / name / "results.json").read_text())
        sweep = json.loads((tmp_path / "out" / name / "sweep.json").read_text())
        made[name] = shards, results, sweep
    assert made["s3"][0]
    assert made["s3"][0] == made["local"][0]
    assert made["s3"][2]["frozen"]["decides"] == made["local"][2]["frozen"]["decides"]
    assert made["s3"][2]["environment"]["dataset"]["dataset"] == url
    for file in (tmp_path / "out" / "s3").rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes(), file
