"""How close a generated set comes to a real one: precision, recall, density, coverage, Fréchet distance, KID.

All functions take features, float (views, width), of both sets from the same network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workflow_scripts.errors import UserError
from workflow_scripts.manifold.checks import extent, require_one_width
from workflow_scripts.manifold.neighbours import membership, nearest, radii

KERNEL_BLOCK = 2048
# Bootstrap of KID: draws, and the blocks that generated views are drawn in.
DRAWS, GENERATED_BLOCKS = 2000, 200
# Sizes at which the Fréchet distance is taken to extrapolate it.
EXTRAPOLATION_SIZES = 8


def precision_density(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float]:
    """Precision, the share of generated views inside the real manifold (Eq. 6; Kynkäänniemi et al. 2019), and density,
    the mean number of real balls that hold a generated view, over k (Naeem et al. 2020; may exceed 1)."""
    lies = membership(real, radii(real, k), generated)
    return float(lies.inside.mean()), float(lies.balls.mean() / k)


def recall(real: np.ndarray, generated: np.ndarray, generated_radii: np.ndarray) -> float:
    """Share of real views inside the generated manifold (Eq. 6), given `radii(generated, k)`."""
    return float(membership(generated, generated_radii, real).inside.mean())


def coverage(real: np.ndarray, generated: np.ndarray, k: int) -> float:
    """Share of real balls that hold a generated view (Naeem et al. 2020)."""
    return float((nearest(real, generated, 1)[0][:, 0] <= radii(real, k)).mean())


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and a factor (min(N, D), D) whose Gram matrix factorᵀ factor is the unbiased covariance; float64."""

    mean: np.ndarray
    factor: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Mean and covariance factor, by the QR decomposition of the centred features: no square is ever formed."""
    extent(features, "features")
    if len(features) < 2:
        raise UserError(f"a Fréchet distance needs at least 2 views on either side, there are {len(features)}")
    mean = features.mean(axis=0, dtype=np.float64)
    triangle = np.linalg.qr(features - mean, mode="r")
    return Moments(mean, triangle / np.sqrt(len(features) - 1))


def frechet(first: Moments, second: Moments) -> float:
    """Fréchet distance of two Gaussians (FID for Inception features; Eq. 7).

    tr sqrt(C1 C2) is the sum of the singular values of factor1 factor2ᵀ, which is real and exact whatever the ranks:
    also with fewer views than features, where the matrix square root leaves complex residues.
    """
    cross = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum()
    shift = np.square(first.mean - second.mean).sum()
    return float(max(shift + np.square(first.factor).sum() + np.square(second.factor).sum() - 2 * cross, 0.0))


def extrapolated_frechet(real: Moments, generated: np.ndarray, seed: int) -> float:
    """The Fréchet distance that infinitely many generated views would have to these real ones (Chong & Forsyth 2020).

    It falls about linearly in 1/N: a line through random subsets of several sizes, at 1/N = 0. Sets of unlike size can
    so be compared; the real views' own number stays in it. The line holds only where N is well above the number of
    features: sizes begin at a tenth of the set or five times that number, and at half the set at most.
    """
    count, width = generated.shape
    smallest = max(2, min(max(count // 10, 5 * width), count // 2))
    sizes = np.unique(np.linspace(smallest, count, EXTRAPOLATION_SIZES).astype(int))
    if len(sizes) < 2:
        raise UserError(f"{count} generated views are too few to extrapolate a Fréchet distance; 3 or more are needed")
    generator = np.random.default_rng(seed)
    values = [frechet(real, moments(generated[np.sort(generator.permutation(count)[:size])])) for size in sizes]
    return float(np.polynomial.Polynomial.fit(1 / sizes, values, 1)(0))


class Generated:
    """A generated set, with what every comparison with real views needs of it computed once."""

    def __init__(self, features: np.ndarray, k: int) -> None:
        self.features = features
        self.k = k
        self.radii = radii(features, k)
        self.moments = moments(features)

    def against(self, real: np.ndarray) -> dict[str, float]:
        """The paper's metrics against a reference set: precision, recall, fid; and density and coverage."""
        share, balls = precision_density(real, self.features, self.k)
        return {
            "precision": share,
            "recall": recall(real, self.features, self.radii),
            "fid": frechet(moments(real), self.moments),
            "density": balls,
            "coverage": coverage(real, self.features, self.k),
        }


