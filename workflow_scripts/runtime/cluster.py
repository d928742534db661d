"""What a killed Snakemake leaves behind: its lock, and on a cluster its jobs.

Snakemake locks its working directory and, killed by SIGKILL or a dead node, cannot unlock it: the next run would refuse
to start until somebody says `--unlock`. Its SLURM jobs run on, and the next run's jobs would wait for the work directories
that they hold. So each run notes who it is before it locks, and the next one removes the lock and cancels the jobs of runs
that are known to be dead: noted on this host, and no such process any more. Where any other run may be alive, the lock is
left for a person to decide.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_json, write_json
from workflow_scripts.core.log import say

# How long squeue shows an ended job where the controller does not say it; SLURM's default.
MIN_JOB_AGE = 300  # seconds


def use_for_stages(repository: str) -> None:
    """Let `python -m workflow_scripts.<stage>` mean this repository and the Python that runs Snakemake.

    So it works with `snakemake --directory` and where the environment was not activated. A conda or container environment,
    where one is used, still comes before that Python.
    """
    _put_first("PYTHONPATH", repository)
    _put_first("PATH", str(Path(sys.executable).parent))


def stay_with_squeue() -> None:
    """Keep Snakemake's SLURM plugin from asking sacct when one `scontrol show config` was slow.

    Without an accounting database sacct never answers, and the plugin (2.8.0) then loses sight of its jobs for good. How long
    squeue shows an ended job is taken to be SLURM's default where the controller does not say it in time.
    """
    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is not None:
        ask = plugin.get_min_job_age
        plugin.get_min_job_age = lambda: ask() or MIN_JOB_AGE


def _put_first(variable: str, folder: str) -> None:
    old = os.environ.get(variable, "")
    others = [part for part in old.split(os.pathsep) if part and part != folder]
    os.environ[variable] = os.pathsep.join([folder, *others])


NOTES = "tusflow_runs"
# How long cancelled jobs may take to end; SLURM kills them KillWait seconds (30 by default) after it asked them to.
CANCEL_SECONDS = 120.0


def note_run(folder: Path, logs: Sequence[str] = ()) -> None:
    """Note this process as one that runs the workflow; `folder` is `.snakemake`, `logs` are Snakemake's own."""
    write_json({**_identity(os.getpid()), "logs": list(map(str, logs))}, folder / NOTES / f"{os.getpid()}.json")


def remove_stale_locks(folder: Path) -> bool:
    """Remove the locks below `.snakemake` if all other runs that are noted there are dead; returns whether it did."""
    locks = list((folder / "locks").glob("*.lock"))
    others = [run for file, run in noted_runs(folder) if file.stem != str(os.getpid()) or is_dead(run)]
    if not locks or not others or not all(map(is_dead, others)):
        return False
    for lock in locks:
        lock.unlink(missing_ok=True)
    return True


def cancel_orphans(folder: Path) -> list[str]:
    """Cancel the SLURM jobs of noted runs that are dead, wait until they have ended, and forget the runs; returns the ids.

    Snakemake names every job after its run and writes that name into its log.
    """
    cancelled = []
    for file, run in noted_runs(folder):
        if is_dead(run):
            cancelled += _cancel(_slurm_name(map(Path, run.get("logs", [])))) if shutil.which("squeue") else []
            file.unlink(missing_ok=True)
    return cancelled


def _cancel(name: str) -> list[str]:
    jobs = _queued(name) if name else []
    if jobs:
        say(f"cancelling {len(jobs)} SLURM jobs of a Snakemake that was killed: {' '.join(jobs)}")
        subprocess.run(["scancel", *jobs], check=False)
        deadline = time.monotonic() + CANCEL_SECONDS
        while _queued(name) and time.monotonic() < deadline:
            time.sleep(1.0)
    return jobs


def noted_runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The runs that are noted below `.snakemake`, each with its file, the latest last.

    A damaged note, or one that another run just removed, is not a run.
    """
    runs = []
    for file in (folder / NOTES).glob("*.json"):
        with suppress(UserError, FileNotFoundError):
            runs.append((file.stat().st_mtime, file, read_json(file)))
    return [(file, run) for _, file, run in sorted(runs, key=lambda found: found[:2])]


def is_dead(run: Mapping[str, Any]) -> bool:
    """Whether a noted run ran on this host and does not any more."""
    return run["host"] == platform.node() and run["started"] != _identity(run["pid"])["started"]


def _slurm_name(logs: Iterable[Path]) -> str:
    """The name that a run's SLURM jobs share, "" if it submitted none."""
    for log in logs:
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        if found := re.search(r"SLURM run ID: (\S+)", text):
            return found[1]
    return ""


def _queued(name: str) -> list[str]:
    """The ids of this user's waiting and running jobs of a name; none where SLURM does not answer."""
    asked = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%A", f"--name={name}"], capture_output=True, text=True, check=False
    )
    return asked.stdout.split()


def _identity(pid: int) -> dict[str, str | int]:
    """Host, process and when it started: process numbers are used again."""
    return {"host": platform.node(), "pid": pid, "started": _started(pid)}


def _started(pid: int) -> str:
    """When a process started, "" if there is none (or it is a zombie)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return ""
