"""How close a synthetic set comes to a real one: precision, recall, density, coverage, Fréchet distance.

All functions take features, float (views, width), of both sets from the same network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.synthesis.checks import extent
from workflow_scripts.synthesis.neighbours import membership, nearest, radii

# Sizes at which the Fréchet distance is taken to extrapolate it.
EXTRAPOLATION_SIZES = 8
# Squares of numbers are rounded to 1e-16 of the largest. Where the smallest is above this share of it, its root is good to
# 1e-6 of itself, and the squares, which take half the arithmetic, are used; elsewhere no square is formed.
SMALLEST_SQUARE = 1e-10


def precision_density(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float]:
    """Precision, the share of synthetic views inside the real manifold (Eq. 6; Kynkäänniemi et al. 2019), and density,
    the mean number of real balls that hold a synthetic view, over k (Naeem et al. 2020; may exceed 1)."""
    lies = membership(real, radii(real, k), generated)
    return float(lies.inside.mean()), float(lies.balls.mean() / k)


def recall(real: np.ndarray, generated: np.ndarray, generated_radii: np.ndarray) -> float:
    """Share of real views inside the synthetic manifold (Eq. 6), given `radii(generated, k)`."""
    return float(membership(generated, generated_radii, real).inside.mean())


def coverage(real: np.ndarray, generated: np.ndarray, k: int) -> float:
    """Share of real balls that hold a synthetic view (Naeem et al. 2020)."""
    return float((nearest(real, generated, 1)[0][:, 0] <= radii(real, k)).mean())


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and a factor (min(N, D), D) whose Gram matrix factorᵀ factor is the unbiased covariance; float64."""

    mean: np.ndarray
    factor: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Mean and covariance factor.

    The factor is the Cholesky factor of the covariance where that is well conditioned and there are at least twice as many
    views as features, and otherwise comes from a QR decomposition of the centred features.
    """
    extent(features, "features")
    if len(features) < 2:
        raise UserError(f"a Fréchet distance needs at least 2 views on either side, there are {len(features)}")
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    triangle = _cholesky(centred) if len(features) >= 2 * len(mean) else None
    if triangle is None:
        triangle = np.asarray(np.linalg.qr(centred, mode="r"))
    return Moments(mean, triangle / np.sqrt(len(features) - 1))


def frechet(first: Moments, second: Moments) -> float:
    """Fréchet distance of two Gaussians (FID for Inception features; Eq. 7).

    tr sqrt(C1 C2) is the sum of the singular values of factor1 factor2ᵀ, which is real and exact whatever the ranks:
    also with fewer views than features, where the matrix square root leaves complex residues. Where both have
    full rank and the product is well conditioned, they are the roots of the eigenvalues of its square, which are faster to get.
    """
    product, squares = first.factor @ second.factor.T, np.zeros(1)
    if product.shape == (len(first.mean),) * 2:
        squares = np.linalg.eigvalsh(product @ product.T)
    well = squares[0] > SMALLEST_SQUARE * squares[-1]
    cross = (np.sqrt(squares) if well else np.linalg.svd(product, compute_uv=False)).sum()
    shift = np.square(first.mean - second.mean).sum()
    return float(max(shift + np.square(first.factor).sum() + np.square(second.factor).sum() - 2 * cross, 0.0))


def _cholesky(centred: np.ndarray) -> np.ndarray | None:
    """Upper triangle whose Gram matrix is centredᵀ centred; None where squares would lose digits."""
    try:
        triangle = np.linalg.cholesky(centred.T @ centred, upper=True)
    except np.linalg.LinAlgError:
        return None
    sizes = np.square(triangle.diagonal())
    return triangle if sizes.min() > SMALLEST_SQUARE * sizes.max() else None


def extrapolated_frechet(real: Moments, generated: np.ndarray, seed: int) -> float:
    """The Fréchet distance that infinitely many synthetic views would have to these real ones (Chong & Forsyth 2020).

    It falls about linearly in 1/N: a line through random subsets of several sizes, at 1/N = 0. Sets of unlike size can
    so be compared; the real views' own number stays in it. The line holds only where N is well above the number of
    features: sizes begin at a tenth of the set or five times that number, and at half the set at most.
    """
    count, width = generated.shape
    smallest = max(2, min(max(count // 10, 5 * width), count // 2))
    sizes = np.unique(np.linspace(smallest, count, EXTRAPOLATION_SIZES).astype(int))
    if len(sizes) < 2:
        raise UserError(f"{count} synthetic views are too few to extrapolate a Fréchet distance; 3 or more are needed")
    generator = np.random.default_rng(seed)
    values = [frechet(real, moments(generated[np.sort(generator.permutation(count)[:size])])) for size in sizes]
    return float(np.polynomial.Polynomial.fit(1 / sizes, values, 1)(0))


class Generated:
    """A synthetic set, with what every comparison with real views needs of it computed once."""

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


def reference_batches(views: int, batches: int, size: int, seed: int) -> np.ndarray:
    """int (batches, size): row numbers of disjoint random batches of `views` real views."""
    if views < batches * size:
        raise UserError(
            f"{batches} disjoint reference batches of {size} real views need {batches * size} views, but the generator"
            f" learnt from {views}: lower manifold.recipe.metric_batch_size to at most {views // batches}, or"
            " metric_batches"
        )
    return np.random.default_rng(seed).permutation(views)[: batches * size].reshape(batches, size)
