"""The audit's vote: which views many training runs fail to fit (paper, Sec. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from workflow_scripts.core.errors import UserError


def exceeded(losses: Mapping[str, pd.DataFrame], threshold: float) -> pd.DataFrame:
    """In how many epochs each run's loss of each view exceeded `threshold`.

    `losses` are the long tables (view_id, fold, epoch, loss in nats) by name; each fold of each table is a run. Returns
    one row per view and run that trained on it: view_id, run (a number), epochs (recorded), exceeded.
    """
    together = pd.concat(
        [table.assign(name=name, over=table["loss"] > threshold) for name, table in losses.items()], ignore_index=True
    )
    runs = together.groupby(["name", "fold"], sort=False).ngroup()
    counts = (
        together.assign(run=runs).groupby(["view_id", "run"], sort=False)["over"].agg(epochs="size", exceeded="sum")
    )
    return counts.reset_index()


def count_votes(
    losses: Mapping[str, pd.DataFrame], labels: pd.DataFrame, threshold: float, exceedances: int
) -> pd.DataFrame:
    """Votes of every run on every view: view_id, label, votes, evaluations, in the order of `labels`.

    `losses` as for `exceeded`, `labels` the original labels (view_id, label). A run flags a view whose loss exceeded
    `threshold` in at least `exceedances` epochs. Evaluations are the runs that trained on the view (16 in the paper: two
    of three folds x two initialisations x four seeds). Raises `UserError` on views without a label, on losses that are
    not a number, and on runs too short to ever flag.
    """
    check_losses(losses, labels)
    for name, table in losses.items():
        epochs = table["epoch"].nunique()
        if epochs < exceedances:
            raise UserError(
                f"{name}: {epochs} epochs can never hold {exceedances} exceedances; raise audit.recipe.epochs or lower "
                "audit.vote.exceedances"
            )
    runs = exceeded(losses, threshold)
    flagged = (runs["exceeded"] >= exceedances).groupby(runs["view_id"])
    views = labels["view_id"]
    return pd.DataFrame(
        {
            "view_id": views.to_numpy(),
            "label": labels["label"].to_numpy(),
            "votes": flagged.sum().reindex(views, fill_value=0).to_numpy(np.int64),
            "evaluations": flagged.size().reindex(views, fill_value=0).to_numpy(np.int64),
        }
    )


def check_losses(losses: Mapping[str, pd.DataFrame], labels: pd.DataFrame) -> None:
    """Raise `UserError` where losses are not numbers or belong to views without a label."""
    known = set(labels["view_id"])
    for name, table in losses.items():
        if table["loss"].isna().any():
            raise UserError(
                f"{name}: {int(table['loss'].isna().sum())} losses are not numbers; that training run diverged"
            )
        unknown = set(table["view_id"]) - known
        if unknown:
            raise UserError(f"{name}: {len(unknown)} views have no label, for example {min(unknown)}")


def votes_at_least(votes: np.ndarray, evaluations: int) -> np.ndarray:
    """How many views were flagged in at least 1, 2, … `evaluations` runs; `votes` holds one count per view."""
    return np.array([int((votes >= n).sum()) for n in range(1, evaluations + 1)], dtype=np.int64)


def sweep(
    losses: Mapping[str, pd.DataFrame], index: pd.DataFrame, organ_sides: np.ndarray, thresholds: Sequence[float],
    exceedances: Sequence[int],
) -> pd.DataFrame:  # fmt: skip
    """How many views each rule would call suspicious: threshold, exceedances, at_least, views, organ_sides, discordant.

    A rule flags a view in a run as `count_votes` does and calls it suspicious where at least `at_least` runs flag it,
    from 1 to the largest number of evaluations. `organ_sides` (V,) numbers the organ side of each row of `index` (view_id,
    label): those with a suspicious view are counted, and the discordant ones, of which other views are not suspicious.
    """
    check_losses(losses, index)
    rows = []
    for threshold in thresholds:
        runs = exceeded(losses, threshold)
        evaluations = int(runs.groupby("view_id").size().max())
        for wanted in exceedances:
            flagged = (runs["exceeded"] >= wanted).groupby(runs["view_id"]).sum()
            votes = flagged.reindex(index["view_id"], fill_value=0).to_numpy()
            for at_least in range(1, evaluations + 1):
                suspicious = votes >= at_least
                views, partly = _on_organ_sides(suspicious, organ_sides)
                rows.append((threshold, wanted, at_least, int(suspicious.sum()), views, partly))
    return pd.DataFrame(rows, columns=["threshold", "exceedances", "at_least", "views", "organ_sides", "discordant"])


def discordant_organ_sides(suspicious: np.ndarray, organ_sides: np.ndarray) -> int:
    """Number of organ sides of which some views are suspicious and some are not; both arguments have one entry per view."""
    return _on_organ_sides(suspicious, organ_sides)[1]


def _on_organ_sides(suspicious: np.ndarray, organ_sides: np.ndarray) -> tuple[int, int]:
    share = pd.Series(suspicious).groupby(np.asarray(organ_sides)).mean()
    return int((share > 0).sum()), int(((share > 0) & (share < 1)).sum())


def class_bias(losses: Mapping[str, pd.DataFrame], votes: pd.DataFrame) -> pd.DataFrame:
    """Whether the rule treats the classes alike: label, views, recorded_epochs, flag_rate, suspicious.

    `recorded_epochs` is the mean number of epochs in which a run recorded a view (with the sampler `weighted` fewer for
    the larger class, which then has fewer chances to be flagged), `flag_rate` the share of evaluations that flag.
    `votes` has view_id, label, votes, evaluations, suspicious.
    """
    recorded = exceeded(losses, np.inf).merge(votes[["view_id", "label"]], on="view_id")
    rows = votes.groupby("label", sort=True)
    return pd.DataFrame(
        {
            "views": rows.size(),
            "recorded_epochs": recorded.groupby("label")["epochs"].mean(),
            "flag_rate": rows["votes"].sum() / rows["evaluations"].sum(),
            "suspicious": rows["suspicious"].sum(),
        }
    ).reset_index()
