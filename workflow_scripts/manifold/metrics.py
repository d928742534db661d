"""How close a generated set comes to a real one: precision, recall, density, coverage, Fréchet distance, KID.

All functions take features, float (views, width), of both sets from the same network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workflow_scripts.errors import UserError
from workflow_scripts.manifold.neighbours import membership, nearest, radii

KERNEL_BLOCK = 2048


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


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """KID (Bińkowski et al. 2018): unbiased squared MMD with the kernel (x·y/D + 1)³ over the whole sets.

    Unbiased, so it may be slightly negative where the distributions agree.
    """
    if min(len(real), len(generated)) < 2:
        raise UserError(f"KID needs at least 2 views on either side, there are {len(real)} and {len(generated)}")
    within = [
        (_kernel_sum(features, features) - _self_kernel_sum(features)) / (len(features) * (len(features) - 1))
        for features in (real, generated)
    ]
    return float(sum(within) - 2 * _kernel_sum(real, generated) / (len(real) * len(generated)))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for i in range(0, len(a), KERNEL_BLOCK):
        left = a[i : i + KERNEL_BLOCK].astype(np.float64) / a.shape[1]
        for j in range(0, len(b), KERNEL_BLOCK):
            product = left @ b[j : j + KERNEL_BLOCK].astype(np.float64).T
            product += 1
            total += float((product * product * product).sum())
    return total


def _self_kernel_sum(a: np.ndarray) -> float:
    return float(((np.square(a, dtype=np.float64).sum(axis=1) / a.shape[1] + 1) ** 3).sum())


def reference_batches(views: int, batches: int, size: int, seed: int) -> np.ndarray:
    """int (batches, size): row numbers of disjoint random batches of `views` real views."""
    if views < batches * size:
        raise UserError(
            f"{batches} disjoint reference batches of {size} real views need {batches * size} views, but the generator"
            f" learnt from {views}: lower manifold.recipe.metric_batch_size to at most {views // batches}, or"
            " metric_batches"
        )
    return np.random.default_rng(seed).permutation(views)[: batches * size].reshape(batches, size)
