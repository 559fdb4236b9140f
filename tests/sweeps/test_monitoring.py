"""Watching a real sweep from outside: Ray's dashboard in a browser, the metrics endpoint,
Prometheus and what Grafana will ask it, and `status --watch`."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lorasweep.sweep.watch.prometheus import read_targets
from lorasweep.sweep.watch.status import read_status
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.trial_key import TrialKey
from tests.faults.chaos import ROOT, command
from tests.processes import driver_of
from tests.programs import require_program

DEPLOY = ROOT / "deploy"
STATES = {"finished": "finished", "running": "running", "failed": "failed", "to do": "todo"}
GPU = {"ray_node_gpus_utilization", "ray_node_gram_used"}
"""Metrics only a machine with a GPU has."""


def eventually(look, seconds=60.0, what="it"):
    """The first true value of `look()`; fails if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.3)
    return found


def get(url, **query):
    address = f"{url}?{urllib.parse.urlencode(query)}" if query else url
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def sweep(sanity, tmp_path_factory):
    """The driver of a sweep with dashboard that goes on until the tests are over."""
    out = tmp_path_factory.mktemp("watched")
    arguments = command(
        sanity, out, "--dashboard", "--representations", "stats,matrix_norms",
        "--configs", "all_layers", "--num-runs", "500", "--epochs", "1500", "--patience", "1500",
    )  # fmt: skip
    with open(out / "log", "w") as log:
        environment = {**os.environ, "RAY_metrics_report_interval_ms": "1000"}
        driver = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment)
    driver.run_dir = out / "run"
    try:
        yield driver
    finally:
        driver.terminate()
        driver.wait(60)


@pytest.fixture(scope="module")
def run_dir(sweep):
    """Its run directory, once a trial has finished."""
    found = sweep.run_dir
    eventually(lambda: (found / "sweep.json").exists() and read_status(found).done, 120)
    return found


def scrape(run_dir):
    """Every sample of our own metrics at the endpoint: name -> [(labels, value)]."""
    (target,) = read_targets(run_dir)
    samples = {}
    for family in text_string_to_metric_families(get(f"http://{target}/metrics")):
        for sample in family.samples:
            if sample.name.startswith("ray_lorasweep_"):
                name = sample.name.removeprefix("ray_lorasweep_")
                assert sample.labels["run"] == "run"
                samples.setdefault(name, []).append((sample.labels, sample.value))
    return samples


def exported(run_dir):
    """What the endpoint says, in the form of `recorded`."""
    samples = scrape(run_dir)

    def by_cell(name):
        return {
            (labels["config"], labels["representation"]): value
            for labels, value in samples.get(name, [])
        }

    trials = {}
    for labels, value in samples.get("trials", []):
        pair = labels["config"], labels["representation"]
        trials.setdefault(pair, {})[labels["state"]] = value
    return {
        "trials": trials,
        "running": {
            TrialKey(labels["config"], labels["representation"], int(labels["seed"]))
            for labels, value in samples.get("trial_running", [])
            if value
        },
        "best": by_cell("best_val_accuracy"),
        "ended": by_cell("trials_ended_total"),
        "timed": by_cell("trial_seconds_count"),
        "seconds": {k: pytest.approx(v) for k, v in by_cell("training_seconds_total").items()},
        "workers": [value for _, value in samples.get("workers", [])],
    }


def recorded(run_dir):
    """What records and events say."""
    status = read_status(run_dir)
    finished = Counter(key.cell for key in status.done)
    best, seconds = {}, {}
    for key in status.done:
        record = read_record(run_dir, key)
        best[key.cell] = max(best.get(key.cell, 0.0), record["metrics"]["val_acc"])
        seconds[key.cell] = seconds.get(key.cell, 0.0) + record["timing"]["total_seconds"]
    return {
        "trials": {
            pair: {STATES[name]: count for name, count in counts.items()}
            for pair, counts in status.counts().items()
        },
        "running": {trial.key for trial in status.activity.running},
        "best": best,
        "ended": finished,
        "timed": finished,
        "seconds": seconds,
        "workers": [status.activity.workers],
    }


