"""Make one of the tables of fine-tuning: numbers as CSV; laid out like the paper's as Markdown, LaTeX and HTML."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.cli import run, stage_parser
from workflow_scripts.errors import UserError
from workflow_scripts.study.config import TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from workflow_scripts.evaluation.tables import Row


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--table", choices=TABLES, required=True, help="which table")
    parser.add_argument(
        "--rows", required=True, help="JSON list of rows {name, experiment, init, samples, switches, parameters}; "
        "parameters: JSON file of the pretraining run, which knows its number of views"
    )  # fmt: skip
    parser.add_argument(
        "--experiments", nargs="+", required=True, help="names of the experiments, in the order of --predictions"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        nargs="+",
        required=True,
        help="CSVs of predictions: all seeds of the first experiment, then of the next",
    )
    parser.add_argument(
        "--classes", nargs=2, required=True, metavar=("NEGATIVE", "POSITIVE"), help="the two label names"
    )
    parser.add_argument(
        "--spread", choices=("released", "seeds", "runs"), default="released", help="what ± means (default: released)"
    )
    parser.add_argument("--holdout", choices=("none", "per_fold"), default="none", help="the protocol, for the caption")
    parser.add_argument(
        "--reference", help="row that the others are tested against (default: the paper's, else the last network)"
    )
    parser.add_argument("--reference-numbers", action="store_true", help="print the paper's numbers beside ours")
    parser.add_argument("--caption-notes", nargs="*", default=[], help="further sentences for the caption")
    parser.add_argument("--origin", default="", help="what the numbers come from if not from patients: PHANTOM")
    parser.add_argument("--output-csv", type=Path, required=True, help="all numbers")
    parser.add_argument("--output-md", type=Path, required=True, help="Markdown")
    parser.add_argument("--output-tex", type=Path, required=True, help="LaTeX")
    parser.add_argument("--output-html", type=Path, required=True, help="HTML page")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, compute, lay out, write."""
    from workflow_scripts.evaluation import tables
    from workflow_scripts.evaluation.rendering import html_page, latex, markdown
    from workflow_scripts.files import write_csv, write_text

    table, positive = arguments.table, arguments.classes[1]
    rows = read_table_rows(arguments.rows)
    predictions = read_predictions(rows, arguments.experiments, arguments.predictions, arguments.classes)
    reference = tables.choose_reference(table, rows, arguments.reference)
    values = tables.numbers(rows, predictions, positive, arguments.spread, reference)
    if arguments.reference_numbers:
        values = tables.with_paper_numbers(table, values)
    caption = tables.notes(table, rows, predictions, values, positive, arguments.spread, arguments.holdout, reference)
    if arguments.reference_numbers:
        caption.append("Columns (paper): Morelli et al., ICIAP 2025, on their own data.")
    page = tables.layout(table, rows, values, reference, [*caption, *arguments.caption_notes], arguments.origin)

    write_text(markdown(page), arguments.output_md)
    write_text(latex(page), arguments.output_tex)
    write_text(html_page(page), arguments.output_html)
    write_csv(values.assign(origin=arguments.origin), arguments.output_csv)


def read_predictions(
    rows: Sequence[Row], experiments: Sequence[str], paths: Sequence[Path], classes: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The joined, checked predictions of each experiment; `paths` hold all seeds of the first, then of the next."""
    import pandas as pd

    from workflow_scripts.evaluation.predictions import check_predictions
    from workflow_scripts.files import read_csv

    seeds, rest = divmod(len(paths), len(experiments))
    if rest or not seeds:
        raise UserError(
            f"--predictions names {len(paths)} files for {len(experiments)} experiments; each needs as many, one per "
            "seed"
        )
    predictions = {
        name: pd.concat(map(read_csv, paths[i * seeds : (i + 1) * seeds]), ignore_index=True)
        for i, name in enumerate(experiments)
    }
    missing = [row.experiment for row in rows if row.experiment not in predictions]
    if missing:
        raise UserError(f"--rows: no predictions for the experiment {missing[0]}; there are {', '.join(predictions)}")
    check_predictions(predictions, classes)
    return predictions


def read_table_rows(text: str) -> list[Row]:
    """The rows of `--rows`."""
    from workflow_scripts.evaluation.tables import Row, short_count
    from workflow_scripts.files import read_json

    try:
        entries: list[dict[str, Any]] = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--rows is not JSON: {error}") from None
    if not entries:
        raise UserError("--rows: a table needs at least one row")
    rows = []
    for i, entry in enumerate(entries):
        if not {"name", "experiment"} <= entry.keys():
            raise UserError(f"--rows, row {i}: name and experiment are needed, there are {', '.join(entry)}")
        samples = str(entry.get("samples", "–"))
        if "parameters" in entry:
            samples = short_count(int(read_json(entry["parameters"])["views"]))
        rows.append(
            Row(
                name=entry["name"],
                experiment=entry["experiment"],
                init=entry.get("init", ""),
                samples=samples,
                switches=entry.get("switches", {}),
                is_pretrained="parameters" in entry,
            )
        )
    return rows


if __name__ == "__main__":
    run(main, parser())
