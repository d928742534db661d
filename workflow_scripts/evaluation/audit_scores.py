"""How well does an audit find labels that are known to be wrong?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from workflow_scripts.errors import UserError
from workflow_scripts.evaluation.suspicion import METHODS, judge, label_scores, score_of
from workflow_scripts.study.config.audit import VoteRule

DRAWS = 500


def score_methods(
    losses: Mapping[str, pd.DataFrame], oof: Mapping[str, pd.DataFrame], index: pd.DataFrame, wrong: np.ndarray,
    rule: VoteRule, positive: str, draws: int = DRAWS,
) -> pd.DataFrame:  # fmt: skip
    """One row per method of `METHODS`: how its score ranks wrong labels, and what its own cut finds.

    `wrong` bool (V,) in the order of `index`; the other arguments as for `judge`, but for the rule's method. Columns:
    method; average_precision and auroc with `_low` and `_high`, 95 % percentile intervals of a bootstrap over patients;
    flagged, precision and recall of the suspicious labels (precision NaN where none is). Raises `UserError` unless some
    labels are wrong and some are right.
    """
    if wrong.all() or not wrong.any():
        raise UserError(
            f"{int(wrong.sum())} of {len(wrong)} labels are wrong; an audit can be scored on a mixture only"
        )
    scores = label_scores(losses, oof, index, rule, positive)
    weights = _patient_weights(index["patient_id"].to_numpy(), draws)
    rows = []
    for method in METHODS:
        score = score_of(scores, method)
        score = np.where(np.isnan(score), -np.inf, score)
        # Ranks, since scikit-learn refuses infinite scores.
        rank = pd.Series(score).rank().to_numpy()
        row: dict[str, object] = {"method": method}
        for name, metric in (("average_precision", average_precision_score), ("auroc", roc_auc_score)):
            resampled = [metric(wrong, rank, sample_weight=weight) for weight in weights if _mixed(wrong, weight)]
            low, high = np.percentile(resampled, [2.5, 97.5])
            row |= {name: metric(wrong, rank), f"{name}_low": low, f"{name}_high": high}
        suspicious = (
            judge(losses, oof, index, rule.model_copy(update={"method": method}), positive)["suspicious"].to_numpy()
            == 1
        )
        hits, flagged = int((suspicious & wrong).sum()), int(suspicious.sum())
        row |= {"flagged": flagged, "precision": hits / flagged if flagged else np.nan, "recall": hits / wrong.sum()}
        rows.append(row)
    return pd.DataFrame(rows)


def _patient_weights(patients: np.ndarray, draws: int) -> np.ndarray:
    """How often each view is drawn when patients are drawn with replacement, float64 (draws, V)."""
    codes, names = pd.factorize(patients)
    picks = np.random.default_rng(0).integers(len(names), size=(draws, len(names)))
    counts = np.stack([np.bincount(pick, minlength=len(names)) for pick in picks])
    return counts[:, codes].astype(np.float64)


def _mixed(wrong: np.ndarray, weight: np.ndarray) -> bool:
    return 0 < weight[wrong].sum() < weight.sum()
