"""What a difference between two rows allows to say: one sentence per table, by fixed rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_scripts.core.tables import number, p_value

if TYPE_CHECKING:
    import pandas as pd

    from workflow_scripts.tables.rows import Row

SIGNIFICANT = 0.05
# Pretrainings of a row from which on their own spread is measured, and a verdict is no longer conditional on one.
ENOUGH_BACKBONES = 3
# Tables that are about a change of the labels: the label sets that are compared with the reference.
CHANGED_LABELS = {
    "table1": ("filtered", "flipped"),
    "table1_protocols": ("filtered_nested", "flipped_nested"),
}
SCORED_ON = {"policy": "on the shared labels", "original": "on the original labels of all views"}


@dataclass(frozen=True)
class Comparison:
    """Accuracy of row `name` minus that of row `reference`, in points, over runs paired by seed and fold.

    `low`, `high`: corrected 95 % interval, NaN where a single run leaves it undefined; `p`: Holm-corrected, NaN where
    nothing is tested. `is_one_seed`: the runs are the folds of one seed. `condition` names what the runs do not vary (""
    if nothing).
    """

    name: str
    reference: str
    difference: float
    low: float
    high: float
    p: float
    is_one_seed: bool = False
    condition: str = ""

    @property
    def is_decided(self) -> bool:
        """Whether interval and seeds exist that a verdict could rest on."""
        return not self.is_one_seed and self.low == self.low

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does not include 0."""
        return self.low > 0 or self.high < 0

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the interval speaks against 0, and the Holm-corrected p value, if there is one, too."""
        return self.is_decided and self.excludes_zero and not self.p >= SIGNIFICANT

    @property
    def evidence(self) -> str:
        """`in favour of A; corrected 95 % CI 1.20 to 4.10, Holm-corrected p 0.012`; no interval that decides nothing."""
        sign = -1 if self.difference < 0 else 1
        low, high = sorted((sign * self.low, sign * self.high))
        winner = self.name if self.difference > 0 else self.reference
        favour = f"in favour of {winner}" if self.difference else "in favour of neither"
        if not self.is_decided:
            return favour
        return f"{favour}; corrected 95 % CI {signed(low)} to {signed(high)}, Holm-corrected p {p_value(self.p)}"


def signed(value: float, digits: int = 2) -> str:
    """A difference of points with a true minus sign."""
    return number(value, digits).replace("-", "−")


def with_sign(value: float) -> str:
    """A change with its sign: +4.69, −1.20."""
    text = signed(value)
    return text if math.isnan(value) or text.startswith("−") else f"+{text}"


def condition(rows: Sequence[Row], holdout: str, pretraining_seeds: int = 1) -> str:
    """What a comparison of `rows` rests on: a row whose runs all start from one backbone says nothing of others.

    A pretraining run has several backbones under the holdout protocol `per_fold` (one for every run), and where it was
    repeated with enough seeds.
    """
    has_several = holdout == "per_fold" or pretraining_seeds >= ENOUGH_BACKBONES
    single = [row.name for row in rows if not (row.is_pretrained and has_several)]
    if len(single) == len(rows):
        return "conditional on one backbone per row"
    return f"conditional on the one backbone of {' and '.join(single)}" if single else ""


def verdict(comparison: Comparison) -> str:
    """The end of the sentence “the x points between A and B …”.

    Never stronger than “consistent with” where the runs of a row share a backbone; “within noise” where the interval
    includes 0 or Holm's correction takes the evidence away; no verdict on one run or one seed.
    """
    if comparison.low != comparison.low:
        return "rest on one run per row and have no interval: no verdict"
    if comparison.is_one_seed:
        return "rest on one seed, so that their spread over seeds is unknown: no verdict"
    if not comparison.excludes_zero:
        return "are within noise"
    if not comparison.is_beyond_noise:
        return "do not survive Holm's correction for the rows of the table and count as within noise"
    if comparison.condition:
        return f"are consistent with a true difference, {comparison.condition}"
    return "are more than noise for these patients and this recipe"


def comparisons(
    table: str, rows: Sequence[Row], values: pd.DataFrame, reference: str, labels: str, seeds: int, holdout: str,
    pretraining_seeds: int = 1,
) -> list[Comparison]:  # fmt: skip
    """The comparisons that a table is about, out of those that `values` (as `tables.numbers` returns them) tests.

    Cleaned labels against the reference in table 1; elsewhere the most accurate other network against the reference.
    Empty without a second network. `labels`: policy or original, on which `values` compares.
    """
    by_name = values.set_index("name")
    base = next(row for row in rows if row.name == reference)
    networks = [row for row in rows if not row.is_baseline and row.name != reference]
    chosen = [row for row in networks if row.label_policy in CHANGED_LABELS.get(table, ())]
    if not chosen:
        accuracy = by_name["accuracy_mean" if labels == "policy" else "accuracy_original_mean"]
        chosen = sorted(networks, key=lambda row: -accuracy[row.name])[:1]
    result = []
    for row in chosen:
        keys = ["difference_mean", "difference_low", "difference_high", "p_corrected"]
        difference, low, high, p = by_name[keys].astype(float).to_dict("index")[row.name].values()
        rests_on = condition((row, base), holdout, pretraining_seeds)
        result.append(Comparison(row.name, reference, difference, low, high, p, seeds == 1, rests_on))
    return result


def critical_sentence(
    table: str, rows: Sequence[Row], values: pd.DataFrame, reference: str, labels: str, seeds: int, holdout: str,
    pretraining_seeds: int = 1,
) -> str:  # fmt: skip
    """One sentence on how much the table's main difference means; arguments as for `comparisons`."""
    found = comparisons(table, rows, values, reference, labels, seeds, holdout, pretraining_seeds)
    if not found:
        return "Critical reading: there is no second network, so nothing is compared."
    parts = [
        f"the {number(abs(c.difference))} points of accuracy between {c.name} and {c.reference} ({c.evidence}) "
        f"{verdict(c)}"
        for c in found
    ]
    return f"Critical reading, {SCORED_ON[labels]}: {'; '.join(parts)}."
