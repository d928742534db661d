"""Write the original labels as a label set: every view is kept and no label changes.

python -m workflow_scripts.audit.complete_labels --index views/labelled.csv --output-labels labels/complete.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.audit.labels import LABEL_COLUMNS
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.runtime.arguments import add_inputs, add_outputs
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "index")
    add_outputs(parser, "labels")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the index, write the labels."""
    index = read_rows(arguments.index, "index")
    unlabelled = [row["view_id"] for row in index if not row["label"]]
    if unlabelled:
        raise UserError(f"{arguments.index}: {len(unlabelled)} views have no label, for example {unlabelled[0]}")
    rows = [{"view_id": row["view_id"], "label": row["label"], "keep": 1} for row in index]
    write_rows(rows, LABEL_COLUMNS, arguments.output_labels)


if __name__ == "__main__":
    run(main, parser())
