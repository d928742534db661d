"""The review page's contents: which views a clinician reads, in which order, and how their losses went (Sec. 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow_scripts.core.pages import render_page

# Where no label is suspicious, this many of the most voted views are read.
CANDIDATES = 20
_PAGE = Path(__file__).with_name("review_page")
_SCRIPTS = ("trajectory.js", "decisions.js", "readings.js", "page.js")


def trajectories(losses: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Training loss of each view and epoch over its runs: view_id, epoch, mean, low, high (cross-entropy, nats).

    `losses` are the audit's long tables (view_id, fold, epoch, loss); every fold of every table is a run.
    """
    together = pd.concat([table[["view_id", "epoch", "loss"]] for table in losses], ignore_index=True)
    runs = together.groupby(["view_id", "epoch"], sort=True)["loss"]
    return runs.agg(mean="mean", low="min", high="max").reset_index()


def choose_cards(votes: pd.DataFrame, mean_loss: pd.Series, controls: float, seed: int) -> pd.DataFrame:
    """The views to read, as rows of `votes` with the further column `group`: suspicious, candidate or control.

    `votes` has view_id, label, votes, evaluations, suspicious and organ_side (a number); `mean_loss` gives each view's
    mean training loss by view_id and breaks ties of votes. Where no label is suspicious, the `CANDIDATES` most voted
    views are read instead. `controls` per such view of a label are drawn from the evaluated, unsuspicious views of
    that label on organ sides of which no other view is read (in turn, so that no organ side occurs twice before each has
    occurred once); fewer where there are no more.
    """
    evaluated = votes[votes["evaluations"] > 0]
    chosen = evaluated[evaluated["suspicious"] == 1].assign(group="suspicious")
    if chosen.empty:
        chosen = by_votes(evaluated, mean_loss).head(CANDIDATES).assign(group="candidate")
    wanted = {label: round(controls * count) for label, count in chosen["label"].value_counts().items()}
    pool = evaluated[(evaluated["suspicious"] == 0) & ~evaluated["organ_side"].isin(chosen["organ_side"])]
    pool = pool.sample(frac=1, random_state=np.random.default_rng(seed))
    turn = pool.groupby("organ_side").cumcount()
    pool = pool.loc[turn.sort_values(kind="stable").index]
    rank = pool.groupby("label").cumcount()
    drawn = pool[rank < pool["label"].map(wanted).fillna(0)].assign(group="control")
    return pd.concat([chosen, drawn])


def by_votes(cards: pd.DataFrame, mean_loss: pd.Series) -> pd.DataFrame:
    """`cards` from the most to the least voted; equal votes from the highest to the lowest mean loss."""
    ranked = cards.assign(loss=cards["view_id"].map(mean_loss).fillna(0.0))
    return ranked.sort_values(["votes", "loss", "view_id"], ascending=[False, False, True]).drop(columns="loss")


def ordered(cards: pd.DataFrame, mode: str, mean_loss: pd.Series, seed: int) -> pd.DataFrame:
    """`cards` in the order of reading: at random where the reader is blind, else by votes."""
    if mode == "open":
        return by_votes(cards, mean_loss)
    return cards.sort_values("view_id").sample(frac=1, random_state=np.random.default_rng([seed, 1]))


def neighbours(position: int, index: pd.DataFrame, organ_side: np.ndarray) -> list[int]:
    """Positions in `index` of the other views of the same organ side, those of the same frame first."""
    same = np.flatnonzero(organ_side == organ_side[position])
    images = index["image_id"].to_numpy()
    return sorted((int(i) for i in same if i != position), key=lambda i: (images[i] != images[position], i))


def fingerprint(cards: Iterable[Mapping[str, Any]], mode: str) -> str:
    """Names the study that decisions belong to: the cards' ids, labels, votes and pixels, and what the reader saw."""
    digest = hashlib.sha256(mode.encode())
    keys = ("id", "label", "votes", "evaluations", "pixels")
    for line in sorted("\0".join(str(card[key]) for key in keys) for card in cards):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()[:16]


def review_html(study: Mapping[str, Any]) -> str:
    """The whole page: `study` is embedded as escaped JSON. Its mode: blind or open (labels), or reading (generated views)."""
    return render_page(_PAGE, _SCRIPTS, study=study)
