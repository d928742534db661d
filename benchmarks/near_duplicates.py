"""Seconds and memory to find near-duplicates among as many views as the study has, against a plain loop over pairs.

The views are random tissue under speckle in a memory-mapped file; some are planted copies, re-encoded as JPEG. The loop
is what one would write with imagehash alone: hash every view, then subtract every pair of hashes in Python. It runs on
a subset; its hashing is extrapolated in proportion to the views and its comparison to their pairs, and nothing else. It
has no exact step, and so confirms nothing.

    python -m benchmarks.near_duplicates
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import peak_memory_mib, write_result
from workflow_scripts.data.find_near_duplicates import DISTANCE, HASH_DISTANCE

SIZE, DISTINCT_TISSUES, COPIES = 128, 400, 100

# So many bits that about two in a hundred pairs are candidates, more than whole frames of one scanner give at the
# default: the drawn views are less alike.
LOOSE = 108


def draw(path: Path, count: int) -> None:
    """Write `count` views; the last `COPIES` are JPEGs of the first. Every other one has tissue and speckle of its own.

    Tissue is one of `DISTINCT_TISSUES` fields, shifted and mirrored at random, mixed with another: quick to draw, and
    no two are alike.
    """
    import numpy as np
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    fields = random.normal(size=(DISTINCT_TISSUES, SIZE, SIZE)).astype(np.float32)
    tissue = np.stack([gaussian_filter(field, SIZE / 20, mode="wrap") for field in fields])
    speckle = np.stack([gaussian_filter(field, 1, mode="wrap") for field in fields])
    tissue /= tissue.std()
    speckle /= speckle.std()
    depth = np.linspace(1.3, 0.4, SIZE, dtype=np.float32)[:, None]

    def shifted(fields: np.ndarray) -> np.ndarray:
        field = np.roll(fields[random.integers(len(fields))], tuple(random.integers(0, SIZE, 2)), (0, 1))
        return field[:, ::-1] if random.random() < 0.5 else field

    views = np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIZE, SIZE))
    for i in range(count - COPIES):
        grey = 90 * depth * (1 + 0.35 * (shifted(tissue) + shifted(tissue))) * (1 + 0.2 * shifted(speckle))
        views[i] = grey.clip(0, 255)
    for i in range(COPIES):
        file = io.BytesIO()
        Image.fromarray(views[i]).save(file, "JPEG", quality=60)
        views[count - COPIES + i] = np.asarray(Image.open(file))
    views.flush()


def ours(path: Path, hash_distance: int) -> dict[str, Any]:
    """Both steps of the stage, timed one by one. Peak memory counts the pages of the mapped file that were read."""
    import numpy as np

    from workflow_scripts.core.files import read_npy
    from workflow_scripts.data.duplicates import candidates, confirmed, fingerprints, near_duplicates

    views = read_npy(path)
    patients = np.arange(len(views))
    start = time.perf_counter()
    prints = fingerprints(views)
    hashed = time.perf_counter()
    proposed, exact = 0, 0.0
    for first, second, bits in candidates(prints.bits, prints.judged, patients, hash_distance):
        proposed += len(first)
        begin = time.perf_counter()
        confirmed(prints.contrasts, first, second, bits, DISTANCE)
        exact += time.perf_counter() - begin
    compared = time.perf_counter()
    pairs = near_duplicates(prints, patients, hash_distance, DISTANCE)
    planted = {(i, len(views) - COPIES + i) for i in range(COPIES)}
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    return {
        "method": "near_duplicates", "hash_distance": hash_distance, "views": len(views),
        "pairs": len(views) * (len(views) - 1) // 2,
        "seconds_fingerprints": hashed - start, "seconds_candidates": compared - hashed - exact,
        "seconds_exact": exact, "seconds": compared - start, "extrapolated": False, "candidates": proposed,
        "found": len(found), "planted": COPIES, "planted_found": len(found & planted),
        "peak_memory_mib": peak_memory_mib(),
    }  # fmt: skip


def loop(path: Path, count: int) -> dict[str, Any]:
    """The peer on the first `count` views, extrapolated to all of them."""
    from imagehash import phash
    from PIL import Image

    from workflow_scripts.core.files import read_npy

    views = read_npy(path)
    start = time.perf_counter()
    hashes = [phash(Image.fromarray(view), hash_size=16) for view in views[:count]]
    hashed = time.perf_counter()
    proposed = sum(int(a - b <= HASH_DISTANCE) for a, b in itertools.combinations(hashes, 2))
    compared = time.perf_counter()
    times_views = len(views) / count
    times_pairs = len(views) * (len(views) - 1) / (count * (count - 1))
    hashing, comparing = (hashed - start) * times_views, (compared - hashed) * times_pairs
    return {
        "method": "imagehash and a Python loop over pairs", "views": len(views), "measured_views": count,
        "measured_seconds_hashes": hashed - start, "measured_seconds_pairs": compared - hashed,
        "measured_candidates": proposed, "seconds_fingerprints": hashing, "seconds_candidates": comparing,
        "seconds": hashing + comparing, "extrapolated": True,
    }  # fmt: skip


def main() -> None:
    """Draw, measure each in a process of its own, write benchmarks/results/near_duplicates.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=26_000, help="(default: 26000)")
    parser.add_argument("--subset", type=int, default=1000, help="views of the loop (default: 1000)")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "views.npy"
        for function, extra in (
            (draw, (arguments.views,)),
            (ours, (HASH_DISTANCE,)),
            (ours, (LOOSE,)),
            (loop, (arguments.subset,)),
        ):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                result = process.submit(function, path, *extra).result()
            rows += [result] if result else []
    for row in rows:
        print({key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()})
    faster = rows[-1]["seconds"] / rows[0]["seconds"]
    print(write_result("near_duplicates", rows, view_size=SIZE, distance=DISTANCE, times_faster=faster))


if __name__ == "__main__":
    main()
