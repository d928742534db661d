"""From predictions to mean ± std: metrics per run (one fold of one seed), then one of three meanings of ±."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.statistics import percentile_interval, redraws
from workflow_scripts.finetuning.metrics import METRICS, scores

if TYPE_CHECKING:
    import pandas as pd

SPREADS = {
    "released": "± is the standard deviation (n − 1) over the folds × seeds for accuracy, and over the seeds' fold "
    "means for everything else, as in the paper's released code",
    "seeds": "± is the standard deviation (n − 1) over the seeds' fold means",
    "runs": "± is the standard deviation (n − 1) over the folds × seeds",
}


def run_scores(predictions: pd.DataFrame, positive: str, labels: str) -> pd.DataFrame:
    """Metrics of each run of an experiment.

    `predictions` is its joined table. `labels` says what counts as true: `policy`, the policy's labels on the views
    that it keeps (the paper's way); or `original`, the original labels on all views. Returns one row per (seed, fold)
    and one column per metric, as shares.
    """
    import pandas as pd

    rows = {}
    for run, table in predictions.groupby(["seed", "fold"]):
        scored = table[table["kept"] == 1] if labels == "policy" else table
        truth = (scored[f"label_{labels}"] == positive).to_numpy()
        decision = (scored["prediction"] == positive).to_numpy()
        rows[run] = scores(truth, decision, scored["probability"].to_numpy())
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(METRICS))
    table.index = pd.MultiIndex.from_tuples(table.index, names=["seed", "fold"])
    return table.sort_index()


def aggregate(runs: pd.DataFrame, spread: str) -> dict[str, tuple[float, float]]:
    """(mean, std) of each metric under a definition of `SPREADS`, in the unit of `runs`.

    A run in which a metric is undefined (NaN) does not count for it. The std is NaN where there is one value only.
    """
    per_seed = runs.groupby(level="seed").mean()
    result = {}
    for metric in runs.columns:
        over_runs = spread == "runs" or (spread == "released" and metric == "accuracy")
        result[metric] = mean_and_std((runs if over_runs else per_seed)[metric].to_numpy())
    return result


def mean_and_std(values: np.ndarray | Sequence[float]) -> tuple[float, float]:
    """Mean and unbiased standard deviation of the values that are not NaN; NaN where they do not exist."""
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    mean = float(defined.mean()) if len(defined) else float("nan")
    return mean, float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")


def patient_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    probability: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of `statistic(probability, truth)` under redrawing the patients with all their predictions.

    `probability` in [0, 1], `truth` bool and `patients` (any names) are (N,). It is conditional on the trained networks.
    """
    _, patient = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    rows, values = np.arange(len(patient)), []
    for block in redraws(int(patient.max()) + 1, draws, seed):
        for times in block:
            drawn = np.repeat(rows, times[patient])
            values.append(statistic(probability[drawn], truth[drawn]))
    return percentile_interval(np.array(values), level)
