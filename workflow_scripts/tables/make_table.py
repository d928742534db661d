"""Make one of the tables of fine-tuning: numbers as CSV; laid out like the paper's as Markdown, LaTeX and HTML."""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.config.names import TABLES
from workflow_scripts.tables.rows import (
    add_predictions,
    add_protocol,
    add_rows,
    add_spread,
    read_predictions,
    read_table_rows,
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--table", choices=TABLES, required=True, help="which table")
    add_rows(parser)
    add_predictions(parser)
    add_spread(parser)
    add_protocol(parser)
    parser.add_argument(
        "--reference", help="row that the others are tested against (default: the paper's, else the last network)"
    )
    parser.add_argument("--reference-numbers", action="store_true", help="print the paper's numbers beside ours")
    parser.add_argument("--caption-notes", nargs="*", default=[], help="further sentences for the caption")
    parser.add_argument("--output-csv", type=Path, required=True, help="all numbers")
    parser.add_argument("--output-md", type=Path, required=True, help="Markdown")
    parser.add_argument("--output-tex", type=Path, required=True, help="LaTeX")
    parser.add_argument("--output-html", type=Path, required=True, help="HTML page")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, compute, lay out, write."""
    from workflow_scripts.core.files import write_csv, write_text
    from workflow_scripts.core.tables import html_page, latex, markdown
    from workflow_scripts.tables import tables

    table, positive = arguments.table, arguments.classes[1]
    rows = read_table_rows(arguments.rows)
    predictions = read_predictions(rows, arguments.experiments, arguments.predictions, arguments.classes)
    reference = tables.choose_reference(table, rows, arguments.reference)
    values = tables.numbers(rows, predictions, positive, arguments.spread, reference, arguments.pretraining_seeds)
    if arguments.reference_numbers:
        values = tables.with_paper_numbers(table, values)
    caption = tables.notes(
        table, rows, predictions, values, positive, arguments.spread, arguments.holdout, reference,
        arguments.pretraining_seeds,
    )  # fmt: skip
    if arguments.reference_numbers:
        caption.append("Columns (paper): Morelli et al., ICIAP 2025, on their own data.")
    page = tables.layout(table, rows, values, reference, [*caption, *arguments.caption_notes], arguments.origin)

    write_text(markdown(page), arguments.output_md)
    write_text(latex(page), arguments.output_tex)
    write_text(html_page(page), arguments.output_html)
    write_csv(values.assign(origin=arguments.origin), arguments.output_csv)


if __name__ == "__main__":
    run(main, parser())
