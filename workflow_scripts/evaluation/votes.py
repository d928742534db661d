"""The audit's vote: which views did many trainings fail to fit? (paper, Sec. 3)"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from workflow_scripts.errors import UserError

VOTE_COLUMNS = ["view_id", "label", "votes", "evaluations", "suspicious"]


def run_flags(losses: pd.DataFrame, threshold: float, exceedances: int) -> pd.DataFrame:
    """Which views one run flags.

    `losses` has a row per (view_id, epoch) with the training `loss` (cross-entropy, nats) of views in the run's
    training part. A view is flagged when its loss exceeded `threshold` in at least `exceedances` epochs. Returns one
    row per view: view_id, flagged (0 or 1).
    """
    exceeded = (losses["loss"] > threshold).groupby(losses["view_id"], sort=False).sum()
    return pd.DataFrame({"view_id": exceeded.index, "flagged": (exceeded >= exceedances).to_numpy(np.int64)})


def count_votes(
    losses: Mapping[str, pd.DataFrame], labels: pd.DataFrame, threshold: float, exceedances: int, share: float
) -> pd.DataFrame:
    """Votes of every run on every view.

    `losses` are the long tables (view_id, fold, epoch, loss) by name; each fold of each table is one run. `labels` is
    the original label set (view_id, label). Evaluations are the runs that trained on the view (16 in the paper: two of
    three folds x two initialisations x four seeds); a view is suspicious when it was evaluated and at least `share` of
    its evaluations flagged it. Returns the columns of `VOTE_COLUMNS` in the order of `labels`. Raises `UserError` on
    views without a label, on losses that are not a number, and on runs too short to ever flag.
    """
    votes = pd.Series(0, index=labels["view_id"])
    evaluations = votes.copy()
    for name, table in losses.items():
        if table["loss"].isna().any():
            raise UserError(f"{name}: {int(table['loss'].isna().sum())} losses are not numbers; that training diverged")
        unknown = set(table["view_id"]) - set(labels["view_id"])
        if unknown:
            raise UserError(f"{name}: {len(unknown)} views have no label, for example {min(unknown)}")
        epochs = table["epoch"].nunique()
        if epochs < exceedances:
            raise UserError(
                f"{name}: {epochs} epochs can never hold {exceedances} exceedances; raise audit.recipe.epochs or lower "
                "audit.vote.exceedances"
            )
        for _, run in table.groupby("fold"):
            flags = run_flags(run, threshold, exceedances)
            votes[flags["view_id"]] += flags["flagged"].to_numpy()
            evaluations[flags["view_id"]] += 1
    # Up to rounding: 0.7 of 10 evaluations is 7, not 7.000000000000001.
    suspicious = (evaluations > 0) & (votes >= share * evaluations - 1e-9)
    return pd.DataFrame(
        {
            "view_id": labels["view_id"].to_numpy(),
            "label": labels["label"].to_numpy(),
            "votes": votes.to_numpy(),
            "evaluations": evaluations.to_numpy(),
            "suspicious": suspicious.to_numpy(np.int64),
        }
    )


def votes_at_least(votes: np.ndarray, evaluations: int) -> np.ndarray:
    """How many views were flagged in at least 1, 2, … `evaluations` runs; `votes` holds one count per view."""
    return np.array([int((votes >= n).sum()) for n in range(1, evaluations + 1)], dtype=np.int64)
