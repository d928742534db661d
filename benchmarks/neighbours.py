"""Seconds and memory to ask which generated views lie inside the manifold of the real ones, against three peers.

The question is the filter's: radii of M real views to their k-th other view, then which of N generated views lie in a
ball. `ours` also gives each view's smallest distance / radius, and its answers are those of float64. The peers answer
it with their own functions: scikit-learn's `pairwise_distances` (in whole and, beyond the memory, `_chunked`), prdc's
pairwise and nearest-neighbour distances, torch-fidelity's `calc_cdist_part`. `product` is the bare matrix product
of the two sets. Every method runs in a process of its own, all of them bound to the same cores, in turn. On a machine
that others use too the processor time is what compares; `gflop_per_second` divides by it. Peak memory is what a method
needs beside the features. A peer whose matrix exceeds --memory-gib runs at the largest N that fits; the memory that the
paper-sized set would take follows from its largest matrix, N x M in float32.

    python -m benchmarks.neighbours
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import peak_memory_mib, write_result

WIDTH, K = 2048, 50
SMALL, FULL = (20_000, 880), (200_000, 25_000)
METHODS = ("product", "ours", "scikit-learn", "scikit-learn chunked", "prdc", "torch-fidelity")


def draw(folder: Path, points: int, centres: int) -> None:
    """Features with a power-law spectrum and a floor, as those of Inception; generated ones a little wider."""
    import numpy as np

    generator = np.random.default_rng(0)
    scale = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    for name, count, spread in (("centres", centres, 1.0), ("points", points, 1.02)):
        store = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, WIDTH))
        for start in range(0, count, 4096):
            rows = store[start : start + 4096]
            rows[:] = generator.standard_normal(rows.shape, dtype=np.float32) * scale * np.float32(spread)
            np.maximum(rows, -0.1, out=rows)
        store.flush()


def measure(method: str, folder: Path, points: int, cores: list[int]) -> dict[str, Any]:
    """One method on the first `points` generated views: its fastest of up to 15 runs within ten seconds."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(len(cores))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    import numpy as np

    real, fake = np.load(folder / "centres.npy"), np.load(folder / "points.npy")[:points]
    answer = answer_of(method, len(cores))
    answer(real[:64], fake[:64], 3)  # imports, thread pools
    before, seconds, cpu = peak_memory_mib(), [], []
    while not seconds or (sum(seconds) < 10 and len(seconds) < 15):
        start, start_cpu = time.perf_counter(), time.process_time()
        inside = answer(real, fake, K)
        cpu.append(time.process_time() - start_cpu)
        seconds.append(time.perf_counter() - start)
    return {
        "method": method, "points": points, "centres": len(real), "seconds": min(seconds), "cpu_seconds": min(cpu),
        "runs": len(seconds), "peak_memory_mib": peak_memory_mib() - before,
        "inside": None if inside is None else int(np.asarray(inside).sum()),
    }  # fmt: skip


def answer_of(method: str, threads: int) -> Any:
    """The function (real, fake, k) -> bool (N,) of a method."""
    import numpy as np

    def product(real: np.ndarray, fake: np.ndarray, k: int) -> None:
        for start in range(0, len(fake), 2048):
            fake[start : start + 2048] @ real.T

    def ours(real: np.ndarray, fake: np.ndarray, k: int) -> np.ndarray:
        from workflow_scripts.synthesis.neighbours import membership, radii

        return membership(real, radii(real, k), fake).inside

    def scikit(real: np.ndarray, fake: np.ndarray, k: int) -> np.ndarray:
        from sklearn.metrics import pairwise_distances

        radius = np.partition(pairwise_distances(real), k, axis=1)[:, k]
        return (pairwise_distances(fake, real) <= radius).any(axis=1)

    def chunked(real: np.ndarray, fake: np.ndarray, k: int) -> np.ndarray:
        from sklearn.metrics import pairwise_distances_chunked

        parts = pairwise_distances_chunked(real, reduce_func=lambda rows, _: np.partition(rows, k, axis=1)[:, k])
        radius = np.concatenate(list(parts))
        parts = pairwise_distances_chunked(fake, real, reduce_func=lambda rows, _: (rows <= radius).any(axis=1))
        return np.concatenate(list(parts))

    def prdc(real: np.ndarray, fake: np.ndarray, k: int) -> np.ndarray:
        from prdc.prdc import compute_nearest_neighbour_distances, compute_pairwise_distance

        radius = compute_nearest_neighbour_distances(real, k)
        return (compute_pairwise_distance(real, fake) < radius[:, None]).any(axis=0)

    def fidelity(real: np.ndarray, fake: np.ndarray, k: int) -> np.ndarray:
        import torch
        from torch_fidelity.metric_prc import calc_cdist_part

        torch.set_num_threads(threads)
        centres, points = torch.from_numpy(real), torch.from_numpy(fake)
        radius = torch.cat([calc_cdist_part(part, centres).kthvalue(k + 1).values for part in centres.split(10_000)])
        return torch.cat([(calc_cdist_part(p, centres) <= radius).any(dim=1) for p in points.split(10_000)]).numpy()

    return dict(zip(METHODS, (product, ours, scikit, chunked, prdc, fidelity), strict=True))[method]


def main() -> None:
    """Measure both sizes, print, write benchmarks/results/neighbours.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, nargs=2, default=FULL, help="generated and real views (default: paper's)")
    parser.add_argument("--memory-gib", type=float, default=8.0, help="largest matrix of a peer (default: 8)")
    parser.add_argument("--cores", type=int, default=1, help="cores that every method is bound to (default: 1)")
    arguments = parser.parse_args()
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = list(usable)[-arguments.cores :]
    rows = []
    for points, centres in (SMALL, tuple(arguments.large)):
        with tempfile.TemporaryDirectory() as name:
            draw(Path(name), points, centres)
            for method in METHODS:
                whole = method in ("scikit-learn", "prdc")
                fits = int(arguments.memory_gib * 2**30 / (4 * centres))
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    asked = min(points, fits) if whole else points
                    row = process.submit(measure, method, Path(name), asked, cores).result()
                work = 2 * WIDTH * row["centres"] * (row["points"] + (method != "product") * row["centres"])
                row |= {"gflop_per_second": work / row["cpu_seconds"] / 1e9}
                if whole:
                    row["paper_size_needs_gib"] = FULL[0] * FULL[1] * 4 / 2**30
                rows.append(row)
                print({key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()})
    of_peak = rows[1]["gflop_per_second"] / rows[0]["gflop_per_second"]
    print(write_result("neighbours", rows, width=WIDTH, k=K, cores_used=len(cores), ours_share_of_product=of_peak))


if __name__ == "__main__":
    main()
