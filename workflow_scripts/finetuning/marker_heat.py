"""How much Grad-CAM++ heat moves onto drawn markers, compared between two classifiers (figure 5 and the claim about it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_scripts.core.statistics import patient_bootstrap

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ExtraHeat:
    """Points of heat that move onto markers in one arm minus those in another: mean over views, 95 % over patients."""

    difference: float
    low: float
    high: float
    views: int
    patients: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the arms differ by more than the draw of patients explains."""
        return self.low > 0 or self.high < 0


def moved_heat(shares: pd.DataFrame) -> pd.DataFrame:
    """Points of heat that moved onto the markers when they were drawn, views x arms; NaN where a map has no heat.

    `shares` is the table of figure 5 (arm, view_id, heat_before, heat_on_markers).
    """
    moved = shares.assign(moved=100 * (shares["heat_on_markers"] - shares["heat_before"]))
    return moved.pivot_table("moved", "view_id", "arm", dropna=False)


def extra_heat(moved: pd.DataFrame, patients: pd.Series, arm: str, other: str) -> ExtraHeat | None:
    """`arm` minus `other` over the views with heat in both; None without such a view.

    `moved` as `moved_heat` returns it; `patients` maps view_id to patient_id. The networks are given, patients are redrawn.
    """
    both = moved.dropna(subset=[arm, other])
    if both.empty:
        return None
    extra = (both[arm] - both[other]).groupby(patients.reindex(both.index))
    low, high = patient_bootstrap(extra.sum().to_numpy()[:, None], extra.size().to_numpy()[:, None])
    return ExtraHeat(float(extra.sum().sum() / extra.size().sum()), low, high, len(both), len(extra))
