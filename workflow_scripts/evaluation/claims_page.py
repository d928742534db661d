"""The page of the claims check: its table of numbers, and its layout."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from workflow_scripts.evaluation.claims import RESULTS, UNTESTED, Finding
from workflow_scripts.evaluation.rendering import Table, number
from workflow_scripts.evaluation.tables import HOLDOUTS


def claims_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row per claim: its texts, `result`, and the numbers of the comparison that decides."""
    rows = []
    for finding in findings:
        decisive = None if finding.decisive is None else finding.comparisons[finding.decisive]
        rows.append(
            {
                "claim": finding.claim, "paper": finding.paper, "compared": finding.compared,
                "difference": finding.difference, "result": finding.result, "verdict": finding.verdict,
                "decided_by": f"{decisive.name} against {decisive.reference}" if decisive else "",
                "difference_mean": decisive.difference if decisive else math.nan,
                "difference_low": decisive.low if decisive else math.nan,
                "difference_high": decisive.high if decisive else math.nan,
                "p_corrected": decisive.p if decisive else math.nan,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def claims_layout(findings: Sequence[Finding], tests: str, holdout: str, margin: float, origin: str) -> Table:
    """The page; `tests` says what the differences are measured on (`3 folds × 4 seeds of 220 patients`)."""
    counts = [f"{sum(f.result == result for f in findings)} {result}" for result in (*RESULTS[::-1], UNTESTED)]
    notes = [
        f"{', '.join(counts)}, of {len(findings)} claims of Morelli et al., ICIAP 2025; “the paper” quotes its numbers.",
        f"Differences are points of accuracy, the first row minus the second, {tests}, on the same folds and seeds, with "
        "the 95 % interval and p value of the Nadeau-Bengio corrected paired t test; p is Holm-corrected for all tests "
        "of accuracy on this page. Rows with different label sets are compared on the original labels of all views; the "
        "difference on each row's own labels also holds what the relabelling changed in the test.",
        "Confirmed or contradicted: the interval excludes 0 and p is below 0.05. Anything else is within noise, which is "
        "no proof that there is no difference. A claim of several comparisons is confirmed if all of them are, and "
        "contradicted if one is.",
        f"A claim that two rows do the same is confirmed where the interval lies within ±{number(margin, 1)} points, and "
        "contradicted where it lies beyond them.",
        "Precision and recall: a change counts where it exceeds twice the root of the two summed variances over the "
        "reference batches. Markers: 95 % bootstrap over patients. Neither has a p value.",
        f"{HOLDOUTS[holdout]}.",
    ]
    if origin:
        notes.append(f"{origin}: such a run can neither support nor refute the paper; the page only shows its form.")
    return Table(
        label="claims",
        title="The paper's claims, checked by this run",
        header=("claim", "the paper", "compared here", "difference", "verdict"),
        rows=tuple((f.claim, f.paper, f.compared, f.difference, f.verdict) for f in findings),
        text_columns=5,
        notes=tuple(notes),
        origin=origin,
    )
