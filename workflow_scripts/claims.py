"""Check the paper's claims one by one: confirmed, contradicted, within noise, or not tested by this study.

The tables name the rows; the tests are made on their predictions, paired by fold and seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, stage_parser
from workflow_scripts.errors import UserError
from workflow_scripts.evaluation.table_rows import add_predictions, add_protocol, read_predictions
from workflow_scripts.study.config.names import TABLES

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
    from workflow_scripts.evaluation.claims import check_claims
    from workflow_scripts.evaluation.claims_page import claims_layout, claims_table
    from workflow_scripts.evaluation.rendering import html_page, markdown
    from workflow_scripts.files import read_csv, write_csv, write_text

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
