"""Random numbers as a function of (seed, stream, step, global sample index).

No draw depends on what was drawn before it, on the batch a sample happens to be in, or on the number of processes, so
that a resumed or distributed run draws exactly what an uninterrupted single-process run draws. The numbers come from
NumPy's counter-based Philox generator: the seed and the stream's name make its key, step and sample its counter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def philox(seed: int, stream: str, step: int = 0, sample: int = 0) -> np.random.Generator:
    """The generator of one sample at one step; `stream` keeps the draws of different purposes apart."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest(), "little")
    # The lowest counter word is Philox's own position; the next two are ours.
    counter = np.array([0, sample, step, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def uniforms(seed: int, stream: str, step: int, samples: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """float32 (len(samples), count) in [0, 1): row i depends on (seed, stream, step, samples[i]) alone."""
    return np.stack([philox(seed, stream, step, int(s)).random(count, dtype=np.float32) for s in samples])


def normals(
    seed: int, stream: str, step: int, samples: Sequence[int] | np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """float32 (len(samples), *shape) standard normal: row i depends on (seed, stream, step, samples[i]) alone."""
    return np.stack([philox(seed, stream, step, int(s)).standard_normal(shape, dtype=np.float32) for s in samples])


def epoch_order(seed: int, stream: str, epoch: int, size: int) -> np.ndarray:
    """A permutation of range(size), the order of one epoch."""
    return philox(seed, stream, epoch).permutation(size)
