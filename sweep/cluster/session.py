"""Starting or joining Ray, and keeping it quiet."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lorasweep.features.common.errors import UserError
from lorasweep.sweep.process.machine import usable_cores
from lorasweep.sweep.process.signals import Interruption
from lorasweep.sweep.process.supervisor import (
    RayDiedError,
    may_restart,
    restart,
    restarts,
    untold_death,
)
from lorasweep.sweep.request.spec import RuntimeOptions
from lorasweep.trainables.store.events import Event, RayDied, Said, Warned

from .places import auth_token, require_places
from .process_state import bare_loggers, environment, root_handlers
from .ray_monitor import ray_watched

if TYPE_CHECKING:
    from ray._private.worker import BaseContext
    from ray.job_config import JobConfig

logger = logging.getLogger("ray.lorasweep")

_LOOK_SECONDS = 1.0


@contextmanager
def ray_session(
    options: RuntimeOptions,
    log_dir: Path,
    name: str,
    interruption: Interruption,
    publish: Callable[[Event], None],
) -> Iterator[str | None]:
    """Ray for the duration of the block; yields the dashboard's address, if there is one.

    A Ray that is already initialised in this process is used and left running. After the block
    the process's environment and logging are what they were.

    Arguments:
        log_dir: where ray.log goes.
        name: what the dashboard calls the job, after "lorasweep".
        interruption: its handlers are installed again once Ray runs, which replaces them.
        publish: told what could not be had, and if Ray dies.

    Raises:
        UserError: the cluster to join cannot be reached, or Ray cannot start here.
        RayDiedError: Ray died; see `ray_watched`.
    """
    if untold_death():
        publish(RayDied("Ray died and took the driver with it", restarts()))
    local = not options.cluster
    with (
        auth_token(local=local) as token,
        _environment(options, token),
    ):
        import ray

        with nullcontext() if options.verbose else _quiet(log_dir):
            if ray.is_initialized():
                with ray_watched(publish, interruption, ours=False, local=False):
                    yield None
                return
            if local and _listens_everywhere():
                publish(
                    Warned(
                        "Ray was imported before this run: its ports are open to other machines; "
                        "import it later, or set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before"
                    )
                )
            if local:
                require_places()
            quiet = nullcontext() if options.verbose else _native_stderr_into(log_dir / "ray.log")
            with quiet:
                try:
                    with ray_watched(publish, interruption, ours=True, local=local):
                        context = _start_or_join(options, name, publish)
                        interruption.install()
                        yield context.dashboard_url
                finally:
                    ray.shutdown()


@contextmanager
def _environment(options: RuntimeOptions, token: Mapping[str, str]) -> Iterator[None]:
    """Variables for Ray and for its workers, which inherit them."""
    with environment(
        # A Ray that need not be found by other machines listens on loopback only. Ray has this
        # switch for other systems than Linux, and reads it when it is imported.
        {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1" if options.cluster else "0"},
        # A worker that must be restarted for other variables costs seconds; these are inherited.
        # Ray Data's workers run their tasks in threads, whose own malloc arenas give memory back at
        # once; see features/common/memory.py for why that is slow.
        unless_set={
            "MALLOC_ARENA_MAX": "1",
            "RAY_AIR_NEW_OUTPUT": "0",
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            # Under `uv run` Ray would start workers by it, in an environment without Ray.
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1" if options.cluster else "0",
            **token,
        },
    ):
        yield


def _listens_everywhere() -> bool:
    """Whether a Ray started here would listen on all interfaces, as read at its import."""
    from ray._private import ray_constants

    return getattr(ray_constants, "ENABLE_RAY_CLUSTER", False)


def _start_or_join(
    options: RuntimeOptions, name: str, publish: Callable[[Event], None]
) -> BaseContext:
    import ray
    from ray.job_config import JobConfig

    job = JobConfig(metadata={"job_name": f"lorasweep {name}"})
    if options.cluster:
        return _join(options.cluster, options, job, publish)
    try:
        return ray.init(
            address="local",
            num_cpus=_given_cores(),
            include_dashboard=options.dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=options.verbose,
            configure_logging=False,
            job_config=job,
        )
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # a full disk
            raise
        logger.exception("Ray did not start")
        reason, again = f"Ray did not start ({error!r})", may_restart()
        publish(RayDied(reason, restarts() + 1 if again else 0))
        if not again:
            raise RayDiedError(reason) from error
        restart()


def _join(
    address: str, options: RuntimeOptions, job: JobConfig, publish: Callable[[Event], None]
) -> BaseContext:
    """Join a cluster; one that died a while ago is waited for."""
    import ray

    waiting = Waiting(options.cluster_wait if restarts() else 0.0, publish)
    while True:
        try:
            _require_reachable(address)
            return ray.init(
                address=address,
                log_to_driver=options.verbose,
                configure_logging=False,
                runtime_env={"py_modules": _own_packages()},
                job_config=job,
            )
        except OSError as error:
            refused = UserError(
                f"cannot join the Ray cluster at {address!r}: is it running? ({error})"
            )
            refused.__cause__ = error
        waiting.once_more(refused)


class Waiting:
    """Waits for a cluster to become what is needed, and says so once.

    Arguments:
        seconds: how long, in all.
        publish: told what is waited for.
    """

    def __init__(self, seconds: float, publish: Callable[[Event], None]) -> None:
        self._seconds, self._publish = seconds, publish
        self._until = time.monotonic() + seconds
        self._said = False

    def once_more(self, lacking: UserError) -> None:
        """Sleep a little before the next look; raises what is lacking once the time is up."""
        if time.monotonic() >= self._until:
            raise lacking
        if not self._said:
            self._publish(Said(f"waiting   up to {self._seconds:g} s, since {lacking}"))
        self._said = True
        time.sleep(_LOOK_SECONDS)


def _given_cores() -> int | None:
    """Cores for Ray where this process may not use all; it would count the machine's."""
    given = usable_cores()
    return given if given < (os.cpu_count() or given) else None


