"""Aggregate predictions from views to testicles and patients, and tabulate the metrics at each level.

The rows are those of a table of fine-tuning. Truths are the original labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, say, stage_parser
from workflow_scripts.errors import UserError
from workflow_scripts.evaluation.table_rows import (
    add_predictions,
    add_rows,
    add_spread,
    read_predictions,
    read_table_rows,
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_rows(parser)
    add_predictions(parser)
    parser.add_argument("--index", type=Path, required=True, help="CSV index of the labelled views")
    add_spread(parser)
    parser.add_argument(
        "--output-testicles", type=Path, required=True, help="CSV, a row per experiment, testicle, seed"
    )
    parser.add_argument("--output-patients", type=Path, required=True, help="CSV, a row per experiment, patient, seed")
    parser.add_argument("--output-csv", type=Path, required=True, help="all numbers of the table")
    parser.add_argument("--output-md", type=Path, required=True, help="Markdown")
    parser.add_argument("--output-tex", type=Path, required=True, help="LaTeX")
    parser.add_argument("--output-html", type=Path, required=True, help="HTML page")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, average, tabulate, write."""
    import pandas as pd

    from workflow_scripts.evaluation import levels
    from workflow_scripts.evaluation.rendering import html_page, latex, markdown
    from workflow_scripts.files import read_csv, write_csv, write_text

    classes, origin = arguments.classes, arguments.origin
    rows = read_table_rows(arguments.rows)
    predictions = read_predictions(rows, arguments.experiments, arguments.predictions, classes)
    index = read_csv(arguments.index)
    if "side" not in index:
        raise UserError(f"{arguments.index} has no column side, so views cannot be told apart by testicle; crop anew")

    units = {}
    for name, views in predictions.items():
        testicles = levels.testicle_predictions(views, index, classes)
        patients = levels.patient_predictions(views, testicles, classes)
        units[name] = {"view": views, "testicle": testicles, "patient": patients}
    for level, path in (("testicle", arguments.output_testicles), ("patient", arguments.output_patients)):
        tables = [tables[level].assign(origin=origin) for tables in units.values()]
        write_csv(pd.concat(tables, keys=units, names=["experiment"]).reset_index(level="experiment"), path)

    views = next(iter(predictions.values()))
    _, disagreeing = levels.testicle_truths(index[index["view_id"].isin(views["view_id"])], classes)
    if disagreeing:
        say(f"testicles whose views are labelled unlike: {disagreeing}; the majority counts, a tie as {classes[1]}")
    values = levels.level_numbers(rows, units, classes[1], arguments.spread)
    runs = f"{views['fold'].nunique()} folds × {views['seed'].nunique()} seeds"
    page = levels.level_layout(rows, values, classes[1], arguments.spread, runs, disagreeing, origin)
    write_text(markdown(page), arguments.output_md)
    write_text(latex(page), arguments.output_tex)
    write_text(html_page(page), arguments.output_html)
    write_csv(values.assign(origin=origin), arguments.output_csv)


if __name__ == "__main__":
    run(main, parser())
