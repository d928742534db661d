"""Time and memory against size: the view store, the filter, the Fréchet distance, planning; with the fitted exponents.

Each size runs in a process of its own on one core. Features are drawn (width 2048); `filter` asks which of N points lie in
the manifold of 880 views, or of N views; the Fréchet distance compares N views with 880. Planning is a dry run of the
shipped study with N frames in its manifest, or with N jobs (more seeds). Memory of the filter and of the distance is what
they need beside the features; of the others the whole process. Sizes end where this machine's memory or patience does.
Exponents are fitted, on logarithms, to the upper decade of sizes: below it constants rule.

    python -m benchmarks.scaling
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.dag import REPOSITORY, plan_command, planned, write_manifest
from benchmarks.measure import bytecode_in, peak_memory_mib, spent, write_result
from benchmarks.neighbours import WIDTH, K
from benchmarks.view_store import draw, file_names, view_store

CENTRES = 880
COLOURS = ("#9aa5b1", "#1c2430", "#3f8f5f", "#3b6fb6", "#8a5fb0", "#c8452f")
MARKERS = ("s", "D", "o", "^", "v", "P")
LONG = 5.0  # seconds; what takes longer runs once, else three times


def features(count: int, seed: int) -> Any:
    """Features with a power-law spectrum and a floor, float32 (count, WIDTH)."""
    import numpy as np

    generator = np.random.default_rng(seed)
    scale = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    rows = np.empty((count, WIDTH), np.float32)
    for start in range(0, count, 4096):
        part = rows[start : start + 4096]
        generator.standard_normal(part.shape, dtype=np.float32, out=part)
        part *= scale
        np.maximum(part, -0.1, out=part)
    return rows


def repeated(function: Callable[[], object]) -> dict[str, float | int]:
    """Processor and wall seconds, medians, and what the peak memory rose by."""
    before = peak_memory_mib()
    seconds: list[float] = []
    cpu: list[float] = []
    while not seconds or (len(seconds) < 3 and seconds[0] < LONG):
        start, start_cpu = time.perf_counter(), time.process_time()
        function()
        cpu.append(time.process_time() - start_cpu)
        seconds.append(time.perf_counter() - start)
    return {
        "cpu_seconds": statistics.median(cpu), "seconds": statistics.median(seconds), "runs": len(seconds),
        "peak_memory_mib": peak_memory_mib() - before,
    }  # fmt: skip


def store(frames: int, folder: Path) -> dict[str, float | int]:
    """The view store of so many frames; memory of the whole process."""
    names = file_names(frames, "bmp")
    return repeated(lambda: view_store(folder, names, 1)) | {"peak_memory_mib": peak_memory_mib()}


def filter_centres(points: int, folder: Path) -> dict[str, float | int]:
    """The filter with the centres of the study."""
    return _filter(points, CENTRES)


def filter_both(points: int, folder: Path) -> dict[str, float | int]:
    """The filter with as many centres as points."""
    return _filter(points, points)


def _filter(points: int, centres: int) -> dict[str, float | int]:
    from workflow_scripts.synthesis.neighbours import membership, radii

    real, generated = features(centres, 0), features(points, 1)
    membership(real[:64], radii(real[:64], 3), generated[:64])  # imports, thread pools
    return repeated(lambda: membership(real, radii(real, K), generated))


def distance(points: int, folder: Path) -> dict[str, float | int]:
    """The Fréchet distance of so many views from the real ones."""
    from workflow_scripts.synthesis.metrics import frechet, moments

    real, generated = features(CENTRES, 0), features(points, 1)
    frechet(moments(real[:64, :32]), moments(generated[:64, :32]))
    return repeated(lambda: frechet(moments(real), moments(generated)))


ARRAYS: tuple[tuple[str, Callable[[int, Path], dict[str, float | int]], Sequence[int]], ...] = (
    ("view store, N frames", store, (1000, 3000, 10_000, 30_000)),
    ("filter, N points, 880 centres", filter_centres, (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)),
    ("filter, N points, N centres", filter_both, (1000, 3000, 10_000, 30_000)),
    ("Fréchet distance, N views and 880", distance, (1000, 3000, 10_000, 30_000, 100_000)),
)
FRAMES = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
SEEDS = (1, 4, 12, 40, 120)


def on_one_core(function: Callable[[int, Path], dict[str, float | int]], size: int, folder: Path) -> dict[str, Any]:
    """Run in a fresh process: one core, one thread."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    return function(size, folder)


