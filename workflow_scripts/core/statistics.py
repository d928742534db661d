"""Is a difference between two rows more than chance?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairedTest:
    """Mean paired difference, its confidence interval and two-sided p value; NaN where they do not exist."""

    difference: float
    low: float
    high: float
    p: float


def corrected_paired_test(
    differences: np.ndarray, folds: int, backbones: np.ndarray | None = None, level: float = 0.95
) -> PairedTest:
    """Nadeau and Bengio's corrected resampled t test, as Bouckaert and Frank apply it to repeated cross-validation.

    `differences` (n,) are paired by run: same seed, same fold. The training parts of the runs overlap, so that the
    variance of their mean is not s²/n but (1/n + n_test/n_train) s², where n_test/n_train = 1 / (folds - 1); t has
    n - 1 degrees of freedom. A single run has no p value. Runs that all differ by the same amount have no variance:
    p is then 1 if the amount is 0, else 0.

    `backbones` (n,) names the pretraining that each run started from, where there are several: runs of one share its
    luck, so that the variance between backbones, σ_b² (one-way analysis of variance, at least 0), does not average out
    over n runs but over the backbones; it adds σ_b² (Σ n_b² / n² - 1/n), and Satterthwaite's formula gives the degrees
    of freedom.
    """
    from scipy import stats

    values = np.asarray(differences, np.float64)
    n, mean, nan = len(values), float(np.mean(values)), float("nan")
    if n < 2 or np.isnan(mean):
        return PairedTest(mean, nan, nan, nan)
    within = (1 / n + 1 / (folds - 1)) * float(values.var(ddof=1))
    between, groups = (0.0, 1) if backbones is None else _backbone_variance(values, np.asarray(backbones))
    error = math.sqrt(within + between)
    if error == 0:
        return PairedTest(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    freedom = n - 1.0
    if between:
        freedom = (within + between) ** 2 / (within**2 / (n - 1) + between**2 / (groups - 1))
    margin = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return PairedTest(mean, mean - margin, mean + margin, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def _backbone_variance(values: np.ndarray, backbones: np.ndarray) -> tuple[float, int]:
    """What the luck of the backbones adds to the variance of the mean, and how many backbones there are."""
    _, group, counts = np.unique(backbones, return_inverse=True, return_counts=True)
    n, groups = len(values), len(counts)
    if groups == 1 or groups == n:  # then it is all of the variance, or part of what differs between the runs anyway
        return 0.0, groups
    means = np.bincount(group, weights=values) / counts
    mean_squares_between = (counts * (means - values.mean()) ** 2).sum() / (groups - 1)
    mean_squares_within = ((values - means[group]) ** 2).sum() / (n - groups)
    effective = (n - (counts**2).sum() / n) / (groups - 1)
    variance = max(0.0, (mean_squares_between - mean_squares_within) / effective)
    return float(variance * ((counts**2).sum() / n**2 - 1 / n)), groups


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p values (M,) for the M comparisons of a table; NaN does not count."""
    p = np.asarray(p_values, np.float64)
    corrected = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return corrected


def patient_weights(patients: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """int (draws, N): how often each view is in a bootstrap sample of patients."""
    _, member = np.unique(patients, return_inverse=True)
    count = int(member.max()) + 1
    return generator.multinomial(count, np.full(count, 1 / count), size=draws)[:, member]


def patient_bootstrap(
    correct: np.ndarray, views: np.ndarray, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of accuracy under redrawing the patients (given the trained networks).

    `correct` and `views`, (P, S), count each patient's correct and all scored views in each seed's out-of-fold
    predictions. Patients are drawn with replacement and bring all their views and seeds along; accuracy is pooled
    within a seed and averaged over the seeds.
    """
    with np.errstate(invalid="ignore"):
        accuracy = [(times @ correct / (times @ views)).mean(axis=1) for times in redraws(len(correct), draws, seed)]
    return percentile_interval(np.concatenate(accuracy), level)


def redraws(patients: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each patient occurs when as many are drawn with replacement: int64 (n, patients), `draws` rows in all.

    In blocks, since all draws at once would need draws x patients numbers.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, draws, 1000):
        yield patient_weights(np.arange(patients), min(1000, draws - start), generator)


def percentile_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """The central interval that holds the share `level` of the values (n,); NaN does not count."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def times_drawn(patients: int, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """How often each patient occurs, int64 (1 + draws, patients): once in the first line, redrawn in the others."""
    return np.concatenate([np.ones((1, patients), np.int64), *redraws(patients, draws, seed)])


def drawn_auroc(probability: np.ndarray, truth: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of N units under D redraws, float (D,): the share of pairs in the right order, ties half."""
    positive, negative = probability[truth][:, None], probability[~truth][None]
    right = (positive > negative) + 0.5 * (positive == negative)
    of_positives, of_negatives = times[:, truth].astype(np.float64), times[:, ~truth].astype(np.float64)
    pairs = of_positives.sum(axis=1) * of_negatives.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.einsum("dn,dn->d", of_positives @ right, of_negatives) / pairs


def with_interval(name: str, values: np.ndarray, level: float = 0.95) -> dict[str, float]:
    """`name`, `name_low`, `name_high` from a metric's values under `times_drawn`: the first, and what holds the others."""
    low, high = percentile_interval(values[1:], level) if not np.isnan(values[1:]).all() else (np.nan, np.nan)
    return {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
