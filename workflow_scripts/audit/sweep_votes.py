"""Sweep the audit's rule: what other thresholds, exceedances and numbers of votes would call suspicious.

Works on the recorded losses alone, so that it takes seconds and nothing is trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.log import say
from workflow_scripts.runtime.cli import run, stage_parser

# ln 2, where the label is a coin's toss, and the paper's 1 are among them.
THRESHOLDS = (0.5, 0.693, 1.0, 1.5, 2.0)
EXCEEDANCES = (1, 2, 3, 4, 5, 7, 10)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--losses", type=Path, nargs="+", required=True, help="CSVs view_id,fold,epoch,loss")
    parser.add_argument("--index", type=Path, required=True, help="index of the labelled views")
    parser.add_argument(
        "--threshold", type=float, default=1.0, help="the study's own threshold, swept too (default: 1.0)"
    )
    parser.add_argument("--reference", action="store_true", help="draw the paper's released counts beside")
    parser.add_argument("--origin", default="", help="what the views are if not patients': PHANTOM")
    parser.add_argument("--output", type=Path, required=True, help="CSV, one row per rule")
    parser.add_argument("--output-figure", type=Path, required=True, help="PNG")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, sweep, draw."""
    from workflow_scripts.audit.figures import sweep_figure
    from workflow_scripts.audit.votes import sweep
    from workflow_scripts.core.figures import save
    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.study.patients import numbered_organ_sides

    losses = {str(path): read_csv(path) for path in arguments.losses}
    index = read_csv(arguments.index)
    thresholds = sorted({*THRESHOLDS, arguments.threshold})
    table = sweep(losses, index, numbered_organ_sides(index).to_numpy(), thresholds, EXCEEDANCES)
    say(f"{len(table)} rules on {len(index)} views")
    figure = sweep_figure(table, len(index), arguments.threshold, arguments.reference, arguments.origin)
    save(figure, arguments.output_figure)
    write_csv(table, arguments.output)


if __name__ == "__main__":
    run(main, parser())
