"""What every benchmark shares: timing several runs, peak memory, and one JSON file that says where it was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "timm", "diffusers", "scikit-learn")


def timed(function: Callable[[], object], repeats: int = 5) -> dict[str, float | int]:
    """Wall time of `function` in seconds over `repeats` runs after one that is not counted: median, min and max."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds_median": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "repeats": repeats,
    }


def paired(functions: Mapping[str, Callable[[], object]], repeats: int = 5) -> dict[str, dict[str, float | int]]:
    """As `timed`, for several functions in turn, so that a busy minute of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: {
            "seconds_median": statistics.median(values),
            "seconds_min": min(values),
            "seconds_max": max(values),
            "repeats": repeats,
        }
        for name, values in seconds.items()
    }


def peak_memory_mib() -> float:
    """Largest resident memory of this process and of its ended children so far, MiB."""
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(own, children) / (1 if sys.platform != "darwin" else 1024) / 1024


def write_result(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> Path:
    """Write benchmarks/results/<name>.json: the rows, further facts, the machine, the versions and the date."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    record = {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        "machine": _machine(),
        "versions": {"python": platform.python_version(), **_versions()},
        **facts,
        "rows": list(rows),
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _versions() -> dict[str, str]:
    return {library: importlib.metadata.version(library) for library in LIBRARIES}


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": _gpu(),
        "system": platform.system(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str:
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    return asked.stdout.strip().partition("\n")[0]
