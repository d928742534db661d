"""Check the paper's claims one by one: confirmed, contradicted, within noise, or not tested by this study.

The tables name the rows; the tests are made on their predictions, paired by fold and seed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.tables import Table, number
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.config.names import TABLES
from workflow_scripts.tables.claims import RESULTS, UNTESTED, Finding
from workflow_scripts.tables.rows import add_predictions, add_protocol, read_predictions
from workflow_scripts.tables.tables import HOLDOUTS


# FOLDED
# The page of the claims check: its table of numbers, and its layout.
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


# Sentences in the cells wrap, unlike numbers.
WRAPPED = (
    "td.text { white-space: normal; min-width: 11rem; vertical-align: top; }\ntd { border-bottom: 1px solid #d9dfe6; }"
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=(*TABLES, "generation"),
        required=True,
        help="the tables, in the order of --numbers",
    )
    parser.add_argument("--numbers", type=Path, nargs="+", required=True, help="CSV of each table")
    add_predictions(parser, at_least_one=False)
    parser.add_argument("--shares", type=Path, help="CSV of figure 5's shares of heat, if it is drawn")
    parser.add_argument("--pretrained", nargs="*", default=[], help="names of the study's pretraining runs")
    add_protocol(parser)
    parser.add_argument(
        "--margin", type=float, default=2.0, help="points within which two rows do the same (default: 2)"
    )
    parser.add_argument("--output-csv", type=Path, required=True, help="one row per claim")
    parser.add_argument("--output-md", type=Path, required=True, help="Markdown")
    parser.add_argument("--output-html", type=Path, required=True, help="HTML page")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, test, judge, write."""
    from workflow_scripts.tables.claims import check_claims

    pass
    from workflow_scripts.core.files import read_csv, write_csv, write_text
    from workflow_scripts.core.tables import html_page, markdown

    if len(arguments.tables) != len(arguments.numbers):
        raise UserError(
            f"--tables names {len(arguments.tables)}, --numbers {len(arguments.numbers)} files: one of each"
        )
    if arguments.margin <= 0:
        raise UserError(f"--margin {arguments.margin:g}: points above 0 are needed")
    numbers = {name: read_csv(path) for name, path in zip(arguments.tables, arguments.numbers, strict=True)}
    predictions = {}
    if arguments.experiments:
        predictions = read_predictions([], arguments.experiments, arguments.predictions, arguments.classes)
    for name, table in numbers.items():
        missing = sorted(set(table.get("experiment", ())) - set(predictions))
        if missing:
            raise UserError(f"{name} shows the experiment {missing[0]}, but --experiments does not name it")
    shares = read_csv(arguments.shares) if arguments.shares else None
    findings = check_claims(
        numbers, predictions, arguments.pretrained, arguments.holdout, arguments.margin, shares,
        arguments.pretraining_seeds,
    )  # fmt: skip
    tests = "over the runs"
    if predictions:
        views = next(iter(predictions.values()))
        tests = (
            f"over {views['fold'].nunique()} folds × {views['seed'].nunique()} seeds of "
            f"{views['patient_id'].nunique()} patients"
        )
    page = claims_layout(findings, tests, arguments.holdout, arguments.margin, arguments.origin)
    write_csv(claims_table(findings).assign(origin=arguments.origin), arguments.output_csv)
    write_text(markdown(page), arguments.output_md)
    write_text(html_page(page).replace("</style>", f"{WRAPPED}\n</style>", 1), arguments.output_html)


if __name__ == "__main__":
    run(main, parser())
