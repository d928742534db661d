"""Metrics under many redraws of the patients at once: a redraw is how often each patient occurs in it."""

from __future__ import annotations

import numpy as np

from workflow_scripts.core.statistics import drawn_auroc
from workflow_scripts.finetuning.calibration import BINS
from workflow_scripts.finetuning.predictions import DECISION


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