def _require_reachable(address: str) -> None:
    """Fail at once where Ray would try again for minutes: nothing listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _own_packages() -> list[str]:
    import lorasweep

    return [str(Path(lorasweep.__path__[0]))]


@contextmanager
def _quiet(log_dir: Path) -> Iterator[None]:
    """Send what Ray, Ray Data and Tune log to a file for the duration of the block."""
    import ray.data  # these configure handlers of their own when first imported
    import ray.tune

    # ray.init() removes the handlers of the "ray" logger, so the file hangs on the root logger.
    log_dir.mkdir(parents=True, exist_ok=True)
    log = _RunLog(log_dir / "ray.log", delay=True)
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    with root_handlers(log, _OthersOnTerminal()), bare_loggers("ray"), _told_to_the_log():
        context.enable_progress_bars = False
        try:
            yield
        finally:
            context.enable_progress_bars = bars


@contextmanager
def _told_to_the_log() -> Iterator[None]:
    """Log what Ray's processes tell all drivers of, a dying raylet's last pages among it.

    Ray has no switch for it and prints it. Another Ray may do without this function.
    """
    from ray._private import worker

    printing = getattr(worker, "print_to_stdstream", None)
    if printing is None:
        yield
        return
    worker.print_to_stdstream = lambda data, **_: logger.warning("\n".join(data["lines"]))
    try:
        yield
    finally:
        worker.print_to_stdstream = printing


@contextmanager
def _native_stderr_into(path: Path) -> Iterator[None]:
    """Append what Ray's C++ core writes to this process's standard error to a file.

    Python's `sys.stderr` goes on writing where it did.
    """
    sys.stderr.flush()
    terminal, own = os.dup(2), sys.stderr
    redirected = False
    with suppress(OSError, ValueError, AttributeError):  # no file, as under a test runner
        redirected = own.fileno() == 2
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if redirected:
            sys.stderr = os.fdopen(terminal, "w", buffering=1, errors="replace", closefd=False)
        os.dup2(log, 2)
        yield
    finally:
        if redirected:
            sys.stderr.flush()
            sys.stderr = own
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(log)


class _RunLog(logging.FileHandler):
    """The run directory's log file."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: a full disk is told where it stops the run."""


class _OthersOnTerminal(logging.Handler):
    """What a logger without any handler would print, Ray's left out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(lambda record: record.name.split(".")[0] != "ray")

    def emit(self, record: logging.LogRecord) -> None:
        """Print to whatever is standard error now."""
        print(self.format(record), file=sys.stderr)
