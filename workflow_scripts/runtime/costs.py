"""What a run has cost: a line when a try of a stage starts and one when it ends, beside its log.

Snakemake's own benchmark files know the last try of a job alone; a training that was continued five times has five pairs
of lines here. A try that was killed has no second line: the next one counts it up to the last sign of life in its log.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from threading import Thread
from typing import Any

from workflow_scripts.runtime.gpus import visible_devices

# Between two readings of the power that a job's GPUs draw.
MILLISECONDS = 5000


class PowerMeter:
    """Reads the power of some GPUs until it is stopped. Without GPUs or `nvidia-smi` it reads nothing.

    `devices` are numbers or UUIDs, as CUDA_VISIBLE_DEVICES has them. nvidia-smi counts GPUs as the bus does and CUDA the
    fastest first: on a machine with unlike GPUs numbers agree under CUDA_DEVICE_ORDER=PCI_BUS_ID only.
    """

    def __init__(self, devices: Sequence[str], milliseconds: int = MILLISECONDS) -> None:
        self._devices = len(devices)
        self._readings: list[float] = []
        self._process: subprocess.Popen[str] | None = None
        program = shutil.which("nvidia-smi")
        if program and devices:
            # Where this process is killed the pipe breaks, and nvidia-smi ends with its next reading.
            self._process = subprocess.Popen(
                [
                    program, f"--id={','.join(devices)}", "--query-gpu=power.draw", "--format=csv,noheader,nounits",
                    f"--loop-ms={milliseconds}",
                ],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            self._thread = Thread(target=self._read, daemon=True)
            self._thread.start()

    def stop(self) -> float | None:
        """The mean power of all these GPUs together in watts; None where nothing was read."""
        if self._process is None:
            return None
        self._process.terminate()
        self._thread.join()
        self._process.wait()
        return self._devices * fmean(self._readings) if self._readings else None

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._readings.append(float(line))
            except ValueError:  # "[N/A]": a GPU that cannot tell
                continue


_START = time.monotonic()
SUFFIX = ".cost.jsonl"


@dataclass(frozen=True)
class Cost:
    """One stage's tries of one job: `seconds` and `gpu_seconds` of all, of those that led to its last result, peak memory.

    `watt_hours` are the GPUs', of the tries that were not killed; NaN where no GPU told.
    """

    stage: str
    job: str
    tries: int
    finished: bool
    seconds: float
    gpu_seconds: float
    last_seconds: float
    peak_mib: float
    device: str
    watt_hours: float = math.nan


@contextmanager
def recorded_cost(log: Path | None, on_gpus: bool) -> Iterator[dict[str, Any]]:
    """Write what happens inside to the file beside `log`; set `finished` of the yielded row where it ends well.

    Of several processes of one training the first writes, and the command that became torchrun has written its start.
    """
    row: dict[str, Any] = {"finished": False}
    if log is None or os.environ.get("RANK", "0") != "0":
        yield row
        return
    devices = visible_devices(os.environ) if on_gpus else []
    if "RANK" not in os.environ:
        _begin(log, devices)
    meter = PowerMeter(devices)
    try:
        yield row
    finally:
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        gpu, seconds = _gpu(), time.monotonic() - _START
        row |= {
            "seconds": round(seconds, 2),
            "gpus": int(os.environ.get("WORLD_SIZE", "1")) if gpu else 0,
            "device": gpu or "CPU",
            "peak_mib": round(peak / 1024),
        }
        watts = meter.stop()
        if watts is not None:
            row["watt_hours"] = round(watts * seconds / 3600, 4)
        _append(log, row)


def _begin(log: Path, devices: list[str]) -> None:
    """Note the start of a try; and how long the one before lived, if it did not say so itself."""
    file = log.with_suffix(SUFFIX)
    before = whole_rows(file)
    if before and "seconds" not in before[-1] and log.is_file():
        _append(log, _killed(before[-1], log))
    _append(log, {"started": round(time.time(), 2), "gpus": len(devices), "devices": devices})


def _killed(start: dict[str, Any], log: Path) -> dict[str, Any]:
    """The line that a try did not write: it ended at the last line of its log, or later."""
    seconds = max(0.0, log.stat().st_mtime - start["started"])
    return {**start, "finished": False, "killed": True, "seconds": round(seconds, 2)}


def _append(log: Path, row: dict[str, Any]) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.with_suffix(SUFFIX).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError:  # a full quota must not fail a training that has ended well
        return


def whole_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a `.cost.jsonl` that are whole; a node may have died while it wrote one."""
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [row for row in rows if isinstance(row, dict) and ("started" in row or "seconds" in row)]


def read_costs(logs: Path) -> list[Cost]:
    """The costs below a results' `logs` folder, one per job; a try that still runs, or was killed, up to its log's end."""
    costs = []
    for file in sorted(logs.rglob(f"*{SUFFIX}")):
        rows = whole_rows(file)
        log = file.with_name(file.name.removesuffix(SUFFIX) + ".log")
        if rows and "seconds" not in rows[-1] and log.is_file():
            rows.append(_killed(rows[-1], log))
        ended = [row for row in rows if "seconds" in row]
        if ended:
            costs.append(_summary(str(file.relative_to(logs)).removesuffix(SUFFIX), ended))
    return costs


def last_start(log: Path) -> float | None:
    """When the last attempt of a stage with this log started, in seconds since 1970; None where none is recorded."""
    starts = [row["started"] for row in whole_rows(log.with_suffix(SUFFIX)) if "started" in row]
    return starts[-1] if starts else None


def _summary(job: str, rows: list[dict[str, Any]]) -> Cost:
    ends = [i for i, row in enumerate(rows) if row["finished"]]
    # What the last result took: its tries since the result before.
    last = rows[(ends[-2] + 1 if len(ends) > 1 else 0) : ends[-1] + 1] if ends else []
    energy = [row["watt_hours"] for row in rows if "watt_hours" in row]
    return Cost(
        stage=job.partition("/")[0],
        job=job,
        tries=len(rows),
        finished=bool(ends),
        seconds=sum(row["seconds"] for row in rows),
        gpu_seconds=sum(row["seconds"] * row["gpus"] for row in rows),
        last_seconds=sum(row["seconds"] * max(row["gpus"], 1) for row in last),
        peak_mib=max((row["peak_mib"] for row in rows if "peak_mib" in row), default=0.0),
        device=next((row["device"] for row in reversed(rows) if "device" in row), "unknown"),
        watt_hours=sum(energy) if energy else math.nan,
    )


def _gpu() -> str:
    """The name of the GPU that this process has used, "" if it used none."""
    torch = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda.get_device_name() if used and torch is not None else ""
