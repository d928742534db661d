"""Sweep the audit's rule: what other thresholds, exceedances and numbers of votes would call suspicious.

Works on the recorded losses alone, so that it takes seconds and trains no network again. `--threshold` is the study's own
and is swept too.

    python -m workflow_scripts.audit.sweep_votes --losses audit/*_seed?.csv --index views/labelled.csv --threshold 1 \\
        --output-sweep audit/sweep.csv --output-figure figures/audit_sweep.png
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

# ln 2, where the label is a coin's toss, and the paper's 1 are among them.
THRESHOLDS = (0.5, 0.693, 1.0, 1.5, 2.0)
EXCEEDANCES = (1, 2, 3, 4, 5, 7, 10)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "losses+ index")
    add_outputs(parser, "sweep figure")
    add_parameters(parser, "threshold reference_numbers origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, sweep, draw."""
    from workflow_scripts.audit.figures import sweep_figure
    from workflow_scripts.audit.votes import sweep
    from workflow_scripts.core.figures import save
    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.study.patients import numbered_organ_sides

    losses = {str(path): read_csv(path, "losses") for path in arguments.losses}
    index = read_csv(arguments.index, "index")
    thresholds = sorted({*THRESHOLDS, arguments.threshold})
    table = sweep(losses, index, numbered_organ_sides(index).to_numpy(), thresholds, EXCEEDANCES)
    say(f"{len(table)} rules on {len(index)} views")
    figure = sweep_figure(table, len(index), arguments.threshold, arguments.reference_numbers, arguments.origin)
    save(figure, arguments.output_figure)
    write_csv(table, arguments.output_sweep)


if __name__ == "__main__":
    run(main, parser())