@dataclass(frozen=True)
class KernelDistance:
    """KID and its 95 % interval."""

    value: float
    low: float
    high: float


def kernel_distance(real: np.ndarray, generated: np.ndarray, patients: np.ndarray, seed: int) -> KernelDistance:
    """KID (Bińkowski et al. 2018): unbiased squared MMD with the kernel (x·y/D + 1)³ over the whole sets.

    Pairs of views of one patient are left out: they are no independent draws, and with them KID would be too high (with
    one view per `patients` (N,) this is KID as published). Unbiased, so it may be slightly negative where the
    distributions agree. The interval is a bootstrap of patients and of generated views, these in random blocks of which
    likewise only pairs of different ones count.
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
            f"KID needs views of at least 2 patients and 2 generated views, there are {first} and {len(generated)}"
        )
    within, between = [_kernel_sums(side, side) for side in sides], _kernel_sums(*sides)

    def distance(*weights: np.ndarray) -> np.ndarray:
        """KID (draws,) with every group's views counted `weights` (draws, groups) times."""
        total = -2 * ((weights[0] @ between) * weights[1]).sum(axis=1)
        total /= (weights[0] @ sides[0].sizes) * (weights[1] @ sides[1].sizes)
        for w, side, sums in zip(weights, sides, within, strict=True):
            pairs = (w @ side.sizes) ** 2 - np.square(w) @ np.square(side.sizes)
            total += (((w @ sums) * w).sum(axis=1) - np.square(w) @ np.diagonal(sums)) / pairs
        return total

    value = distance(np.ones((1, first)), np.ones((1, second)))[0]
    drawn = [generator.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64) for n in (first, second)]
    # Few groups may all be drawn as one, which has no pair.
    usable = np.all([(weights > 0).sum(axis=1) > 1 for weights in drawn], axis=0)
    low, high = np.quantile(distance(*(weights[usable] for weights in drawn)), [0.025, 0.975])
    return KernelDistance(float(value), float(low), float(high))


class _Grouped:
    """Features (N, D) with their rows sorted by group; `groups` (N,) numbers and `sizes` (groups,)."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        _, groups, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        self.order = np.argsort(groups, kind="stable")
        self.features, self.groups, self.sizes = features, groups[self.order], sizes.astype(np.float64)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Features in float64 / sqrt(D), the groups in the block, and where each begins."""
        for start in range(0, len(self.order), KERNEL_BLOCK):
            rows = slice(start, start + KERNEL_BLOCK)
            part = self.features[self.order[rows]].astype(np.float64)
            groups, begins = np.unique(self.groups[rows], return_index=True)
            yield part / np.sqrt(part.shape[1]), groups, begins


def _kernel_sums(a: _Grouped, b: _Grouped) -> np.ndarray:
    """float64 (groups, groups): sums of the kernel over all pairs of views of two groups."""
    total = np.zeros((len(a.sizes), len(b.sizes)))
    for number, (left, rows, row_begins) in enumerate(a.blocks()):
        for other, (right, columns, column_begins) in enumerate(b.blocks()):
            if a is b and other < number:  # the mirror image of a block that was summed
                continue
            product = left @ right.T
            product += 1
            kernel = product * product * product
            sums = np.add.reduceat(np.add.reduceat(kernel, row_begins, axis=0), column_begins, axis=1)
            total[np.ix_(rows, columns)] += sums
            if a is b and other > number:
                total[np.ix_(columns, rows)] += sums.T
    return total


def reference_batches(views: int, batches: int, size: int, seed: int) -> np.ndarray:
    """int (batches, size): row numbers of disjoint random batches of `views` real views."""
    if views < batches * size:
        raise UserError(
            f"{batches} disjoint reference batches of {size} real views need {batches * size} views, but the generator"
            f" learnt from {views}: lower manifold.recipe.metric_batch_size to at most {views // batches}, or"
            " metric_batches"
        )
    return np.random.default_rng(seed).permutation(views)[: batches * size].reshape(batches, size)
