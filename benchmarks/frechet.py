"""Seconds and memory of the Fréchet distance between two sets of features, against clean-fid's and torch-fidelity's.

From features to the number: mean and covariance of both sets, then the distance. `ours` takes Cholesky factors and the
eigenvalues of a symmetric product where there are at least twice as many views as features, else QR and singular values;
clean-fid takes the matrix square root of covariances from `np.cov`, torch-fidelity the eigenvalues of their product. The sizes
are those of the study (fewer real views than features), both sets smaller than the features, and both larger.
`product` is a square float64 matrix product. Every method runs in a process of its own, all bound to the same cores;
processor time compares, and peak memory is what a method needs beside the features. `share_of_product` is the
arithmetic of our own decompositions (LAPACK's counts) per second, over the product's.

    python -m benchmarks.frechet
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import peak_memory_mib, write_result
from benchmarks.neighbours import WIDTH, draw

SIZES = ((20_000, 880), (500, 300), (20_000, 5_000))
METHODS = ("product", "ours", "clean-fid", "torch-fidelity")
SIDE = 4096  # of the product


def operations(generated: int, real: int) -> float:
    """What our way computes: a factor of either covariance, the factors' product, its singular values."""

    def triangle(rows: int) -> float:
        few, many = sorted((rows, WIDTH))
        if rows >= 2 * WIDTH:
            return rows * WIDTH**2 + WIDTH**3 / 3
        return 2.0 * few**2 * (many - few / 3)

    few, many = sorted((min(generated, WIDTH), min(real, WIDTH)))
    product = 2.0 * few * many * WIDTH
    values = WIDTH**3 * 7 / 3 if few == WIDTH else 4.0 * few**2 * (many - few / 3)
    return triangle(generated) + triangle(real) + product + values


def measure(method: str, folder: Path, cores: list[int], repeats: int) -> dict[str, Any]:
    """One method: median and fastest of several runs, its answer, or the error that it ends with."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(len(cores))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    import numpy as np

    real, generated = np.load(folder / "centres.npy"), np.load(folder / "points.npy")
    answer = answer_of(method, len(cores))
    answer(real[:64, :32], generated[:64, :32])  # imports, thread pools
    before, seconds, cpu, distance = peak_memory_mib(), [], [], None
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        try:
            distance = answer(real, generated)
        except ValueError as error:
            return {"method": method, "generated": len(generated), "real": len(real), "error": str(error)}
        cpu.append(time.process_time() - start_cpu)
        seconds.append(time.perf_counter() - start)
    return {
        "method": method, "generated": len(generated), "real": len(real),
        "cpu_seconds": statistics.median(cpu), "cpu_seconds_min": min(cpu), "cpu_seconds_max": max(cpu),
        "seconds": statistics.median(seconds), "runs": repeats,
        "peak_memory_mib": peak_memory_mib() - before, "distance": distance,
    }  # fmt: skip


def answer_of(method: str, threads: int) -> Any:
    """The function (real, generated) -> distance of a method."""
    import numpy as np

    if method == "product":
        square = np.random.default_rng(0).standard_normal((SIDE, SIDE))

        def product(real: np.ndarray, generated: np.ndarray) -> None:
            square @ square

        return product
    if method == "ours":
        from workflow_scripts.synthesis.metrics import frechet, moments

        return lambda real, generated: frechet(moments(real), moments(generated))
    if method == "clean-fid":
        from cleanfid.fid import frechet_distance

        def square_root(real: np.ndarray, generated: np.ndarray) -> float:
            sides = [(np.mean(each, axis=0), np.cov(each, rowvar=False)) for each in (real, generated)]
            return float(frechet_distance(*sides[0], *sides[1]))

        return square_root
    import torch
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    torch.set_num_threads(threads)

    def eigenvalues(real: np.ndarray, generated: np.ndarray) -> float:
        sides = [fid_features_to_statistics(torch.from_numpy(each)) for each in (real, generated)]
        return float(fid_statistics_to_metric(*sides, verbose=False)[KEY_METRIC_FID])

    return eigenvalues


def compare(generated: int, real: int, cores: list[int], repeats: int) -> list[dict[str, Any]]:
    """Every method on sets of one size."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        draw(Path(name), generated, real)
        for method in METHODS:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                rows.append(process.submit(measure, method, Path(name), cores, repeats).result())
            print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()})
    product, ours = rows[0], rows[1]
    product["gflop_per_second"] = 2.0 * SIDE**3 / product["cpu_seconds"] / 1e9
    ours["gflop_per_second"] = operations(generated, real) / ours["cpu_seconds"] / 1e9
    ours["share_of_product"] = ours["gflop_per_second"] / product["gflop_per_second"]
    return rows


def main() -> None:
    """Measure all sizes, print, write benchmarks/results/frechet.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="(default: 3)")
    parser.add_argument("--cores", type=int, default=1, help="cores that every method is bound to (default: 1)")
    arguments = parser.parse_args()
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = list(usable)[-arguments.cores :]
    rows = [row for sizes in SIZES for row in compare(*sizes, cores, arguments.repeats)]
    print(write_result("frechet", rows, width=WIDTH, cores_used=len(cores)))


if __name__ == "__main__":
    main()
