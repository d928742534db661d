"""Metrics under many redraws of the patients at once: a redraw is how often each patient occurs in it."""

from __future__ import annotations

import numpy as np

from workflow_scripts.core.statistics import percentile_interval, redraws
from workflow_scripts.finetuning.calibration import BINS
from workflow_scripts.finetuning.predictions import DECISION

DRAWS = 2000


def times_drawn(patients: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each patient occurs, int64 (1 + draws, patients): once in the first line, redrawn in the others."""
    return np.concatenate([np.ones((1, patients), np.int64), *redraws(patients, draws, seed)])


def drawn_scores(
    probability: np.ndarray, truth: np.ndarray, times: np.ndarray, threshold: float = DECISION
) -> dict[str, np.ndarray]:
    """Metrics of N units under D redraws, float (D,) each; NaN where a redraw lacks a class that the metric needs.

    `probability` in [0, 1] and `truth` bool are (N,); `times` (D, N) says how often each unit occurs. A unit is called
    positive above `threshold`. `excess` is the mean probability less the share of positives (calibration in the large);
    ECE and Brier score are as in `finetuning.calibration`. All but `excess` are shares in [0, 1].
    """
    probability, truth = np.asarray(probability, np.float64), np.asarray(truth, bool)
    times = times.astype(np.float64)
    called, error = probability > threshold, probability - truth
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)
    in_bin = bins[:, None] == np.arange(BINS)
    of_positives, of_negatives, total = times[:, truth], times[:, ~truth], times.sum(axis=1)
    positives, negatives = of_positives.sum(axis=1), of_negatives.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "auroc": drawn_auroc(probability, truth, times),
            "accuracy": times @ (called == truth) / total,
            "sensitivity": of_positives @ called[truth] / positives,
            "specificity": of_negatives @ ~called[~truth] / negatives,
            "ece": np.abs(times @ (in_bin * error[:, None])).sum(axis=1) / total,
            "brier": times @ error**2 / total,
            "excess": times @ error / total,
        }


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
