"""Print a finished run's tables as text, and where its tables, figures and report are.

python -m workflow_scripts.tools.show_results --tables table2 generation
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="the config's `results` folder (default: results)"
    )
    parser.add_argument(
        "--tables", nargs="+", default=["table2", "generation"], help="tables to print (default: table2 generation)"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Print to stdout."""
    folder = arguments.results / "tables"
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; run `snakemake --cores 2` (or `make demo`) first, or give --results")
    for name in arguments.tables:
        print((folder / f"{name}.md").read_text(encoding="utf-8"))
    print(f"tables:  {folder}/*.csv .md .tex .html")
    print(f"figures: {arguments.results / 'figures'}/*.png")
    print(f"start:   {arguments.results / 'index.html'}")
    print(f"report:  {arguments.results / 'report.html'}")


if __name__ == "__main__":
    run(main, parser())
