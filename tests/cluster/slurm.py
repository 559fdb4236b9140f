"""A real SLURM on this machine, for tests: a controller and two nodes."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")


_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass
class Slurm:
    """A running SLURM.

    Attributes:
        folder: its files.
        variables: what its commands need in their environment.
    """

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *command: object, check: bool = True) -> str:
        """What a command of SLURM's prints."""
        done = subprocess.run(
            list(map(str, command)), env=self.variables, capture_output=True, text=True
        )
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout

    def submit(self, script: Path, *arguments: object, options: tuple[str, ...] = ()) -> str:
        """Submit a script; returns the job's number."""
        return self.run("sbatch", "--parsable", *options, script, *arguments).strip()

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, …"""
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(part.split("=", 1) for part in shown.split() if "=" in part)["JobState"]

    def send_user_signal(self) -> None:
        """Have preemption send the signal that a job asked for."""
        conf = self.folder / "slurm.conf"
        known = conf.read_text()
        conf.write_text(f"{known}PreemptParameters=send_user_signal\n")
        try:
            self.run("scontrol", "reconfigure")
        except RuntimeError:  # an older SLURM
            conf.write_text(f"{known}SlurmctldParameters=preempt_send_user_signal\n")
            self.run("scontrol", "reconfigure")

    def wait_for(self, job: str, *states: str, seconds: float) -> str:
        """Wait until a job is in one of some states; returns which.

        Raises:
            TimeoutError: it is in another one after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while (now := self.state(job)) not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job} is {now}")
            time.sleep(0.5)
        return now


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A SLURM of two nodes with one core each, for the duration of the block; jobs of the partition
    "urgent" preempt others, who have a minute to end."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        Path(folder).chmod(0o755)  # munged runs as another user
        with _running(Path(folder)) as found:
            yield found


@contextmanager
def _running(folder: Path) -> Iterator[Slurm]:
    host = socket.gethostname()
    ports = _free_ports(3)
    nodes = "\n".join(
        f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 "
        "RealMemory=4000 State=UNKNOWN"
        for i, port in enumerate(ports[1:], 1)
    )
    (folder / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=10
MinJobAge=600
SchedulerParameters=sched_interval=5,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""
    )
    found = Slurm(folder, {**os.environ, "PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")})
    with ExitStack() as daemons:
        _munge(folder / "munge", daemons)
        _daemon(["slurmctld", "-D", "-L", folder / "slurmctld.log"], found.variables, daemons)
        for name in ("n1", "n2"):
            (folder / f"spool-{name}").mkdir()
            log = folder / f"slurmd-{name}.log"
            _daemon(["slurmd", "-D", "-N", name, "-L", log], found.variables, daemons)
        deadline = time.monotonic() + 60
        while found.run("sinfo", "-h", "-o", "%T %D", check=False).strip() != "idle 2":
            if time.monotonic() > deadline:
                raise TimeoutError((folder / "slurmctld.log").read_text()[-2000:])
            time.sleep(0.5)
        try:
            yield found
        finally:
            found.run("scancel", "--user", "root", check=False)
            deadline = time.monotonic() + 30
            while found.run("squeue", "-h", check=False).strip() and time.monotonic() < deadline:
                time.sleep(0.5)


def _munge(folder: Path, daemons: ExitStack) -> None:
    """The service that tells SLURM's daemons who is who."""
    folder.mkdir()
    user = pwd.getpwnam("munge")
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o400)
    for path in (folder, folder / "key"):
        os.chown(path, user.pw_uid, user.pw_gid)
    process = subprocess.Popen(
        [
            *("munged", "--foreground", "--force", f"--key-file={folder}/key"),
            *(
                f"--socket={folder}/socket",
                f"--pid-file={folder}/pid",
                f"--seed-file={folder}/seed",
            ),
            f"--log-file={folder}/log",
        ],
        env={"PATH": _PATH},
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    daemons.callback(_end, process)
    deadline = time.monotonic() + 20
    while not (folder / "socket").exists():
        if time.monotonic() > deadline or process.poll() is not None:
            raise TimeoutError("munged does not start")
        time.sleep(0.1)


def _daemon(command: list[object], variables: dict[str, str], daemons: ExitStack) -> None:
    process = subprocess.Popen(
        list(map(str, command)),
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    daemons.callback(_end, process)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
