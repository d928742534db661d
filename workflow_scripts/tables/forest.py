"""What a forest plot shows: each row's difference of accuracy to the reference of its table, read from the table's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.tables import number
from workflow_scripts.study.config.names import BASELINES
from workflow_scripts.tables.reading import signed, with_sign

if TYPE_CHECKING:
    import pandas as pd

# A difference of two shares cannot be larger, an interval from few runs can.
LARGEST = 100.0


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
