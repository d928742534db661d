"""Nearest-neighbour geometry of feature sets: balls around real features and who lies inside (Eq. 5 of the paper).

Squared distances come as |a|² + |b|² - 2ab from blocked float32 matrix products. Their rounding error has a bound, so
every decision that could fall either way within it (a neighbour near the k-th place, a point near the rim of a ball)
is computed again in float64 from the differences: the answers are those of brute force in float64, at the price of
float32. Cost grows as N x M, memory with the block: about 8 block x M float32 numbers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workflow_scripts.errors import UserError

BLOCK = 1024
# Numbers per temporary array where single pairs are computed again in float64 (64 MiB).
PAIR_NUMBERS = 1 << 23


def nearest(points: np.ndarray, reference: np.ndarray, count: int, block: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest rows of `reference` (M, D) for each row of `points` (N, D), nearest first.

    Returns float64 distances (N, count) and their int64 row numbers; of equally distant rows the first comes first.
    Raises `UserError` where the sets do not fit together or hold fewer than `count` rows.
    """
    _check(points, reference, "points", "reference")
    if not 1 <= count <= len(reference):
        raise UserError(f"{count} nearest neighbours were asked for, but the reference set has {len(reference)} views")
    return _nearest(points, reference, count, block)


def nearest_others(features: np.ndarray, count: int, block: int = BLOCK) -> np.ndarray:
    """Distances (N, count), float64, from each row to its nearest *other* rows, nearest first (a duplicate is at 0)."""
    _check(features, features, "features", "features")
    if not 1 <= count < len(features):
        raise UserError(
            f"the {count}-th nearest neighbour needs more than {count} views, but there are {len(features)}: "
            f"lower k to at most {len(features) - 1} or give more views"
        )
    distances = np.zeros((len(features), count), dtype=np.float64)
    # A collapsed generator repeats one image thousands of times: their distances are 0, and
    # looking for them would take quadratic time.
    spread = np.flatnonzero(_copies(features) <= count)
    if len(spread):
        distances[spread] = _nearest(features[spread], features, count, block, own=spread)[0]
    return distances


def radii(real: np.ndarray, k: int, block: int = BLOCK) -> np.ndarray:
    """Distance (N,), float64, of each row of `real` (N, D) to its k-th nearest other row (Eq. 5)."""
    return nearest_others(real, k, block)[:, -1]


@dataclass(frozen=True)
class Membership:
    """Where points lie relative to a set of closed balls; every array has one entry per point.

    `balls`: int64, how many balls hold the point. `ratio`: float64 >= 0, the smallest distance / radius (0 at the
    centre of a ball without extent, infinite where only such balls exist); at most 1 exactly where `balls` > 0.
    """

    balls: np.ndarray
    ratio: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """bool: whether the point lies in the union of the balls."""
        return self.balls > 0


def membership(centres: np.ndarray, radius: np.ndarray, points: np.ndarray, block: int = BLOCK) -> Membership:
    """How `points` (N, D) lie relative to the closed balls of `radius` (M,) around `centres` (M, D)."""
    _check(centres, points, "centres", "points")
    if radius.shape != (len(centres),):
        raise UserError(f"there are {len(centres)} centres but radii of shape {radius.shape}")
    balls = np.empty(len(points), dtype=np.int64)
    ratio = np.empty(len(points), dtype=np.float64)
    for start, squared, error, scale in _squared_blocks(points, centres, block):
        rows = slice(start, start + len(squared))
        limit = ((radius / scale) ** 2).astype(np.float32)
        band = error[:, None] + 4 * np.finfo(np.float32).eps * limit  # the radius itself was rounded
        surely = squared <= limit - band
        with np.errstate(divide="ignore", invalid="ignore"):
            lowest = np.nan_to_num(np.maximum(squared - band, 0) / limit, nan=0.0, posinf=np.inf)
            highest = np.nan_to_num((squared + band) / limit, nan=0.0, posinf=np.inf).min(axis=1, keepdims=True)
        # Again in float64: pairs near a rim, and those that may hold the smallest ratio.
        again = (np.abs(squared - limit) <= band) | ((lowest <= highest * (1 + 1e-5)) & (lowest < np.inf))
        again_rows, again_columns = np.nonzero(again)
        distance = _pair_distances(points, centres, again_rows + start, again_columns)
        surely[again_rows, again_columns] = distance <= radius[again_columns]
        balls[rows] = surely.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            pair_ratio = distance / radius[again_columns]
        pair_ratio[distance == 0] = 0.0
        smallest = np.full(len(squared), np.inf)
        np.minimum.at(smallest, again_rows, pair_ratio)
        ratio[rows] = smallest
    return Membership(balls, ratio)


