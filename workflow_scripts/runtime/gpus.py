"""One GPU, one job: locks that let `snakemake --cores n --resources gpu=n` run n jobs, each on a GPU of its own.

A stage claims devices before anything opens CUDA and names them in CUDA_VISIBLE_DEVICES, so that whatever it starts sees
these and no others. The lock of a device is a file in the temporary folder, held until the process and what it started
have ended, however they end. Without a GPU nothing happens.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from workflow_scripts.core.errors import UserError

# Locks of this process; an open file is what holds one.
_held: list[int] = []
VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_devices(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them: numbers or UUIDs."""
    if VISIBLE in environment:
        names = [name.strip() for name in environment[VISIBLE].split(",")]
        # CUDA ends the list at the first name that is none.
        end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]
    count = sum(bool(re.fullmatch(r"nvidia\d+", file.name)) for file in devices.glob("nvidia*"))
    return [str(i) for i in range(count)]


def lock_folder(environment: Mapping[str, str]) -> Path:
    """Where the locks lie: per user, and per SLURM job, since device 0 of two jobs on one node are different GPUs."""
    job = environment.get("SLURM_JOB_ID", "")
    return Path(tempfile.gettempdir()) / f"tusflow-gpus-{os.getuid()}" / (f"job{job}" if job else "machine")


def claim_gpus(count: int = 1, patience: float = float("inf"), seconds: float = 1.0) -> list[str]:
    """Claim `count` GPUs for this process and what it starts, waiting while all are in use; returns their names.

    Nothing is claimed on a machine with fewer, nor below a process that has claimed (torchrun's). Raises `UserError`
    where `patience` seconds were not enough.
    """
    from workflow_scripts.core.log import say

    names = visible_devices(os.environ)
    if "LOCAL_RANK" in os.environ or not 0 < count <= len(names):
        return []
    folder = lock_folder(os.environ)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    told = False
    while True:
        taken = _try(folder, names, count)
        if taken:
            os.environ[VISIBLE] = ",".join(taken)
            return taken
        if time.monotonic() > deadline:
            raise UserError(f"no {count} of the GPUs {', '.join(names)} became free; --device cuda:0 shares one")
        if not told:
            say(f"all GPUs ({', '.join(names)}) are in use by other jobs of this workflow; waiting for one")
            told = True
        time.sleep(seconds)


def _try(folder: Path, names: list[str], count: int) -> list[str]:
    """Lock the first `count` free devices, or none of them."""
    taken: dict[str, int] = {}
    for name in names:
        # Not closed by exec, and inherited by children: the claim lasts as long as anything that uses the device.
        descriptor = os.open(folder / f"{name.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(descriptor, True)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        taken[name] = descriptor
        if len(taken) == count:
            _held.extend(taken.values())
            return list(taken)
    for descriptor in taken.values():
        os.close(descriptor)
    return []
