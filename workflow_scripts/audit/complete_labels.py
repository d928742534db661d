"""Write the original labels as a label set: every view kept, nothing changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.audit.labels import LABEL_COLUMNS
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--index", type=Path, required=True, help="CSV index of the labelled views")
    parser.add_argument("--output", type=Path, required=True, help="CSV view_id,label,keep")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the index, write the labels."""
    index = read_rows(arguments.index)
    unlabelled = [row["view_id"] for row in index if not row["label"]]
    if unlabelled:
        raise UserError(f"{arguments.index}: {len(unlabelled)} views have no label, for example {unlabelled[0]}")
    rows = [{"view_id": row["view_id"], "label": row["label"], "keep": 1} for row in index]
    write_rows(rows, LABEL_COLUMNS, arguments.output)


if __name__ == "__main__":
    run(main, parser())