def planning(folder: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Dry runs with more frames, and with more jobs."""
    rows = []
    manifest, changes = folder / "data_manifest.csv", folder / "seeds.yaml"
    for frames in FRAMES:
        patients = max(30, frames // 100)
        write_manifest(manifest, patients, frames - 2 * patients)
        rows.append({"what": "planning, N frames", "size": frames, **_spent(plan_command(folder), folder, environment)})
    shutil.copyfile(REPOSITORY / "data_manifest.csv", manifest)
    for seeds in SEEDS:
        changes.write_text(f"seeds: {list(range(seeds))}\n", encoding="utf-8")
        command = plan_command(folder, changes)
        _, jobs = planned(command, folder, environment)
        rows.append({"what": "planning, N jobs", "size": jobs, **_spent(command, folder, environment)})
    return rows


def _spent(command: list[str], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    runs: list[dict[str, float]] = []
    while not runs or (len(runs) < 3 and runs[0]["seconds"] < LONG):
        runs.append(spent(command, folder, environment))
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]} | {"runs": len(runs)}


def exponents(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each curve the slopes of log time and log memory over log size, in the upper decade of sizes."""
    import numpy as np

    fitted = []
    for what in dict.fromkeys(row["what"] for row in rows):
        curve = [row for row in rows if row["what"] == what]
        upper = [row for row in curve if 10 * row["size"] >= curve[-1]["size"]]
        sizes = np.log([row["size"] for row in upper])
        slopes = {
            name: float(np.polyfit(sizes, np.log([max(row[key], 1e-3) for row in upper]), 1)[0])
            for name, key in (("time", "cpu_seconds"), ("memory", "peak_memory_mib"))
        }
        fitted.append({"what": what, **slopes})
    return fitted


def figure(record: Mapping[str, Any]) -> Any:
    """Time and memory against size, on logarithms, each curve named with its exponent."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(11.0, 5.6), layout="constrained")
    slopes = {row["what"]: row for row in record["exponents"]}
    panels = (
        ("time", "cpu_seconds", "processor time, s", "Time"),
        ("memory", "peak_memory_mib", "peak memory, MiB", "Memory"),
    )
    for axis, (slope, key, label, title) in zip(canvas.subplots(1, 2), panels, strict=True):
        for (what, fitted), colour, marker in zip(slopes.items(), COLOURS, MARKERS, strict=True):
            curve = [row for row in record["rows"] if row["what"] == what]
            axis.plot(
                [row["size"] for row in curve], [max(row[key], 1.0 if slope == "memory" else 0.0) for row in curve],
                color=colour, marker=marker, markersize=5, linewidth=1.6, label=f"{what}  ($N^{{{fitted[slope]:.2f}}}$)",
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("N")
        axis.set_ylabel(label)
        axis.set_title(title, loc="left", fontsize=12)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False, fontsize=9, alignment="left")
    return canvas


def main() -> None:
    """Measure, print, write benchmarks/results/scaling.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000, help="leave larger sizes out (default: 1000000)")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows += planning(folder, bytecode_in(folder / "bytecode"))  # while this process is small
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            process.submit(draw, folder).result()
        for what, function, sizes in ARRAYS:
            for size in sizes:
                if size <= arguments.largest:
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                        measured = process.submit(on_one_core, function, size, folder).result()
                    rows.append({"what": what, "size": size, **measured})
                    print(rows[-1], flush=True)
    for row in (fitted := exponents(rows)):
        print(row)
    print(write_result("scaling", rows, width=WIDTH, k=K, exponents=fitted))


if __name__ == "__main__":
    main()
