"""Trainings that survive: work directories with a fingerprint, atomic checkpoints, a clock of their own.

Snakemake deletes the declared outputs of a job that fails, so progress lives in a work directory that is no output.
It carries a fingerprint of everything that determines the result (settings, inputs' content, code version): a match is
continued, anything else starts afresh. Success closes it, so that a forced rerun really reruns.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import numpy as np
import torch

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import (
    atomic_path,
    read_json,
    read_npy,
    recorded_sha256,
    sha256,
    sha256_record,
    write_json,
    write_npy,
    write_text,
)
from workflow_scripts.core.log import say

# Tries without any progress after which a training gives up instead of looping through a cluster's retries. Whoever starts
# the workflow again tries anew: all SLURM jobs of one Snakemake have a UUID as their name, and without SLURM nothing is retried.
BARREN_TRIES = 2
JOB_NAME, UUID = "SLURM_JOB_NAME", re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# How long a training waits for another process to leave its work directory: one that was told to end is writing its
# checkpoint.
LOCK_SECONDS = 60.0


class Interrupted(UserError):
    """The training checkpointed and ended itself before it was done; the next try continues it."""


class Clock:
    """Tells a training when to end itself: near its time limit, or after SIGTERM.

    SIGTERM must not be relied on (where SLURM tracks processes with cgroups it never reaches Python), so the limit
    counts. The margin covers a step and a checkpoint: a tenth of the limit, at least 10 s, at most 5 minutes, and never
    more than half the limit.
    """

    def __init__(self, limit_minutes: float | None) -> None:
        self.terminated = False
        self.deadline = float("inf")
        if limit_minutes:  # 0 is what the rules pass where no limit is set
            seconds = 60 * limit_minutes
            self.deadline = time.monotonic() + seconds - min(max(10.0, seconds / 10), 300.0, seconds / 2)
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        self.terminated = True

    def is_over(self) -> bool:
        """Whether to checkpoint and leave now."""
        return self.terminated or time.monotonic() >= self.deadline


def _hold(path: Path) -> TextIO:
    """Lock a work directory against other processes, for instance an orphan of a Snakemake that was killed.

    The lock lies beside the directory, since the directory comes and goes, and ends with the process. It is a POSIX record
    lock, which network file systems know too. Raises `UserError` if the other process stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(path.name + ".lock").open("w")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                raise UserError(
                    f"another process works in {path}, perhaps left over from a run that was killed; wait for it or end it"
                ) from None
            time.sleep(0.5)
        except OSError as error:
            say(f"{path}: this file system has no locks ({error.strerror}); see to it that no two runs use it at once")
            return file


class WorkDir:
    """The work directory of one training.

    `fingerprint` is any JSON value. `progress` counts whatever only grows (steps, finished folds): each checkpoint
    states it, and two tries of one SLURM run in a row that end where they began raise `UserError`.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = path
        self.lock = _hold(path)
        wanted = json.loads(json.dumps(fingerprint))
        named = UUID.search(os.environ.get(JOB_NAME, ""))
        run, state = named[0] if named else "", self._state()
        if state.get("fingerprint") != wanted:
            if state:
                changed = sorted(
                    k for k in {*wanted, *state["fingerprint"]} if wanted.get(k) != state["fingerprint"].get(k)
                )
                say(f"{path} belongs to another run (differs in: {', '.join(changed)}); starting afresh")
            self._discard()
            path.mkdir(parents=True)
            state = {"fingerprint": wanted, "progress": 0, "barren_tries": 0}
        elif run and run == state.get("run") and state["barren_tries"] >= BARREN_TRIES:
            raise UserError(
                f"{state['barren_tries']} tries of this training ended without progress (at {state['progress']}). Look at its "
                "log, raise its time or memory, then start the workflow again"
            )
        elif state["progress"]:
            say(f"continuing {path} from {state['progress']}")
        tries = state["barren_tries"] if run == state.get("run") else 0
        self.state = {**state, "run": run, "barren_tries": tries + 1}
        self._write()

    def _state(self) -> dict[str, Any]:
        file = self.path / "state.json"
        if not file.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise UserError(f"{self.path} exists and is no work directory; name another --work-dir or move it away")
            return {}
        try:
            state = read_json(file)
            if isinstance(state, dict) and {"fingerprint", "progress", "barren_tries"} <= state.keys():
                return state
        except UserError:
            pass
        raise UserError(f"{file} is damaged; delete {self.path} to start this training afresh")

    def _discard(self) -> None:
        """Remove the directory; set aside first, so that a kill in between leaves none that is half removed."""
        if self.path.exists():
            aside = self.path.with_name(f".{self.path.name}.discarded")
            shutil.rmtree(aside, ignore_errors=True)
            self.path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _write(self) -> None:
        write_json(self.state, self.path / "state.json")

    def advance(self, progress: int) -> None:
        """State that everything up to `progress` is safely on disk."""
        if progress > self.state["progress"]:
            self.state.update(progress=progress, barren_tries=0)
            self._write()

    def save(self, name: str, value: Mapping[str, Any], progress: int) -> None:
        """Write a checkpoint (tensors, numbers, text and containers of them) atomically, then state the progress."""
        with atomic_path(self.path / name) as temporary:
            torch.save(dict(value), temporary)
        self.advance(progress)

    def load(self, name: str) -> dict[str, Any] | None:
        """A checkpoint on CPU, or None where there is none; nothing but tensors and plain values is unpickled.

        Raises `UserError` where it is damaged, if only in one bit.
        """
        file = self.path / name
        if not file.exists():
            return None
        try:
            # torch itself does not look at the checksums that it writes.
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"checksum of {damaged}")
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle fails in any way
            raise UserError(
                f"{file} is damaged ({type(error).__name__}); delete {self.path} to start this training afresh"
            ) from error

    def write_block(self, name: str, array: np.ndarray) -> None:
        """Keep a part of the result until all parts are there, with its checksum beside it."""
        write_npy(array, self.path / name)
        write_text(f"{sha256(self.path / name)}  {name}\n", sha256_record(self.path / name))

    def read_block(self, name: str) -> np.ndarray:
        """What `write_block` kept; `UserError` where it is missing or not the same any more."""
        if recorded_sha256(self.path / name) != sha256(self.path / name):
            raise UserError(f"{self.path / name} is damaged (checksum); delete {self.path} to start this stage afresh")
        return read_npy(self.path / name)

    def metrics_file(self) -> Path:
        """Where this training appends its metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    def close(self) -> None:
        """Remove the directory: the result is complete and lies elsewhere."""
        self._discard()
        self.lock.close()


class Follower(WorkDir):
    """The work directory as the further processes of one training see it: they read what the first one writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def advance(self, progress: int) -> None:
        """Nothing: the first process states it."""

    def save(self, name: str, value: Mapping[str, Any], progress: int) -> None:
        """Nothing: the first process writes it."""

    def close(self) -> None:
        """Nothing: the first process removes it."""


def append_metrics(file: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(dict(row)) + "\n")


def trim_metrics(file: Path, last_step: int) -> None:
    """Drop damaged lines, and those after `last_step`: a killed run wrote them after its last checkpoint and comes again."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # for example the line that was being written when the run was killed
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] <= last_step:
            kept.append(line + "\n")
    with atomic_path(file) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