def inside(
    real: np.ndarray, radius: np.ndarray, points: np.ndarray, block: int = BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each point lies in the real manifold (bool), and its smallest distance / radius (float64)."""
    result = membership(real, radius, points, block)
    return result.inside, result.ratio


def _nearest(
    points: np.ndarray, reference: np.ndarray, count: int, block: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` without checks; `own` gives each point's own row of `reference`, which is skipped."""
    distances = np.empty((len(points), count), dtype=np.float64)
    indices = np.empty((len(points), count), dtype=np.int64)
    for start, squared, error, _ in _squared_blocks(points, reference, block):
        block_rows = np.arange(len(squared))
        if own is not None:
            squared[block_rows, own[start : start + len(squared)]] = np.inf
        last = np.partition(squared, count - 1, axis=1)[:, count - 1]
        # A row that truly belongs to the nearest is measured at most 2 error beyond the one measured in the last place.
        rows, columns = np.nonzero(squared <= (last + 2 * error)[:, None])
        exact = _pair_distances(points, reference, rows + start, columns)
        order = np.lexsort((columns, exact, rows))
        first = np.searchsorted(rows, block_rows)  # `rows` ascends, and sorting by it keeps each row's place
        chosen = order[first[:, None] + np.arange(count)]
        distances[start : start + len(squared)] = exact[chosen]
        indices[start : start + len(squared)] = columns[chosen]
    return distances, indices


def _squared_blocks(
    points: np.ndarray, reference: np.ndarray, block: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, float]]:
    """Blocks of (first row, squared distances / scale² float32, bound of their error per row, scale)."""
    centre = np.asarray(reference.mean(axis=0, dtype=np.float64))
    scale = max(_largest_norm(reference, centre, block), _largest_norm(points, centre, block)) or 1.0
    prepared = np.empty(reference.shape, dtype=np.float32)
    norms = np.empty(len(reference), dtype=np.float64)
    for start in range(0, len(reference), block):
        part = (reference[start : start + block] - centre) / scale
        prepared[start : start + block] = part
        norms[start : start + block] = np.einsum("nd,nd->n", part, part)
    largest = float(np.sqrt(norms.max()))
    # Bound of the dot product's rounding (Higham: D u |a||b|, u = eps/2), of centring and of the sums.
    factor = float(np.finfo(np.float32).eps) * (reference.shape[1] / 4 + 8)
    for start in range(0, len(points), block):
        part = (points[start : start + block] - centre) / scale
        own = np.einsum("nd,nd->n", part, part)
        squared = part.astype(np.float32) @ prepared.T
        squared *= -2
        squared += norms.astype(np.float32)
        squared += own.astype(np.float32)[:, None]
        np.maximum(squared, 0, out=squared)
        yield start, squared, (factor * (np.sqrt(own) + largest) ** 2).astype(np.float32), scale


def _largest_norm(features: np.ndarray, centre: np.ndarray, block: int) -> float:
    return max(
        float(np.sqrt(np.square(features[start : start + block] - centre).sum(axis=1).max()))
        for start in range(0, len(features), block)
    )


def _pair_distances(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float64 distances of the pairs (a[rows[i]], b[columns[i]])."""
    result = np.empty(len(rows), dtype=np.float64)
    step = max(1, PAIR_NUMBERS // a.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = a[rows[part]].astype(np.float64) - b[columns[part]]
        result[part] = np.sqrt(np.square(difference, out=difference).sum(axis=1))
    return result


def _copies(features: np.ndarray) -> np.ndarray:
    """int (N,): how many rows are bit for bit equal to each row, itself included."""
    digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in features]
    counts = Counter(digests)
    return np.array([counts[digest] for digest in digests])


def _check(first: np.ndarray, second: np.ndarray, first_name: str, second_name: str) -> None:
    for features, name in ((first, first_name), (second, second_name)):
        if features.ndim != 2 or not len(features):
            raise UserError(
                f"{name}: expected features (views, width) of at least one view, got shape {features.shape}"
            )
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise UserError(
                f"{name}: {int(bad.sum())} of {len(features)} rows hold NaN or infinity, the first is row "
                f"{int(bad.argmax())}; embed the views again"
            )
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"{first_name} have {first.shape[1]} features per view and {second_name} {second.shape[1]}: both must "
            "come from the same network"
        )
