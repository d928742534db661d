"""Locks that a killed Snakemake left behind.

Snakemake locks its working directory and, killed by SIGKILL or a dead node, cannot unlock it: the next run would refuse
to start until somebody says `--unlock`. So each run notes who it is, and the next one removes the locks of a run that is
known to be dead: noted on this host, and no such process any more. Anything else is left for a person to decide.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from workflow_scripts.files import read_json, write_json

NOTE = "tusflow_run.json"


def note_run(folder: Path) -> None:
    """Note this process as the one that runs the workflow; `folder` is `.snakemake`."""
    write_json(_identity(os.getpid()), folder / NOTE)


def remove_stale_locks(folder: Path) -> bool:
    """Remove the locks below `.snakemake` if the run that is noted there is dead; returns whether it did."""
    locks = list((folder / "locks").glob("*.lock"))
    note = folder / NOTE
    if not locks or not note.exists():
        return False
    try:
        owner = read_json(note)
    except json.JSONDecodeError:
        return False
    if owner["host"] != platform.node() or owner == _identity(owner["pid"]):
        return False
    for lock in locks:
        lock.unlink(missing_ok=True)
    return True


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
