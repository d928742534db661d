"""How suspicious each label is: by the paper's votes, or by other scores from the same runs (paper, Sec. 3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from workflow_scripts.audit.votes import count_votes
from workflow_scripts.core.errors import UserError
from workflow_scripts.study.config.audit import VoteRule
from workflow_scripts.study.patients import numbered_organ_sides

VOTE_COLUMNS = ["view_id", "label", "votes", "evaluations", "score", "suspicious"]
# The last two judge a view by models that never saw its patient; the others by models that trained on it.
METHODS = ("votes", "mean_loss", "aum", "oof_loss", "confident_learning")
# Probabilities of exactly 0 have an infinite loss; float32 softmax gives them.
SMALLEST = 1e-12


def bar(rule: VoteRule) -> float:
    """The score above which a label is suspicious.

    `threshold` is a loss in nats: the label's probability is below exp(-threshold). The other scores of a label are
    monotone in its loss, so one threshold serves them all.
    """
    bars = {"aum": np.log(np.expm1(rule.threshold)), "confident_learning": -np.expm1(-rule.threshold)}
    return float(bars.get(rule.method, rule.threshold))


def label_scores(
    losses: Mapping[str, pd.DataFrame],
    oof: Mapping[str, pd.DataFrame],
    index: pd.DataFrame,
    rule: VoteRule,
    positive: str,
) -> pd.DataFrame:
    """One row per view in the order of `index`: votes, evaluations, and the score of each of `METHODS`, higher is worse.

    `losses` long tables (view_id, fold, epoch, loss in nats) by name, `oof` out-of-fold predictions (view_id, probability
    of the class `positive`) by name, `index` view_id and label.

    votes: share of the runs that trained on the view and flag it. mean_loss: mean recorded loss over runs and epochs.
    aum: the negative area under the margin (Pleiss et al. 2020), the mean over runs and epochs of the other class's logit
    minus the label's; with two classes that is ln(exp(loss) - 1). oof_loss: mean over seeds and initialisations of the
    label's loss out of fold. confident_learning: 1 - self-confidence (Northcutt et al. 2021), the label's mean
    probability out of fold. NaN where a view was never evaluated, and in the last two without `oof`.
    """
    counted = count_votes(losses, index, rule.threshold, rule.exceedances)
    views = counted["view_id"]
    recorded = pd.concat([table[["view_id", "loss"]] for table in losses.values()], ignore_index=True)
    recorded["margin"] = np.log(np.expm1(recorded["loss"].clip(lower=SMALLEST)))
    means = recorded.groupby("view_id")[["loss", "margin"]].mean().reindex(views)
    probability = _label_probability(oof, counted, positive)
    return counted.assign(
        votes_score=(counted["votes"] / counted["evaluations"].where(counted["evaluations"] > 0)).to_numpy(),
        mean_loss=means["loss"].to_numpy(),
        aum=means["margin"].to_numpy(),
        oof_loss=-np.log(np.maximum(probability, SMALLEST)).mean(axis=1),
        confident_learning=1 - probability.mean(axis=1),
    )


def score_of(scores: pd.DataFrame, method: str) -> np.ndarray:
    """The column of `label_scores` that holds a method's score, float64 (V,)."""
    return scores["votes_score" if method == "votes" else method].to_numpy(np.float64)


def judge(
    losses: Mapping[str, pd.DataFrame],
    oof: Mapping[str, pd.DataFrame],
    index: pd.DataFrame,
    rule: VoteRule,
    positive: str,
) -> pd.DataFrame:
    """Which labels are suspicious: the columns of `VOTE_COLUMNS`, one row per view in the order of `index`.

    With the method `votes` a label is suspicious when at least `rule.share` of the runs that trained on its view flag it
    (the paper's 16 of 16); with the others when its score exceeds `bar(rule)`. With `rule.unit` "organ_side" the views of an
    organ side are judged together, by their pooled flags or their mean score, since they inherited one label. Views that
    were never evaluated are not suspicious. Arguments as for `label_scores`; `index` is that of the view store.
    """
    scores = label_scores(losses, oof, index, rule, positive)
    score, votes, evaluations = score_of(scores, rule.method), scores["votes"], scores["evaluations"]
    if rule.unit == "organ_side":
        organ_side = numbered_organ_sides(index).to_numpy()
        votes, evaluations = (column.groupby(organ_side).transform("sum") for column in (votes, evaluations))
        pooled = (votes / evaluations.where(evaluations > 0)).to_numpy()
        mean = pd.Series(score).groupby(organ_side).transform("mean").to_numpy()
        score = pooled if rule.method == "votes" else mean
    # Shares up to rounding: 0.7 of 10 evaluations is 7, not 7.000000000000001.
    suspicious = score >= rule.share - 1e-9 if rule.method == "votes" else score > bar(rule)
    return scores.assign(score=score, suspicious=suspicious.astype(np.int64))[VOTE_COLUMNS]


def _label_probability(oof: Mapping[str, pd.DataFrame], labels: pd.DataFrame, positive: str) -> np.ndarray:
    """Out-of-fold probability of each view's own label, float64 (V, tables)."""
    if not oof:
        return np.full((len(labels), 1), np.nan)
    is_positive = (labels["label"] == positive).to_numpy()
    columns = []
    for name, table in oof.items():
        found = table.set_index("view_id")["probability"].reindex(labels["view_id"]).to_numpy(np.float64)
        if np.isnan(found).any():
            raise UserError(f"{name}: {int(np.isnan(found).sum())} labelled views have no out-of-fold probability")
        columns.append(np.where(is_positive, found, 1 - found))
    return np.stack(columns, axis=1)
