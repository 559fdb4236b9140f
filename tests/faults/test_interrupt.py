"""What signals do to a driver, in processes of its own."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lorasweep.sweep.process import signals as interrupt
from lorasweep.sweep.process.signals import interruptible

ROOT = Path(__file__).parents[2]

DRIVER = """
import sys, time
from lorasweep.sweep.process.signals import EXIT_CODE, interruptible
try:
    with interruptible():
        print("ready", flush=True)
        time.sleep(20)
except KeyboardInterrupt:
    sys.exit(EXIT_CODE)
"""

SCRIPT = """
rm -f ready
trap "" $1
"$2" -c "$3" > ready &
until grep -qs ready ready; do sleep 0.05; done
kill -$0 $!
wait $!
"""


def signalled_in_the_background(number, tmp_path, ignored=""):
    """Exit code of a driver that a script starts with `&` and sends a signal.

    Such a process begins with SIGINT ignored.
    """
    arguments = [number.name[3:], ignored or "USR2", sys.executable, DRIVER]
    done = subprocess.run(
        ["bash", "-c", SCRIPT, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    return done.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_in_the_background_of_a_script_can_be_stopped(number, tmp_path):
    assert signalled_in_the_background(number, tmp_path) == 130
    assert signalled_in_the_background(number, tmp_path, ignored="INT TERM") == 130


def test_whoever_goes_on_after_an_interrupted_run_is_not_ended_by_it(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(interrupt, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(interrupt.os, "_exit", lambda code: ended.set())
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert not ended.wait(0.6)
