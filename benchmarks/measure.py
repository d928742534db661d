"""What every benchmark shares: timing several runs, peak memory, and one JSON file that says where it was measured."""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from workflow_scripts.runtime.run import Run

Name = TypeVar("Name")
RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "timm", "diffusers", "scikit-learn")


def start_run(work_dir: Path, device: str = "cpu", threads: int = 1) -> Run:
    """A run without a command line, with its work directory open."""
    from workflow_scripts.runtime.run import Run

    run = Run(argparse.Namespace(work_dir=work_dir, device=device, threads=threads, time_limit=None, compile="auto"))
    run.start({})
    return run


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


def paired_spent(
    commands: Mapping[Name, Sequence[str]], folder: Path, environment: Mapping[str, str], repeats: int = 5
) -> dict[Name, dict[str, float | int]]:
    """What commands cost with their own children, in turn: wall and processor seconds (medians of several runs after one
    that is not counted), peak memory of the largest process. A peak begins with this process's own, which must be small.
    """
    runs: dict[Name, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, command in commands.items():
            runs[name].append(spent(command, folder, environment))
    return {name: _summary(measured[1:]) for name, measured in runs.items()}


def _summary(runs: list[dict[str, float]]) -> dict[str, float | int]:
    seconds, cpu = ([run[key] for run in runs] for key in ("seconds", "cpu_seconds"))
    return {
        "seconds_median": statistics.median(seconds), "cpu_seconds_median": statistics.median(cpu),
        "cpu_seconds_min": min(cpu), "cpu_seconds_max": max(cpu), "repeats": len(runs),
        "peak_memory_mib": max(run["peak_memory_mib"] for run in runs),
    }  # fmt: skip


def spent(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """One run of `paired_spent`'s; the command's output appears where it fails."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            sys.stderr.buffer.write(output.read()[-4000:])
            raise subprocess.CalledProcessError(child.returncode, command)
    return {
        "seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_memory_mib": _mib(usage.ru_maxrss),
    }  # fmt: skip


def kept(file: Path, measure: Callable[[], Any]) -> Any:
    """What `measure` returns (as JSON keeps it), or what it returned into `file` before this benchmark was interrupted."""
    from workflow_scripts.core.files import read_json, write_text

    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(json.dumps(measure()), file)
    return read_json(file)


def bytecode_in(folder: Path) -> dict[str, str]:
    """This environment for children that keep their compiled modules in `folder`, as installed ones do; one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def peak_memory_mib() -> float:
    """Largest resident memory of this process and of its ended children so far, MiB."""
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return _mib(max(own, children))


def _mib(peak: float) -> float:
    """MiB of what the system calls maxrss."""
    return peak / (1 if sys.platform != "darwin" else 1024) / 1024


def matrix_product(device: Any, name: str) -> tuple[Callable[[], None], float]:
    """A large matrix product in `float32` or `bf16` on the device, and its operations."""
    import torch

    side = 8192 if device.type == "cuda" else 2048
    kind = torch.bfloat16 if name == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))

    def multiply() -> None:
        torch.matmul(a, b)
        wait(device)

    return multiply, 2.0 * side**3


def large_convolution(device: Any, name: str) -> tuple[Callable[[], None], float]:
    """A 3 x 3 convolution of 128 channels in `float32` or `bf16` on the device, and its operations.

    Where the library of matrix products does not know the processor well, this reaches more.
    """
    import torch

    count = 512 if device.type == "cuda" else 8
    kind = torch.bfloat16 if name == "bf16" else torch.float32
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    x = torch.randn(count, 128, 56, 56, device=device, dtype=kind).contiguous(memory_format=layout)
    weights = torch.randn(128, 128, 3, 3, device=device, dtype=kind).contiguous(memory_format=layout)

    def convolve() -> None:
        torch.nn.functional.conv2d(x, weights, padding=1)
        wait(device)

    return convolve, 2.0 * count * 128 * 128 * 9 * 56 * 56


def wait(device: Any) -> None:
    """Let a GPU finish."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def memory_copy(device: Any) -> tuple[Callable[[], None], float]:
    """The copy of a large tensor on the device, and the bytes that it reads and writes."""
    import torch

    count = 2**30 if device.type == "cuda" else 2**26
    source = torch.zeros(count, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        wait(device)

    return copy, 2.0 * 4 * count


def memory_bandwidth(device: Any) -> float:
    """Bytes per second, read and written, of copying a large tensor on the device."""
    copy, moved = memory_copy(device)
    return moved / float(timed(copy)["seconds_min"])


def memory_of_each(module: str, *arguments: Any) -> dict[str, float]:
    """MiB by which one call of each of `module.sides(*arguments)` raises a fresh process's peak memory (of the host)."""
    with _fresh() as process:
        names = process.submit(_names, module, arguments).result()
    rises = {}
    for name in names:
        with _fresh() as process:
            rises[name] = process.submit(_rise, module, arguments, name).result()
    return rises


def _fresh() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _names(module: str, arguments: tuple[Any, ...]) -> list[str]:
    return list(importlib.import_module(module).sides(*arguments))


def _rise(module: str, arguments: tuple[Any, ...], name: str) -> float:
    function = importlib.import_module(module).sides(*arguments)[name]
    before = peak_memory_mib()
    function()
    return peak_memory_mib() - before


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


def write_on_page(page: Path, name: str, text: str) -> None:
    """Put a benchmark's Markdown between its marks on a page of the documentation, in place of what is there."""
    begin, end = f"<!-- benchmark: {name} -->\n", "<!-- end -->"
    head, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{head}{begin}\n{text.strip()}\n{rest[rest.index(end) :]}", encoding="utf-8")


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
