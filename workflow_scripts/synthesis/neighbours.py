"""Nearest-neighbour geometry of feature sets: balls around real features and who lies inside (Eq. 5 of the paper).

Squared distances come as |a|² + |b|² - 2ab from float32 matrix products, tile by tile. Their rounding error has a bound,
so every decision that could fall either way within it (a neighbour near the k-th place, a point near the rim of a ball)
is computed again in float64 from the differences: the answers are those of brute force in float64, at the price of
float32. Cost grows as N x M; memory is that of one tile, whatever the sets' sizes (benchmarks/neighbours.py).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.synthesis.checks import extent, require_one_width

EPSILON = float(np.finfo(np.float32).eps)
# What follows a product is done in parts of so many numbers, which stay in a core's cache; so do pairs, and rows moved.
PART_NUMBERS, CHUNK_NUMBERS = 1 << 17, 1 << 16


@dataclass(frozen=True)
class Tiling:
    """Points (`rows`) and reference rows (`columns`) of one matrix product, and who multiplies: large enough for full
    speed, small enough that memory does not grow with the sets. `product` takes float32 (r, D) and (c, D) and returns
    their dot products (r, c) with a float32 sum's accuracy (no TF32, no half precision).
    """

    rows: int = 1024
    columns: int = 2048
    product: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda first, second: first @ second.T


TILING = Tiling()


def nearest(
    points: np.ndarray, reference: np.ndarray, count: int, tiling: Tiling = TILING
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest rows of `reference` (M, D) for each row of `points` (N, D), nearest first.

    Returns float64 distances (N, count) and their int64 row numbers; of equally distant rows the first comes first.
    Raises `UserError` where the sets do not fit together or hold fewer than `count` rows.
    """
    reach = _check(points, reference, "points", "reference")
    if not 1 <= count <= len(reference):
        raise UserError(f"{count} nearest neighbours were asked for, but the reference set has {len(reference)} views")
    return _nearest(points, _Space(reference, reach, tiling), count)


def nearest_others(features: np.ndarray, count: int, tiling: Tiling = TILING) -> np.ndarray:
    """Distances (N, count), float64, from each row to its nearest *other* rows, nearest first (a duplicate is at 0)."""
    reach = _check_others(features, count)
    distances = np.zeros((len(features), count), dtype=np.float64)
    # A collapsed generator repeats one image thousands of times: their distances are 0, and
    # looking for them would take quadratic time.
    spread = np.flatnonzero(_copies(features) <= count)
    if len(spread):
        points = features[spread] if len(spread) < len(features) else features
        distances[spread] = _nearest(points, _Space(features, reach, tiling), count, own=spread)[0]
    return distances


def radii(real: np.ndarray, k: int, tiling: Tiling = TILING) -> np.ndarray:
    """Distance (N,), float64, of each row of `real` (N, D) to its k-th nearest other row (Eq. 5)."""
    reach = _check_others(real, k)
    result = np.zeros(len(real), dtype=np.float64)
    spread = np.flatnonzero(_copies(real) <= k)
    if not len(spread):
        return result
    points = real[spread] if len(spread) < len(real) else real
    for block, found in _candidates(points, _Space(real, reach, tiling), k, own=spread):
        # Only rows that may be the k-th are measured again; so many are surely nearer.
        sure = found.low + block.width[found.rows] < found.last[found.rows]
        nearer = np.bincount(found.rows[sure], minlength=len(block))
        rows, columns = found.rows[~sure], found.columns[~sure]
        exact = _pair_distances(points, real, rows + block.start, columns)
        order = np.lexsort((exact, rows))
        first = np.searchsorted(rows[order], np.arange(len(block)))
        result[spread[block.start : block.start + len(block)]] = exact[order[first + k - 1 - nearer]]
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


