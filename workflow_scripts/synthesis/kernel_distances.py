"""Maximum mean discrepancies of a generated set from a real one: KID, and MMD with a Gaussian kernel.

Features are float (views, width), of both sets from the same network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.statistics import patient_weights
from workflow_scripts.synthesis.checks import extent, require_one_width

KERNEL_BLOCK = 2048
# The bootstrap: draws, and the blocks that generated views are drawn in.
DRAWS, GENERATED_BLOCKS = 2000, 200
# The Gaussian kernel's width is the median over the pairs of at most this many real views.
WIDTH_VIEWS = 2048


@dataclass(frozen=True)
class KernelDistance:
    """An unbiased squared MMD and its 95 % interval."""

    value: float
    low: float
    high: float


def kernel_distances(
    real: np.ndarray, generated: np.ndarray, patients: np.ndarray, seed: int
) -> dict[str, KernelDistance]:
    """Unbiased squared MMD over the whole sets with two kernels.

    `kid`: (x·y/D + 1)³ (Bińkowski et al. 2018), which compares the first three moments. `mmd`: exp(−|x − y|²/2σ²), which
    tells any two distributions apart (as CMMD does, Jayasumana et al. 2024), with σ the median distance between real
    views of different patients (Gretton et al. 2012): sets compared with the same real views share it.

    Pairs of views of one patient are left out: they are no independent draws, and with them both would be too high (with
    one view per `patients` (N,) KID is as published). Unbiased, so they may be slightly negative where the distributions
    agree. The intervals are a bootstrap of patients and of generated views, these in random blocks of which likewise
    only pairs of different ones count.

    `real` (N, D), `generated` (M, D). Raises `UserError` where the sets cannot be compared, have fewer than two patients
    or generated views, or where more than half of the real views look alike.
    """
    require_one_width({"real views": real, "generated views": generated})
    extent(real, "real views")
    extent(generated, "generated views")
    generator = np.random.default_rng(seed)
    blocks = generator.permutation(len(generated)) % min(GENERATED_BLOCKS, len(generated))
    sides = _Grouped(real, patients), _Grouped(generated, blocks)
    first, second = (len(side.sizes) for side in sides)
    if min(first, second) < 2:
        raise UserError(
            "a kernel distance needs views of at least 2 patients and 2 generated views, there are "
            f"{first} and {len(generated)}"
        )
    variance = _median_square(sides[0])
    within, between = [_kernel_sums(side, side, variance) for side in sides], _kernel_sums(*sides, variance)
    drawn = [patient_weights(np.arange(n), DRAWS, generator).astype(np.float64) for n in (first, second)]
    # Few groups may all be drawn as one, which has no pair.
    usable = np.all([(weights > 0).sum(axis=1) > 1 for weights in drawn], axis=0)
    drawn = [weights[usable] for weights in drawn]

    found = {}
    for number, name in enumerate(("kid", "mmd")):
        sums = within[0][number], within[1][number], between[number]
        value = _distances(sides, *sums, np.ones((1, first)), np.ones((1, second)))[0]
        low, high = np.quantile(_distances(sides, *sums, *drawn), [0.025, 0.975])
        found[name] = KernelDistance(float(value), float(low), float(high))
    return found


class _Grouped:
    """Features (N, D) with their rows sorted by group; `groups` (N,) numbers and `sizes` (groups,)."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        _, groups, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        self.order = np.argsort(groups, kind="stable")
        self.features, self.groups, self.sizes = features, groups[self.order], sizes.astype(np.float64)

    def rows(self, rows: slice | np.ndarray) -> np.ndarray:
        """Features of some of the sorted rows, float64, over sqrt(D)."""
        part = self.features[self.order[rows]].astype(np.float64)
        return part / np.sqrt(part.shape[1])

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Features, the groups in the block, and where each begins."""
        for start in range(0, len(self.order), KERNEL_BLOCK):
            rows = slice(start, start + KERNEL_BLOCK)
            groups, begins = np.unique(self.groups[rows], return_index=True)
            yield self.rows(rows), groups, begins


def _median_square(side: _Grouped) -> float:
    """Median squared distance over D between views of different groups; of evenly spaced views where there are many."""
    count = min(len(side.order), WIDTH_VIEWS)
    # The first and the last row are among them, and so at least two groups.
    chosen = np.arange(count) * (len(side.order) - 1) // (count - 1)
    part, groups = side.rows(chosen), side.groups[chosen]
    products = part @ part.T
    median = float(np.median(_squares(part, part, products)[groups[:, None] < groups]))
    if median <= 1e-12 * products.max():  # what rounding leaves of 0
        raise UserError("more than half of the real views have the same features: no kernel has a width for them")
    return median


def _squares(a: np.ndarray, b: np.ndarray, products: np.ndarray) -> np.ndarray:
    norms = [np.einsum("nd,nd->n", rows, rows) for rows in (a, b)]
    return np.maximum(norms[0][:, None] + norms[1] - 2 * products, 0)


def _kernel_sums(a: _Grouped, b: _Grouped, variance: float) -> np.ndarray:
    """float64 (2, groups, groups): sums of KID's kernel and of the Gaussian one over all pairs of views of two groups."""
    total = np.zeros((2, len(a.sizes), len(b.sizes)))
    for number, (left, rows, row_begins) in enumerate(a.blocks()):
        for other, (right, columns, column_begins) in enumerate(b.blocks()):
            if a is b and other < number:  # the mirror image of a block that was summed
                continue
            products = left @ right.T
            gaussian = np.exp(_squares(left, right, products) / (-2 * variance))
            products += 1
            for target, kernel in zip(total, (products * products * products, gaussian), strict=True):
                sums = np.add.reduceat(np.add.reduceat(kernel, row_begins, axis=0), column_begins, axis=1)
                target[np.ix_(rows, columns)] += sums
                if a is b and other > number:
                    target[np.ix_(columns, rows)] += sums.T
    return total


def _distances(
    sides: tuple[_Grouped, _Grouped], real: np.ndarray, generated: np.ndarray, between: np.ndarray, *weights: np.ndarray
) -> np.ndarray:
    """Squared MMD (draws,) with every group's views counted `weights` (draws, groups) times, from the kernels' sums."""
    total = -2 * ((weights[0] @ between) * weights[1]).sum(axis=1)
    total /= (weights[0] @ sides[0].sizes) * (weights[1] @ sides[1].sizes)
    for w, side, sums in zip(weights, sides, (real, generated), strict=True):
        pairs = (w @ side.sizes) ** 2 - np.square(w) @ np.square(side.sizes)
        total += (((w @ sums) * w).sum(axis=1) - np.square(w) @ np.diagonal(sums)) / pairs
    return total
