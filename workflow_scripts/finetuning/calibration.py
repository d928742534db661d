"""Calibration: one temperature, and how far probabilities lie from frequencies.

`probability` is float (N,) in [0, 1], the positive class's; `truth` is bool (N,), True where the class is positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10
# Probabilities are kept this far from 0 and 1, which have no finite logit.
CLOSEST = 1e-12
# Wider than what networks need (1 to 5); a fit that ends here says that the probabilities carry no information.
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Reliability:
    """The points of a reliability diagram, one per bin that holds views."""

    predicted: np.ndarray
    """Mean probability."""
    observed: np.ndarray
    """Share of positives."""
    count: np.ndarray
    """Views."""


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept `CLOSEST` away from 0 and 1."""
    p = np.clip(np.asarray(probability, np.float64), CLOSEST, 1 - CLOSEST)
    return np.log(p) - np.log1p(-p)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The inverse of `logit`."""
    from scipy.special import expit

    return expit(np.asarray(logits, np.float64))


def pool(probabilities: np.ndarray) -> np.ndarray:
    """One probability per view, (N,), from those of several networks, (N, M): the sigmoid of their mean logit.

    The mean of logits, not of probabilities: dividing by a temperature and averaging then commute, and how sharp the
    mean of M networks is does not depend on M but for the noise that averaging takes away.
    """
    return sigmoid(logit(probabilities).mean(axis=1))


def soften(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N,) with their logits divided by the temperature; above 1 they move towards 0.5."""
    return sigmoid(logit(probability) / temperature)


def fit_temperature(probability: np.ndarray, truth: np.ndarray) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017), within `TEMPERATURES`.

    Where the data do not determine it, it is 1, which leaves the probabilities as they are: with one class only, and where
    each view lies on its side of 0.5 (the colder the better, without end). Probabilities that point the wrong way on
    average get the highest temperature, hence about 0.5.
    """
    from scipy.optimize import minimize_scalar

    truth = np.asarray(truth, bool)
    # How far each view lies on its own side; the likelihood is convex in the inverse of the temperature.
    margins = np.where(truth, 1, -1) * logit(probability)
    if len(np.unique(truth)) < 2 or (margins > 0).all():
        return 1.0
    if margins.sum() <= 0:
        return TEMPERATURES[1]
    low, high = np.log(TEMPERATURES)
    fit = minimize_scalar(
        lambda x: np.logaddexp(0, -margins / np.exp(x)).mean(), bounds=(low, high), method="bounded",
        options={"xatol": 1e-6},
    )  # fmt: skip
    return float(np.exp(fit.x))


def cross_fitted(probability: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Probabilities (N,), softened in each group (N,) by the temperature that the other groups give.

    This shows what a temperature does to views that it was not fitted on.
    """
    probability, truth, groups = np.asarray(probability), np.asarray(truth), np.asarray(groups)
    softened = np.empty(len(probability))
    for group in np.unique(groups):
        here = groups == group
        softened[here] = soften(probability[here], fit_temperature(probability[~here], truth[~here]))
    return softened


def brier(probability: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared distance of probability and outcome, 0 to 1; 0.25 is what a constant 0.5 gets."""
    return float(np.mean((np.asarray(probability, np.float64) - np.asarray(truth, np.float64)) ** 2))


def negative_log_likelihood(probability: np.ndarray, truth: np.ndarray) -> float:
    """Mean cross-entropy in nats; log 2 is what a constant 0.5 gets."""
    return float(np.logaddexp(0, np.where(np.asarray(truth, bool), -1, 1) * logit(probability)).mean())


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Reliability:
    """Probabilities against frequencies in `bins` equally wide bins (a, b]; 0 belongs to the first, empty ones go."""
    probability, truth = np.asarray(probability, np.float64), np.asarray(truth, np.float64)
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.searchsorted(inner, probability)
    count = np.bincount(bin_of, minlength=bins)
    filled = count > 0
    predicted, observed = (
        np.bincount(bin_of, weights=values, minlength=bins)[filled] / count[filled] for values in (probability, truth)
    )
    return Reliability(predicted, observed, count[filled])


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """Mean distance of probability and frequency over the bins of `reliability`, weighted by their views; 0 to 1."""
    points = reliability(probability, truth, bins)
    return float(np.average(np.abs(points.predicted - points.observed), weights=points.count))


def calibration(probability: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """`ece`, `brier`, `nll`, and `mean_probability` beside `positives`, the share of positive views."""
    return {
        "ece": expected_calibration_error(probability, truth),
        "brier": brier(probability, truth),
        "nll": negative_log_likelihood(probability, truth),
        "mean_probability": float(np.mean(probability)),
        "positives": float(np.mean(truth)),
    }
