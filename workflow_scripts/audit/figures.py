"""Figures of the label audit (paper, Sec. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_scripts.audit.votes import votes_at_least
from workflow_scripts.core.figures import BLUE, GREY, INK, RED, stamp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The paper's released lists: views flagged in at least 1, 2, … 16 evaluations, by the exceedances that flag a run.
RELEASED_VOTES = {
    3: (464, 393, 345, 305, 288, 276, 242, 217, 197, 185, 166, 149, 132, 122, 98, 72),
    4: (385, 326, 283, 258, 231, 209, 193, 178, 160, 144, 131, 116, 104, 91, 73, 51),
    5: (332, 268, 230, 207, 186, 175, 156, 139, 128, 122, 102, 93, 80, 67, 50, 35),
}
RELEASED_VIEWS = 880
RELEASED_EVALUATIONS = 16
METHOD_TITLES = {
    "votes": "votes (the paper)",
    "mean_loss": "mean training loss",
    "aum": "area under the margin",
    "oof_loss": "out-of-fold loss",
    "confident_learning": "confident learning",
}


def votes_figure(
    votes: np.ndarray, evaluations: int, wrong: np.ndarray | None, released: bool, headline: Sequence[str], origin: str
) -> Figure:
    """How many views were flagged in at least n of N evaluations.

    `votes` (V,) counts the flags of each view. `wrong`, bool (V,), says where the label is known to be wrong (phantoms
    only) and splits the bars. `released` draws the paper's released counts beside them, if N is the paper's 16.
    `headline` are the lines of the title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    steps = np.arange(1, evaluations + 1)
    counts = votes_at_least(votes, evaluations)
    beside = released and evaluations == RELEASED_EVALUATIONS
    width, shift = (0.4, 0.2) if beside else (0.75, 0.0)
    percent = 100 / len(votes)
    if wrong is None:
        bars = axis.bar(steps - shift, percent * counts, width, color=BLUE, label=f"this study ({len(votes)} views)")
    else:
        hits = votes_at_least(votes[wrong], evaluations)
        label = f"label is wrong ({int(wrong.sum())} of {len(votes)} views)"
        axis.bar(steps - shift, percent * hits, width, color=RED, label=label)
        rest = percent * (counts - hits)
        bars = axis.bar(steps - shift, rest, width, bottom=percent * hits, color=BLUE, label="label is right")
    axis.bar_label(bars, labels=[str(count) for count in counts], fontsize=8, padding=2, color=INK)
    tallest = percent * counts[0]
    if beside:
        shares = 100 / RELEASED_VIEWS * np.array(RELEASED_VOTES[3])
        paper = axis.bar(steps + shift, shares, width, color=GREY, label=f"the paper ({RELEASED_VIEWS} views)")
        axis.bar_label(paper, labels=[str(count) for count in RELEASED_VOTES[3]], fontsize=8, padding=2, color=GREY)
        tallest = max(tallest, shares[0])
    axis.legend(frameon=False)
    axis.set_xlabel(f"flagged in at least n of {evaluations} evaluations")
    axis.set_ylabel("percent of the views (numbers: views)")
    axis.set_xlim(0.4, evaluations + 0.6)
    axis.set_xticks(steps if evaluations <= 24 else steps[:: evaluations // 12])
    axis.set_ylim(0, 1.12 * max(1.0, tallest))
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("\n".join(headline), loc="left", fontsize=11)
    stamp(figure, origin)
    return figure


def sweep_figure(sweep: pd.DataFrame, views: int, threshold: float, released: bool, origin: str) -> Figure:
    """What other rules would call suspicious.

    Left: percent of the `views` flagged in at least n evaluations when three, four or five exceedances of `threshold`
    flag a run, the paper's released counts dotted where `released` and if the evaluations are its 16. Right: views that
    every evaluation flags, by threshold and exceedances. `sweep` as `votes.sweep` returns it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    evaluations = int(sweep["at_least"].max())
    for exceedances, colour in zip(RELEASED_VOTES, (BLUE, "#e0902f", RED), strict=True):
        mine = sweep[(sweep["threshold"] == threshold) & (sweep["exceedances"] == exceedances)]
        if len(mine):
            share = 100 / views * mine["views"]
            left.plot(mine["at_least"], share, "o-", color=colour, ms=4, label=f"{exceedances} exceedances")
        if released and evaluations == RELEASED_EVALUATIONS:
            paper = 100 / RELEASED_VIEWS * np.array(RELEASED_VOTES[exceedances])
            left.plot(np.arange(1, evaluations + 1), paper, ":", color=colour, label=f"the paper, {exceedances}")
    left.set(xlabel=f"flagged in at least n of {evaluations} evaluations", ylabel=f"percent of {views} views")
    left.set_title(f"A loss above {threshold:g} is an exceedance", loc="left", fontsize=11)
    left.set_ylim(bottom=0)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False)
    left.spines[["top", "right"]].set_visible(False)

    unanimous = sweep[sweep["at_least"] == evaluations].pivot_table("views", "exceedances", "threshold")
    right.imshow(unanimous.to_numpy(), cmap="Blues", aspect="auto", vmin=0, vmax=max(1, unanimous.to_numpy().max()))
    for (i, j), count in np.ndenumerate(unanimous.to_numpy()):
        dark = count > 0.6 * unanimous.to_numpy().max()
        right.text(j, i, f"{count:g}", ha="center", va="center", fontsize=9, color="white" if dark else INK)
    right.set_xticks(range(len(unanimous.columns)), [f"{value:g}" for value in unanimous.columns])
    right.set_yticks(range(len(unanimous.index)), [str(value) for value in unanimous.index])
    right.set(xlabel="threshold of the loss (nats)", ylabel="exceedances that flag a run")
    right.set_title(f"Views flagged in all {evaluations} evaluations", loc="left", fontsize=11)
    stamp(figure, origin)
    return figure


def scores_figure(scores: pd.DataFrame, wrong: int, views: int, origin: str) -> Figure:
    """Average precision of each method with its interval, beside chance; `scores` as `score_methods` returns it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    axis = figure.subplots()
    rows = np.arange(len(scores))[::-1]
    value = scores["average_precision"].to_numpy()
    errors = np.stack([value - scores["average_precision_low"], scores["average_precision_high"] - value]).clip(min=0)
    colours = [RED if method == "votes" else BLUE for method in scores["method"]]
    axis.barh(rows, value, color=colours, height=0.62, xerr=errors, error_kw={"ecolor": INK, "capsize": 3, "lw": 1})
    for row, score in zip(rows, scores.itertuples(), strict=True):
        found = f"{score.flagged} flagged: precision {score.precision:.2f}, recall {score.recall:.2f}"
        axis.text(1.03, row, found if score.flagged else "nothing flagged", va="center", fontsize=9, color=INK)
    axis.axvline(wrong / views, color=GREY, linestyle="--", linewidth=1)
    axis.text(wrong / views, len(scores) - 0.45, "chance", color=GREY, fontsize=9, ha="center", va="bottom")
    axis.set_yticks(rows, [METHOD_TITLES[method] for method in scores["method"]])
    axis.set(xlim=(0, 1), ylim=(-0.6, len(scores) - 0.2), xlabel="average precision for finding wrong labels")
    axis.set_title(f"{wrong} of {views} labels are wrong on purpose; bars: 95 % over patients", loc="left", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    stamp(figure, origin)
    return figure
