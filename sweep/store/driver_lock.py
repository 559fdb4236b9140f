"""One driver per run directory: driver.lock says which, and that it lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lorasweep.features.common.lock import TIMES, LockFile, LockLostError, LockTimes
from lorasweep.trainables.store.run_dir import RunDir


@contextmanager
def driver_lock(
    run_dir: Path,
    on_lost: Callable[[], None],
    *,
    on_wait: Callable[[str], None] = lambda line: None,
    times: LockTimes = TIMES,
    patience: float = 0.0,
) -> Iterator[LockFile]:
    """Hold the run directory for the block; see `LockFile.take` for whose lock is taken over.

    Arguments:
        on_lost: called from another thread if somebody else took the lock all the same.
        on_wait: told, in one line, that a driver is being watched, or waited for.
        patience: seconds for which a living driver is waited for; it may be about to end.

    Raises:
        UserError: another driver holds it; names its host and process.
        LockLostError: another driver took it meanwhile; whatever else the block raised.
    """
    lock = LockFile(RunDir(run_dir).lock, run_dir)
    lock.take(on_wait, times, patience)
    try:
        with lock.beating(on_lost, times):
            yield lock
    except (Exception, KeyboardInterrupt) as error:
        if lock.lost.is_set() and not isinstance(error, LockLostError):
            raise lock.error() from error
        raise
    if lock.lost.is_set():
        raise lock.error()
