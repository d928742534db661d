"""Draw what the snapshots of the diffusion training measure over its steps, and which of them is used."""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, stage_parser
from workflow_scripts.evaluation.selection import RULES, read_measures


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--measures", type=Path, required=True, help="CSV of monitor_diffusion")
    parser.add_argument("--select", choices=RULES, required=True, help="the rule that chooses")
    parser.add_argument("--origin", default="", help="what the views are if not patients': PHANTOM")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, choose, draw."""
    from workflow_scripts.evaluation.figures import save
    from workflow_scripts.evaluation.selection import choose
    from workflow_scripts.evaluation.selection_figures import selection_figure

    rows = read_measures(arguments.measures)
    save(selection_figure(rows, *choose(rows, arguments.select), arguments.origin), arguments.output)


if __name__ == "__main__":
    run(main, parser())
