"""Check the paper's claims one by one: confirmed, contradicted, within noise, or not tested by this study.

A row of a table is the paper's where its key `paper` says so; the tests are made on predictions, paired by fold and seed.

    python -m workflow_scripts.tables.check_claims --tables table2 generation --numbers table2.csv generation.csv \\
        --rows '[{"name": "UD", "paper": "ud", "experiment": "ud-flipped"}]' --experiments ud-flipped \\
        --predictions finetuning/ud-flipped/seed0.csv --classes homogeneous inhomogeneous \\
        --output-csv claims.csv --output-md claims.md --output-html claims.html
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.tables import Table, number, write_table
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.config.names import TABLES
from workflow_scripts.tables.claims import RESULTS, UNTESTED, Finding, check_claims
from workflow_scripts.tables.rows import read_predictions, read_table_rows
from workflow_scripts.tables.tables import HOLDOUTS

if TYPE_CHECKING:
    import pandas as pd


def claims_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row per claim: its texts, `result`, and the numbers of the comparison that decides."""
    import pandas as pd

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
        has_sentences=True,
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "numbers+ predictions* shares?")
    add_outputs(parser, "csv md html")
    add_parameters(parser, "tables rows* experiments* classes holdout_protocol pretraining_seeds margin origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, test, judge, write."""
    if len(arguments.tables) != len(arguments.numbers):
        raise UserError(
            f"--tables names {len(arguments.tables)}, --numbers {len(arguments.numbers)} files: one of each"
        )
    fine_tuned = [table for table in arguments.tables if table in TABLES]
    if len(fine_tuned) != len(arguments.rows):
        raise UserError(
            f"--rows has {len(arguments.rows)} lists for the tables {', '.join(fine_tuned) or 'none'}: one of each is needed"
        )
    if arguments.margin <= 0:
        raise UserError(f"--margin {arguments.margin:g}: points above 0 are needed")
    numbers = {name: read_csv(path, "numbers") for name, path in zip(arguments.tables, arguments.numbers, strict=True)}
    rows = dict(zip(fine_tuned, map(read_table_rows, arguments.rows), strict=True))
    for table, shown in rows.items():
        missing = [row.experiment for row in shown if row.experiment not in arguments.experiments]
        if missing:
            raise UserError(f"{table} shows the experiment {missing[0]}, but --experiments does not name it")
        if [row.name for row in shown] != numbers[table]["name"].tolist():
            raise UserError(f"--rows and --numbers of {table} are not of the same rows; make the table again")
    predictions = {}
    if arguments.experiments:
        predictions = read_predictions([], arguments.experiments, arguments.predictions, arguments.classes)
    shares = read_csv(arguments.shares, "shares") if arguments.shares else None
    findings = check_claims(
        numbers, rows, predictions, arguments.holdout_protocol, arguments.margin, shares, arguments.pretraining_seeds
    )
    tests = "over the runs"
    if predictions:
        views = next(iter(predictions.values()))
        tests = (
            f"over {views['fold'].nunique()} folds × {views['seed'].nunique()} seeds of "
            f"{views['patient_id'].nunique()} patients"
        )
    page = claims_layout(findings, tests, arguments.holdout_protocol, arguments.margin, arguments.origin)
    write_table(
        page, claims_table(findings), csv=arguments.output_csv, md=arguments.output_md, html=arguments.output_html
    )


if __name__ == "__main__":
    run(main, parser())
