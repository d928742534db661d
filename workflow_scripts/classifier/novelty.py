"""Is a new view like those that a network was trained on? Distance to its nearest training views.

The distance is that to the k-th nearest training view in the network's embedding, scaled to length 1 (Sun et al. 2022).
Its unit means nothing, so it is given as a percentile of the same distances of patients whom cross-validation left out of
the network's training run: their views are as new to it as those of any other patient.
"""

from __future__ import annotations

import numpy as np

# More than the near-identical views of one examination.
NEIGHBOURS = 10


def unit_length(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings float (N, D) scaled to length 1, float32; an embedding of zeros stays as it is."""
    embeddings = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def neighbour_distances(queries: np.ndarray, training: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Euclidean distance (Q,) to the `neighbours`-th nearest of `training` (R, D), R > 0, for unit `queries` (Q, D).

    The farthest where there are fewer.
    """
    cosine = np.asarray(queries, np.float64) @ np.asarray(training, np.float64).T
    position = len(training) - min(neighbours, len(training))
    return np.sqrt(np.maximum(2 - 2 * np.partition(cosine, position, axis=1)[:, position], 0))


def percentiles(distances: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Percentage (Q,) of the distances of left-out views (L,), sorted, that are smaller than each of (Q,)."""
    return 100 * np.searchsorted(left_out, distances) / len(left_out)
