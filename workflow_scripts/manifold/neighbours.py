"""Nearest-neighbour geometry of feature sets: balls around real features and who lies inside (Eq. 5 of the paper).

Squared distances come as |a|² + |b|² - 2ab from blocked float32 matrix products. Their rounding error has a bound, so
every decision that could fall either way within it (a neighbour near the k-th place, a point near the rim of a ball)
is computed again in float64 from the differences: the answers are those of brute force in float64, at the price of
float32. Cost grows as N x M, memory with the block and one float32 copy of the M rows (benchmarks/neighbours.py).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workflow_scripts.errors import UserError
from workflow_scripts.manifold.checks import extent, require_one_width

BLOCK = 1024
# Numbers per temporary array: so many stay in a core's cache. Blocks have no fewer rows than a matrix product needs.
BLOCK_NUMBERS, LEAST_ROWS = 1 << 18, 512
PAIR_NUMBERS = 1 << 17


def nearest(points: np.ndarray, reference: np.ndarray, count: int, block: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest rows of `reference` (M, D) for each row of `points` (N, D), nearest first.

    Returns float64 distances (N, count) and their int64 row numbers; of equally distant rows the first comes first.
    Raises `UserError` where the sets do not fit together or hold fewer than `count` rows.
    """
    reach = _check(points, reference, "points", "reference")
    if not 1 <= count <= len(reference):
        raise UserError(f"{count} nearest neighbours were asked for, but the reference set has {len(reference)} views")
    return _nearest(points, reference, count, reach, block)


def nearest_others(features: np.ndarray, count: int, block: int = BLOCK) -> np.ndarray:
    """Distances (N, count), float64, from each row to its nearest *other* rows, nearest first (a duplicate is at 0)."""
    reach = _check_others(features, count)
    distances = np.zeros((len(features), count), dtype=np.float64)
    # A collapsed generator repeats one image thousands of times: their distances are 0, and
    # looking for them would take quadratic time.
    spread = np.flatnonzero(_copies(features) <= count)
    if len(spread):
        distances[spread] = _nearest(features[spread], features, count, reach, block, own=spread)[0]
    return distances


def radii(real: np.ndarray, k: int, block: int = BLOCK) -> np.ndarray:
    """Distance (N,), float64, of each row of `real` (N, D) to its k-th nearest other row (Eq. 5)."""
    reach = _check_others(real, k)
    result = np.zeros(len(real), dtype=np.float64)
    spread = np.flatnonzero(_copies(real) <= k)
    if not len(spread):
        return result
    points = real[spread] if len(spread) < len(real) else real
    for start, squared, error, _ in _squared_blocks(points, real, reach, block):
        block_rows = np.arange(len(squared))
        squared[block_rows, spread[start : start + len(squared)]] = np.inf
        last = np.partition(squared, k - 1, axis=1)[:, k - 1]
        # Only rows that may be the k-th are measured again; so many are surely nearer.
        nearer = (squared < (last - 2 * error)[:, None]).sum(axis=1)
        rows, columns = np.nonzero(np.abs(squared - last[:, None]) <= 2 * error[:, None])
        exact = _pair_distances(real, real, spread[rows + start], columns)
        order = np.lexsort((exact, rows))
        first = np.searchsorted(rows, block_rows)
        result[spread[start : start + len(squared)]] = exact[order[first + k - 1 - nearer]]
    return result


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
    reach = _check(centres, points, "centres", "points")
    if radius.shape != (len(centres),):
        raise UserError(f"there are {len(centres)} centres but radii of shape {radius.shape}")
    balls = np.empty(len(points), dtype=np.int64)
    ratio = np.empty(len(points), dtype=np.float64)
    for start, squared, error, scale in _squared_blocks(points, centres, reach, block):
        rows = slice(start, start + len(squared))
        limit = ((radius / scale) ** 2).astype(np.float32)
        extent = limit > 0
        inverse = np.divide(1, limit, out=np.zeros_like(limit), where=extent)
        slack = 4 * np.finfo(np.float32).eps  # the radius itself was rounded, and so is its inverse
        surely = (squared + error[:, None] <= limit * (1 - slack)) & extent
        relative = squared * inverse
        relative[:, ~extent] = np.inf
        best = relative.argmin(axis=1)
        highest = (relative[np.arange(len(squared)), best] + error * inverse[best]) * (1 + 1e-5) + 1e-30
        squared -= error[:, None]
        # Again in float64: pairs near a rim, and those that may hold the smallest ratio.
        again = (squared <= limit * (1 + slack)) & ~surely
        squared *= inverse
        again |= (squared <= highest[:, None]) & extent
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
    points: np.ndarray, reference: np.ndarray, count: int, reach: float, block: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` without checks; `own` gives each point's own row of `reference`, which is skipped."""
    distances = np.empty((len(points), count), dtype=np.float64)
    indices = np.empty((len(points), count), dtype=np.int64)
    for start, squared, error, _ in _squared_blocks(points, reference, reach, block):
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
    points: np.ndarray, reference: np.ndarray, reach: float, block: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, float]]:
    """Blocks of (first row, squared distances / scale² float32, bound of their error per row, scale); `reach` is the
    largest absolute feature."""
    # In float32, so that both sets are moved by the very same vector.
    centre = reference.mean(axis=0, dtype=np.float64).astype(np.float32)
    width = reference.shape[1]
    # A power of two divides without rounding; squares can neither overflow nor vanish.
    scale = 2.0 ** math.ceil(math.log2(2 * reach * math.sqrt(width))) if reach > 0 else 1.0
    prepared = np.empty(reference.shape, dtype=np.float32)
    norms = np.empty(len(reference), dtype=np.float32)
    rows = min(block, max(LEAST_ROWS, BLOCK_NUMBERS // len(reference)))
    for start in range(0, len(reference), rows):
        part, norms[start : start + rows] = _prepared(reference[start : start + rows], centre, scale)
        np.multiply(part, -2, out=prepared[start : start + rows])
    largest = float(np.sqrt(norms.max()))
    # Bound of the rounding of the dot product (Higham: D u |a||b|, u = eps/2), of centring and of pairwise sums.
    factor = float(np.finfo(np.float32).eps) * (width / 4 + 32)
    for start in range(0, len(points), rows):
        part, own = _prepared(points[start : start + rows], centre, scale)
        squared = part @ prepared.T
        squared += norms
        squared += own[:, None]
        yield start, squared, (factor * (np.sqrt(own) + largest) ** 2).astype(np.float32), scale


def _prepared(features: np.ndarray, centre: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) moved and scaled, and their squared norms (n,); float32."""
    part = (features - centre).astype(np.float32, copy=False)
    part *= np.float32(1 / scale)
    return part, np.square(part).sum(axis=1)


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


def _check_others(features: np.ndarray, count: int) -> float:
    reach = _check(features, features, "features", "features")
    if not 1 <= count < len(features):
        raise UserError(
            f"the {count}-th nearest neighbour needs more than {count} views, but there are {len(features)}: "
            f"lower k to at most {len(features) - 1} or give more views"
        )
    return reach


def _check(first: np.ndarray, second: np.ndarray, first_name: str, second_name: str) -> float:
    """The largest absolute feature; `UserError` where the sets cannot be compared."""
    if first is second:
        return extent(first, first_name)
    reach = max(extent(first, first_name), extent(second, second_name))
    require_one_width({first_name: first, second_name: second})
    return reach
