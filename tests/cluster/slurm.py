"""A real SLURM on one machine, with GPUs that are only files: for the tests of `snakemake --profile slurm`.

Its own folder, ports, key and configuration: nothing below /etc is read or written, so a SLURM that the machine already
belongs to is left alone. Needs root and Debian's slurmctld, slurmd, slurm-client and munge.

    partition l40s         node l40s-a    2 GPUs `l40s`
    partition rtx2080ti    node rtx-a     1 GPU `rtx2080ti`
    partition gpu          both nodes, whose features are their GPUs' names
    partition cpu          node rtx-a

Both nodes claim 16 CPUs and 64 GB, whatever the machine has. A job is ended a minute after its time limit, so that a training
run whose start took long on a busy machine can still end itself first.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

NODES = {"l40s-a": ("l40s", 2), "rtx-a": ("rtx2080ti", 1)}
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "munged")
CGROUPS = ("memory", "freezer", "cpuset", "devices")


def why_not_here() -> str:
    """Why the cluster cannot be started on this machine, "" if it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no SLURM on this machine ({', '.join(missing)} not found)"
    return "" if os.geteuid() == 0 else "a SLURM of one machine must be started by root"


class Cluster:
    """The daemons, and what SLURM knows of the jobs. `start` it, then give `environment` to Snakemake."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }
        self.ports = dict(zip(["ctld", *NODES], _free_ports(1 + len(NODES)), strict=True))
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        """Start munged, the controller and the nodes, and wait until the nodes are idle."""
        for name in ("state", "spool", "log", "munge", "bin"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self._write_configuration()
        # In its jobs Snakemake's plugin unsets every variable of SLURM before it calls srun.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        socket_file = self._munge_socket()
        # --force: below a temporary folder, which munged would refuse as others may write there.
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={socket_file}", f"--key-file={key}",
            *(f"--{kind}-file={self.folder / 'munge' / kind}" for kind in ("pid", "seed", "log")),
        )  # fmt: skip
        wait_until(socket_file.exists, "munged opens its socket", 20)
        self._daemon("slurmctld", "-D", "-i")
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.node_states() == {"idle"}, "the nodes are idle", 60)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node (again)."""
        self._daemon("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """What a power cut does: SIGKILL for a node's daemon and for everything that runs on the node."""
        daemon = self.processes.pop(node)
        steps = [process for process in psutil.process_iter() if self._is_step_of(process, node)]
        victims = [child for step in steps for child in [step, *step.children(recursive=True)]]
        for process in [psutil.Process(daemon.pid), *victims]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        daemon.wait()

    def stop(self) -> None:
        """Cancel every job and end the daemons."""
        if "slurmctld" in self.processes:
            subprocess.run(["scancel", "--state=PENDING"], env=self.environment, check=False)
            subprocess.run(["scancel", "--state=RUNNING"], env=self.environment, check=False)
        for node in NODES:
            if node in self.processes:
                self.kill_node(node)
        for name in ("slurmctld", "munged"):
            if name in self.processes:
                process = self.processes.pop(name)
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def ask(self, *command: str) -> str:
        """What a SLURM command prints."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def node_states(self) -> set[str]:
        """The states of the nodes."""
        return set(self.ask("sinfo", "--noheader", "--Node", "--format=%T").split())

    def jobs(self, rule: str = "") -> list[dict[str, str]]:
        """What SLURM knows of every job (of a rule) since the start, oldest first; `Comment` names rule and wildcards."""
        lines = self.ask("scontrol", "show", "job", "--oneliner").splitlines()
        rows = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        rows = [row for row in rows if row.get("Comment", "").startswith(f"rule_{rule}")]
        return sorted(rows, key=lambda row: int(row["JobId"]))

    def running(self, rule: str) -> str:
        """The id of the running job of a rule, "" if there is none."""
        return next((row["JobId"] for row in reversed(self.jobs(rule)) if row["JobState"] == "RUNNING"), "")

    def release(self, job: str) -> None:
        """Let a requeued job start now; SLURM would wait two minutes."""
        wait_until(lambda: self.state(job) == "PENDING", f"job {job} is queued again", 60)
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def state(self, job: str) -> str:
        """The state of a job."""
        return next(row["JobState"] for row in self.jobs() if row["JobId"] == job)

    def _daemon(self, program: str, *arguments: str, name: str = "") -> None:
        name = name or program
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [shutil.which(program) or program, *arguments],
                env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def _is_step_of(self, process: psutil.Process, node: str) -> bool:
        """Whether a process is the keeper of a job step on a node: it listens in the node's folder."""
        try:
            if process.name() != "slurmstepd":
                return False
            return any(str(self.folder / "spool" / node) in one.laddr for one in process.net_connections("unix"))
        except psutil.Error:
            return False

    def _munge_socket(self) -> Path:
        return self.folder / "munge" / "socket"

    def _write_configuration(self) -> None:
        gpus = self.folder / "gpus"
        gpus.mkdir()
        lines = []
        for node, (model, count) in NODES.items():
            files = [gpus / f"{model}{i}" for i in range(count)]
            for file in files:
                subprocess.run(["mknod", "-m", "666", file, "c", "1", "3"], check=True)  # as /dev/null
            lines += [f"NodeName={node} Name=gpu Type={model} File={file}" for file in files]
        (self.folder / "gres.conf").write_text("AutoDetect=off\n" + "\n".join(lines) + "\n")
        limited = _has_cgroups()
        (self.folder / "cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainDevices=no\nCgroupMountpoint=/sys/fs/cgroup\n"
            f"ConstrainRAMSpace={'yes' if limited else 'no'}\n"
        )
        (self.folder / "slurm.conf").write_text(self._slurm_conf(limited))

    def _slurm_conf(self, limited: bool) -> str:
        nodes = [
            f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={self.ports[node]} CPUs=16 RealMemory=64000 "
            f"Gres=gpu:{model}:{count} Feature={model} State=UNKNOWN\n"
            f"PartitionName={model} Nodes={node} {'Default=YES ' if model == 'rtx2080ti' else ''}MaxTime=2-00:00:00 State=UP"
            for node, (model, count) in NODES.items()
        ]
        # What slurm-constraint/ asks for, on the same nodes.
        nodes += [
            f"PartitionName={name} Nodes={members} MaxTime=2-00:00:00 State=UP"
            for name, members in (("gpu", ",".join(NODES)), ("cpu", "rtx-a"))
        ]
        # With cgroups, as on real clusters, no signal but the last reaches what a job started.
        tracking = (
            "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup"
            if limited
            else "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherParams=OverMemoryKill"
        )
        here = self.folder
        return f"""ClusterName=tusflow
SlurmctldHost={socket.gethostname().partition(".")[0]}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={self._munge_socket()}
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={self.ports["ctld"]}
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool/%n
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd.%n.pid
SlurmctldLogFile={here}/log/slurmctld.log
SlurmdLogFile={here}/log/slurmd.%n.log
{tracking}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
JobRequeue=1
MinJobAge=7200
KillWait=5
OverTimeLimit=1
InactiveLimit=0
SlurmdTimeout=10
AccountingStorageType=accounting_storage/none
{chr(10).join(nodes)}
"""


def wait_until(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Wait until a condition holds; `AssertionError` names it after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it never came that {what}"
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _has_cgroups() -> bool:
    mounts = Path("/proc/mounts").read_text(encoding="utf-8")
    return all(f" /sys/fs/cgroup/{name} cgroup rw" in mounts for name in CGROUPS)