def membership(centres: np.ndarray, radius: np.ndarray, points: np.ndarray, tiling: Tiling = TILING) -> Membership:
    """How `points` (N, D) lie relative to the closed balls of `radius` (M,) around `centres` (M, D)."""
    reach = _check(centres, points, "centres", "points")
    if radius.shape != (len(centres),):
        raise UserError(f"there are {len(centres)} centres but radii of shape {radius.shape}")
    balls = np.zeros(len(points), dtype=np.int64)
    ratio = np.full(len(points), np.inf)
    space = _Space(centres, reach, tiling)
    limit = ((radius / space.scale) ** 2).astype(np.float32)
    flat = limit <= 0  # balls without extent hold only their centre
    inverse = np.divide(1, limit, out=np.zeros_like(limit), where=~flat)
    slack = 4 * EPSILON  # the radius itself was rounded, and so is its inverse
    for block in space.blocks(points):
        bound = np.full(len(block), np.inf, dtype=np.float32)  # of the smallest (distance / radius)², from above
        for part in space.parts(block):
            within, inverses, empty = limit[part.columns], inverse[part.columns], flat[part.columns]
            surely = part.low <= np.where(empty, -np.inf, within * (1 - slack) - part.width)
            again = part.low <= within * (1 + slack)
            again ^= surely
            relative = np.multiply(part.low, inverses, out=part.low)
            relative[:, np.flatnonzero(empty)] = np.inf
            best = relative.argmin(axis=1)
            smallest = relative[np.arange(len(best)), best]
            highest = (smallest + part.width * inverses[best]) * (1 + 1e-5) + 1e-30
            bound[part.rows] = np.minimum(bound[part.rows], highest)
            # Again in float64: pairs near a rim, and those that may hold the smallest ratio.
            again |= relative <= np.minimum(bound[part.rows], np.finfo(np.float32).max)[:, None]
            rows, columns = np.divmod(np.flatnonzero(again), again.shape[1])
            own = rows + block.start + part.rows.start
            distance = _pair_distances(points, centres, own, columns + part.columns.start)
            measured = radius[columns + part.columns.start]
            surely[rows, columns] = distance <= measured
            balls[block.start + part.rows.start : block.start + part.rows.stop] += np.add.reduce(
                surely, axis=1, dtype=np.uint32
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                pair_ratio = distance / measured
            pair_ratio[distance == 0] = 0.0
            np.minimum.at(ratio, own, pair_ratio)
    return Membership(balls, ratio)


def inside(
    real: np.ndarray, radius: np.ndarray, points: np.ndarray, tiling: Tiling = TILING
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each point lies in the real manifold (bool), and its smallest distance / radius (float64)."""
    result = membership(real, radius, points, tiling)
    return result.inside, result.ratio


@dataclass(frozen=True)
class _Block:
    """So many points from `start` on: their coordinates (r, D), and what makes `-2 ab + |b|²` a lower bound of the
    squared distance, which is at most `width` above it; one number per point.
    """

    start: int
    coordinates: np.ndarray
    added: np.ndarray
    width: np.ndarray

    def __len__(self) -> int:
        return len(self.coordinates)


@dataclass(frozen=True)
class _Part:
    """Lower bounds (r, c) of squared distances from a block's rows to reference columns; all lie within `width`."""

    rows: slice
    columns: slice
    low: np.ndarray
    width: float


class _Space:
    """The reference rows in coordinates whose squares neither overflow nor vanish in float32: moved by their mean,
    divided by `scale`, a power of two. `reach` is the largest absolute feature.
    """

    def __init__(self, reference: np.ndarray, reach: float, tiling: Tiling) -> None:
        self.reference, self.tiling = reference, tiling
        # In float32, so that both sets are moved by the very same vector.
        self._centre = reference.mean(axis=0, dtype=np.float64).astype(np.float32)
        width = reference.shape[1]
        # A power of two divides without rounding.
        self.scale = 2.0 ** math.ceil(math.log2(2 * reach * math.sqrt(width))) if reach > 0 else 1.0
        # Bound of the rounding of the dot product (Higham: D u |a||b|, u = eps/2), of centring and of pairwise sums.
        self._factor = EPSILON * (width / 4 + 32)
        self._part_rows = max(1, PART_NUMBERS // min(tiling.columns, len(reference)))
        self._held: tuple[int, np.ndarray] = (-1, reference[:0])

    @cached_property
    def _norms(self) -> np.ndarray:
        norms = np.empty(len(self.reference), dtype=np.float32)
        for start in range(0, len(norms), self.tiling.columns):
            tile = slice(start, start + self.tiling.columns)
            self._moved(self.reference[tile], 1, norms[tile])
        return norms

    def blocks(self, points: np.ndarray) -> Iterator[_Block]:
        """The points, `tiling.rows` at a time."""
        largest = float(np.sqrt(self._norms.max()))
        for start in range(0, len(points), self.tiling.rows):
            part = points[start : start + self.tiling.rows]
            norms = np.empty(len(part), dtype=np.float32)
            coordinates = self._moved(part, 1, norms)
            # One bound for all rows of a part.
            firsts = np.arange(0, len(norms), self._part_rows)
            error = self._factor * (np.sqrt(np.maximum.reduceat(norms, firsts)) + largest) ** 2
            error = np.repeat(error.astype(np.float32), np.diff([*firsts, len(norms)]))
            yield _Block(start, coordinates, norms - error, 2 * error)

    def parts(self, block: _Block) -> Iterator[_Part]:
        """Every pair of a block's points and reference rows, once; a part's numbers may be written over."""
        for start in range(0, len(self.reference), self.tiling.columns):
            low = self.tiling.product(block.coordinates, self._tile(start))
            columns = slice(start, start + low.shape[1])
            for first in range(0, len(block), self._part_rows):
                rows = slice(first, min(first + self._part_rows, len(block)))
                part = low[rows]
                part += self._norms[columns]
                part += block.added[rows, None]
                yield _Part(rows, columns, part, float(block.width[first]))

    def _tile(self, start: int) -> np.ndarray:
        """-2 times the coordinates of the reference rows from `start` on; the last tile is kept, often the only one."""
        if self._held[0] != start:
            self._held = start, self._moved(self.reference[start : start + self.tiling.columns], -2)
        return self._held[1]

    def _moved(self, features: np.ndarray, factor: float, norms: np.ndarray | None = None) -> np.ndarray:
        """Their coordinates times a factor; `norms`, if given, takes the squared norms."""
        moved = np.empty(features.shape, dtype=np.float32)
        for part in _chunks(features):
            np.subtract(features[part], self._centre, out=moved[part], casting="same_kind")
            moved[part] *= np.float32(factor / self.scale)
            if norms is not None:
                np.sum(np.square(moved[part]), axis=1, out=norms[part])
        return moved


@dataclass(frozen=True)
class _Candidates:
    """Pairs of a block's rows and reference rows that may be among the nearest, with their lower bounds (flat), and the
    lower bound in the last place of each of the block's rows.
    """

    rows: np.ndarray
    columns: np.ndarray
    low: np.ndarray
    last: np.ndarray


def _candidates(
    points: np.ndarray, space: _Space, count: int, own: np.ndarray | None
) -> Iterator[tuple[_Block, _Candidates]]:
    """Per block, the pairs that may be among the `count` nearest; `own` gives each point's own row, which is skipped."""
    for block in space.blocks(points):
        lowest = np.full((len(block), count), np.inf, dtype=np.float32)
        found = []
        for part in space.parts(block):
            if own is not None:
                mine = own[block.start + part.rows.start : block.start + part.rows.stop] - part.columns.start
                met = np.flatnonzero((mine >= 0) & (mine < part.low.shape[1]))
                part.low[met, mine[met]] = np.inf
            these = np.partition(part.low, count - 1, axis=1)[:, :count] if count < part.low.shape[1] else part.low
            merged = np.concatenate([lowest[part.rows], these], axis=1)
            lowest[part.rows] = np.partition(merged, count - 1, axis=1)[:, :count]
            # A row that truly belongs to the nearest has its lower bound at most `width` beyond the one in the last place.
            last = lowest[part.rows, count - 1]
            near = part.low <= np.minimum(last + part.width, np.finfo(np.float32).max)[:, None]
            rows, columns = np.divmod(np.flatnonzero(near), near.shape[1])
            found.append((rows + part.rows.start, columns + part.columns.start, part.low[rows, columns]))
        rows, columns, low = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        last = lowest[:, count - 1]
        still = low <= (last + block.width)[rows]  # later tiles have brought nearer ones
        yield block, _Candidates(rows[still], columns[still], low[still], last)


def _nearest(
    points: np.ndarray, space: _Space, count: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` without checks."""
    distances = np.empty((len(points), count), dtype=np.float64)
    indices = np.empty((len(points), count), dtype=np.int64)
    for block, found in _candidates(points, space, count, own):
        exact = _pair_distances(points, space.reference, found.rows + block.start, found.columns)
        order = np.lexsort((found.columns, exact, found.rows))
        first = np.searchsorted(found.rows[order], np.arange(len(block)))
        chosen = order[first[:, None] + np.arange(count)]
        distances[block.start : block.start + len(block)] = exact[chosen]
        indices[block.start : block.start + len(block)] = found.columns[chosen]
    return distances, indices


def _pair_distances(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float64 distances of the pairs (a[rows[i]], b[columns[i]])."""
    result = np.empty(len(rows), dtype=np.float64)
    step = max(1, CHUNK_NUMBERS // a.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = a[rows[part]].astype(np.float64)
        difference -= b[columns[part]]
        result[part] = np.sqrt(np.square(difference, out=difference).sum(axis=1))
    return result


def _chunks(rows: np.ndarray) -> Iterator[slice]:
    step = max(1, CHUNK_NUMBERS // rows.shape[1])
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def _copies(features: np.ndarray) -> np.ndarray:
    """int (N,): how many rows are bit for bit equal to each row, itself included."""
    beginnings = [row[:8].tobytes() for row in features]
    alike = Counter(beginnings)
    digests = [
        hashlib.blake2b(row.tobytes(), digest_size=16).digest() if alike[beginning] > 1 else beginning
        for row, beginning in zip(features, beginnings, strict=True)
    ]
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