@pytest.mark.long
def test_the_endpoint_agrees_with_the_records(run_dir):
    """The endpoint lags a second or two behind, so they agree between two ends of trials."""
    eventually(lambda: recorded(run_dir) == exported(run_dir))
    samples = scrape(run_dir)
    adapters = {labels["state"]: value for labels, value in samples["adapters"]}
    assert adapters == {"done": 18, "todo": 0}
    assert [value for _, value in samples["adapters_computed_total"]] == [18]
    assert samples["adapters_per_second"][0][1] > 0


@pytest.mark.long
def test_a_running_trial_is_followed_and_then_cleared(run_dir):
    def followed():
        samples = scrape(run_dir)
        scores = {
            labels["seed"] for labels, v in samples.get("trial_val_accuracy", []) if 0 < v <= 1
        }
        epochs = {labels["seed"] for labels, v in samples.get("trial_epoch", []) if v > 0}
        return scores & epochs

    seed = min(eventually(followed))

    def values():
        samples = scrape(run_dir)
        names = "trial_running", "trial_epoch", "trial_val_accuracy"
        return [
            v for name in names for labels, v in samples.get(name, []) if labels["seed"] == seed
        ]

    assert eventually(lambda: values() == [0, 0, 0])
    assert eventually(lambda: values() == [])


