"""Draw contact sheets of the views that pretraining draws: each image beside pairs of its views."""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, stage_parser
from workflow_scripts.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--names", nargs="+", required=True, help="pretraining runs, in the order of --sheets")
    parser.add_argument("--sheets", type=Path, nargs="+", required=True, help="sheet.npy of each run")
    parser.add_argument("--origin", default="", help="what the views are if not patients': PHANTOM")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, draw."""
    from workflow_scripts.evaluation.augmented_figures import augmented_figure
    from workflow_scripts.evaluation.figures import save
    from workflow_scripts.files import read_npy

    if len(arguments.names) != len(arguments.sheets):
        raise UserError(
            f"--names names {len(arguments.names)} runs, --sheets {len(arguments.sheets)}; one of each is needed"
        )
    sheets = {name: read_npy(path) for name, path in zip(arguments.names, arguments.sheets, strict=True)}
    save(augmented_figure(sheets, arguments.origin), arguments.output)


if __name__ == "__main__":
    run(main, parser())
