"""Forest plots: each row's difference of accuracy to the reference of its table, read from the table's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import BLUE, GREY, INK, RED, stamp
from workflow_scripts.core.tables import number, p_value
from workflow_scripts.study.config.names import BASELINES
from workflow_scripts.tables.reading import signed, with_sign

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# A difference of two shares cannot be larger, an interval from few runs can.
LARGEST = 100.0
LINE = 0.36  # inches per row


@dataclass(frozen=True)
class Mark:
    """A row: accuracy in percent, difference to the reference in points with its corrected 95 % interval.

    NaN where a value does not exist: `low`, `high` and `p` of the reference or of a single run, `paper` (the difference
    that the paper prints) of a row that the paper lacks. The reference's own differences are 0.
    """

    name: str
    accuracy: float
    difference: float
    low: float
    high: float
    p: float
    paper: float
    is_reference: bool
    is_baseline: bool

    @property
    def interval(self) -> str:
        """`−3.65 (−19.09 to 11.80)`; without an interval the difference alone."""
        if self.is_reference:
            return "reference"
        if math.isnan(self.low):
            return with_sign(self.difference)
        return f"{with_sign(self.difference)} ({signed(self.low)} to {signed(self.high)})"


def marks(values: pd.DataFrame) -> list[Mark]:
    """The rows of a table from its numbers (`tables.numbers`, with the paper's beside them where they belong)."""
    without = values["difference_mean"].isna()
    if without.sum() != 1:
        raise UserError(
            f"{int(without.sum())} rows of the table have no difference_mean, but its reference alone may have none; make the "
            "table again"
        )
    base = values[without].iloc[0]
    paper = [math.nan] * len(values)
    if "paper_accuracy_mean" in values:
        paper = (values["paper_accuracy_mean"] - base["paper_accuracy_mean"]).tolist()
    shown = "accuracy" if share_labels(values) else "accuracy_original"
    return [
        Mark(
            name=row["name"],
            accuracy=row[f"{shown}_mean"],
            difference=0.0 if is_reference else row["difference_mean"],
            low=row["difference_low"],
            high=row["difference_high"],
            p=row["p_corrected"],
            paper=reported,
            is_reference=is_reference,
            is_baseline=row["experiment"].split("-")[0] in BASELINES,
        )
        for (_, row), reported, is_reference in zip(values.iterrows(), paper, without.tolist(), strict=True)
    ]


def share_labels(values: pd.DataFrame) -> bool:
    """Whether all rows of a table are scored on the same labels; if not, differences are on the original ones."""
    return bool((values["label_policy"] == values["label_policy"].iloc[0]).all())


def extent(shown: Sequence[Mark]) -> float:
    """Half the width of the axis in points, symmetric around 0: whatever is drawn lies within, up to `LARGEST`."""
    drawn = [abs(value) for mark in shown for value in (mark.difference, mark.low, mark.high, mark.paper)]
    return min(LARGEST, 1.08 * max([value for value in drawn if not math.isnan(value)] + [1.0]))


def axis_label(reference: str, has_shared_labels: bool) -> str:
    """What the axis measures."""
    labels = "" if has_shared_labels else ", on the original labels of all views"
    return f"points of accuracy against {reference}{labels}"


def accuracy_text(mark: Mark) -> str:
    """The accuracy as it is printed beside the mark."""
    return number(mark.accuracy, 1)


def forest_figure(shown: Sequence[Mark], title: str, has_shared_labels: bool, origin: str) -> Figure:
    """The names and accuracies left, the intervals in the middle, their numbers right; baselines grey."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(10.5, LINE * len(shown) + 1.75), layout="constrained")
    axis = figure.subplots()
    edge = extent(shown)
    axis.axvline(0, color=INK, linewidth=1, zorder=1)
    for line, mark in enumerate(shown):
        colour = GREY if mark.is_baseline else BLUE
        if line % 2:
            axis.axhspan(line - 0.5, line + 0.5, color=INK, alpha=0.035, linewidth=0)
        if not math.isnan(mark.low):
            axis.plot([max(mark.low, -edge), min(mark.high, edge)], [line, line], color=colour, linewidth=2.2)
            for end, arrow in ((mark.low, "<"), (mark.high, ">")):
                if abs(end) > edge:  # the interval goes on beyond the axis
                    axis.plot(math.copysign(edge, end), line, arrow, color=colour, markersize=6, clip_on=False)
        axis.plot(mark.difference, line, "D" if mark.is_reference else "s", color=INK if mark.is_reference else colour)
        if not math.isnan(mark.paper) and not mark.is_reference:
            axis.plot(mark.paper, line, "o", markerfacecolor="none", markeredgecolor=RED, markersize=9, mew=1.6)
    axis.set(xlim=(-edge, edge), ylim=(len(shown) - 0.5, -0.5))
    axis.set_yticks(range(len(shown)), [f"{mark.name}   {accuracy_text(mark)}" for mark in shown], parse_math=False)
    right = axis.secondary_yaxis("right")
    right.set_yticks(
        range(len(shown)),
        [mark.interval + ("" if math.isnan(mark.p) else f"   p {p_value(mark.p)}") for mark in shown],
        fontsize=9.5,
    )
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    reference = next(mark.name for mark in shown if mark.is_reference)
    axis.set_xlabel(f"worse  ◂   {axis_label(reference, has_shared_labels)}   ▸  better", parse_math=False)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", alpha=0.25)
    axis.set_title(title, loc="left", fontsize=12, weight="bold", color=INK)
    legend = [Line2D([], [], color=BLUE, marker="s", linewidth=2.2, label="this study, corrected 95 % interval")]
    if any(mark.is_baseline for mark in shown):
        legend.append(Line2D([], [], color=GREY, marker="s", linewidth=2.2, label="baseline without a network"))
    if any(not math.isnan(mark.paper) and not mark.is_reference for mark in shown):
        label = "the paper" if has_shared_labels else "the paper, each row on its own labels"
        legend.append(
            Line2D([], [], color=RED, marker="o", markerfacecolor="none", markersize=9, linewidth=0, label=label)
        )
    figure.legend(handles=legend, loc="outside lower right", ncols=3, frameon=False, fontsize=9)
    stamp(figure, origin)
    return figure