def listening(port):
    """The IPv4 addresses, as the kernel writes them, on which something listens at a port."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    here = [row[1] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
    return {address.split(":")[0][-8:] for address in here}


@pytest.mark.long
def test_endpoint_and_dashboard_are_on_loopback_only(run_dir):
    (target,) = read_targets(run_dir)
    for address in (target, read_status(run_dir).dashboard):
        assert listening(int(address.split(":")[-1])) == {"0100007F"}


@pytest.mark.long
def test_the_command_says_where_dashboard_and_metrics_are(run_dir):
    told = subprocess.run(
        [sys.executable, ROOT / "cli.py", "dashboard", run_dir],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (target,) = read_targets(run_dir)
    assert told.splitlines()[0] == read_status(run_dir).dashboard
    assert f"metrics: http://{target}/metrics (no token)" in told


@pytest.mark.long
@pytest.mark.chromium
def test_the_dashboard_shows_job_features_and_workers(run_dir, browser):
    url = eventually(lambda: read_status(run_dir).dashboard)
    token = Path("~/.ray/auth_token").expanduser().read_text().strip()
    with browser.open(url, width=1500, height=1000) as tab:
        page = tab.page
        tab.wait_for_text("Authentication Token Required")
        page.locator("input[type=password]").fill(token)
        with page.expect_event("load"):  # a right token makes the page reload itself
            page.get_by_role("button", name="Submit").click()
        page.goto(f"{url}/#/jobs")
        tab.wait_for_text("lorasweep run")
        page.get_by_role("link", name="01000000").click()
        page.get_by_text("Ray Data Overview").click()
        tab.wait_for_text("lorasweep-features")
        page.goto(f"{url}/#/actors")
        tab.wait_for_text("TrialWorker")
        assert page.get_by_text("TrialWorker", exact=True).count() == 2
        assert all(request.startswith((url, "data:")) for request in tab.requests)


# Prometheus


@pytest.fixture(scope="module")
def prometheus(run_dir, tmp_path_factory):
    """A Prometheus server with the shipped configuration; yields its address."""
    program = require_program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    config = text.replace("/path/to/ray_results", str(run_dir.parent))
    config = config.replace("scrape_interval: 10s", "scrape_interval: 1s")
    (folder / "prometheus.yml").write_text(config)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [
                program, f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        eventually(lambda: ready(f"http://{address}"), 30)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(30)


def ready(url):
    try:
        return get(f"{url}/-/ready")
    except OSError:
        return False


def ask(url, path, **query):
    """A Prometheus API answer; an error of its own is raised."""
    answer = json.loads(get(f"{url}/api/v1/{path}", **query))
    assert answer["status"] == "success", answer
    return answer["data"]


def grafana_queries():
    """Panel and query of every target of the shipped dashboard."""
    dashboard = json.loads((DEPLOY / "grafana" / "lorasweep.json").read_text())
    return [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def metric_names(query):
    return set(re.findall(r"\bray_\w+", query))


@pytest.mark.long
@pytest.mark.prometheus
def test_every_panel_has_something_to_show(run_dir, prometheus):
    def answers(query):
        asked = query.replace("$__rate_interval", "30s").replace("$run", ".+")
        assert "$" not in asked
        return ask(prometheus, "query", query=asked)["result"]

    for title, query in grafana_queries():
        if metric_names(query) & GPU:
            answers(query)
        else:
            eventually(lambda query=query: answers(query), 30, f"{title}: {query}")
    known = set(ask(prometheus, "label/__name__/values"))
    used = set.union(*(metric_names(query) for _, query in grafana_queries()))
    assert used - GPU <= known
    ours = {name for name in known if name.startswith("ray_lorasweep_")}
    left_out = {"ray_lorasweep_trial_seconds_sum"}  # made of the buckets' middles
    assert ours - used == left_out
    assert ask(prometheus, "label/run/values") == ["run"]
    (target,) = ask(prometheus, "targets", state="active")["activeTargets"]
    assert [target["labels"]["instance"]] == read_targets(run_dir)


def test_the_dashboard_file_is_one_grafana_can_import():
    dashboard = json.loads((DEPLOY / "grafana" / "lorasweep.json").read_text())
    assert dashboard["id"] is None
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == [
        "datasource",
        "run",
    ]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        box = panel["gridPos"]
        assert box["x"] + box["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert all(target["legendFormat"] for target in panel["targets"])


# Its death, last: it ends the sweep that the other tests look at
@pytest.mark.long
def test_a_running_sweep_is_watched_and_its_death_noticed(sweep, run_dir):
    """The numbers, the table, --watch on a terminal; then the driver is killed."""

    def both_are_trained():
        status = read_status(run_dir)
        trials = status.activity.running
        return len(trials) == 2 and all(trial.epoch > 0 for trial in trials) and status

    status = eventually(both_are_trained)
    assert status.alive
    assert status.driver["pid"] == driver_of(sweep.pid)
    (counts,) = (n for pair, n in status.counts().items() if n["running"])
    assert counts["running"] == 2
    assert counts["failed"] == 0
    assert sum(counts.values()) == 500
    shown = "\n".join(status.lines())
    assert f"driver: training (process {driver_of(sweep.pid)} on " in shown
    finished, todo = len(status.done), 998 - len(status.done)
    assert f"{finished} of 1000 finished ({finished / 1000:.1%}), 2 running, 0 failed, " in shown
    assert f" {todo} to do" in shown
    for trial in status.activity.running:
        assert f"{trial.key}: epoch {trial.epoch}, validation " in shown
    told = status.to_json()
    assert [t["epoch"] > 0 for t in told["running"]] == [True, True]
    assert told["driver"]["alive"]
    assert told["run_bytes"] > 1000
    json.dumps(told)

    screen = watch_on_a_terminal(run_dir, lambda: os.kill(sweep.pid, signal.SIGKILL))
    assert "driver: training" in screen
    assert "driver: not running; it died while training" in screen
    assert f"resume: lorasweep restore {run_dir}" in screen
    assert read_status(run_dir).activity.running == []


def watch_on_a_terminal(run_dir, then):
    """What `status --watch` shows, `then` being done once it has shown something."""
    parent, child = pty.openpty()
    watcher = subprocess.Popen(
        [sys.executable, ROOT / "cli.py", "status", run_dir, "--watch", "--every", "0.5"],
        stdout=child, stderr=child, stdin=child,
        env={**os.environ, "COLUMNS": "200", "LINES": "60", "TERM": "xterm"},
    )  # fmt: skip
    os.close(child)
    screen, done = b"", False
    try:
        while True:
            try:
                piece = os.read(parent, 65536)
            except OSError:
                break
            if not piece:
                break
            screen += piece
            if b"running now" in screen and not done:
                done = True
                then()
        assert watcher.wait(timeout=30) == 0
    finally:
        watcher.kill()
        os.close(parent)
    return screen.decode()
