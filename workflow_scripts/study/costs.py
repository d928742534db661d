"""What a run has cost: one line per try of every stage, beside its log.

Snakemake's own benchmark files know the last try of a job alone; a training that was continued five times has five lines
here. A try that was killed leaves none.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START = time.monotonic()
SUFFIX = ".cost.jsonl"


@dataclass(frozen=True)
class Cost:
    """One stage's tries of one job: `seconds` and `gpu_seconds` of all, of those that led to its last result, peak memory."""

    stage: str
    job: str
    tries: int
    finished: bool
    seconds: float
    gpu_seconds: float
    last_seconds: float
    peak_mib: float
    device: str


def record_cost(log: Path, finished: bool) -> None:
    """Append what this try has cost so far to the file beside its log; of several processes the first does."""
    if os.environ.get("RANK", "0") != "0":
        return
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    gpu = _gpu()
    row = {
        "finished": finished,
        "seconds": round(time.monotonic() - _START, 2),
        "gpus": int(os.environ.get("WORLD_SIZE", "1")) if gpu else 0,
        "device": gpu or "CPU",
        "peak_mib": round(peak / 1024),
        "host": platform.node(),
    }
    try:
        with log.with_suffix(SUFFIX).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError:  # a full quota must not fail a training that has ended well
        return


def read_costs(logs: Path) -> list[Cost]:
    """The costs below a results' `logs` folder, one per job."""
    costs = []
    for file in sorted(logs.rglob(f"*{SUFFIX}")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
        if rows:
            job = str(file.relative_to(logs)).removesuffix(SUFFIX)
            costs.append(_summary(job, rows))
    return costs


def _summary(job: str, rows: list[dict[str, Any]]) -> Cost:
    ends = [i for i, row in enumerate(rows) if row["finished"]]
    # What the last result took: its tries since the result before.
    last = rows[(ends[-2] + 1 if len(ends) > 1 else 0) : ends[-1] + 1] if ends else []
    return Cost(
        stage=job.partition("/")[0],
        job=job,
        tries=len(rows),
        finished=bool(ends),
        seconds=sum(row["seconds"] for row in rows),
        gpu_seconds=sum(row["seconds"] * row["gpus"] for row in rows),
        last_seconds=sum(row["seconds"] * max(row["gpus"], 1) for row in last),
        peak_mib=max(row["peak_mib"] for row in rows),
        device=rows[-1]["device"],
    )


def _gpu() -> str:
    """The name of the GPU that this process has used, "" if it used none."""
    torch = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda.get_device_name() if used and torch is not None else ""
