"""Count the audit's votes (paper, Sec. 3): a run flags a view whose training loss was too high too often."""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, say, stage_parser
from workflow_scripts.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--losses", type=Path, nargs="+", required=True, help="CSVs view_id,fold,epoch,loss")
    parser.add_argument("--labels", type=Path, required=True, help="CSV of the original labels")
    parser.add_argument("--threshold", type=float, default=1.0, help="a loss above it is an exceedance (default: 1.0)")
    parser.add_argument("--exceedances", type=int, default=3, help="epochs in which it must be exceeded (default: 3)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of evaluations that makes a view suspicious (default: 1.0)"
    )
    parser.add_argument("--output", type=Path, required=True, help="CSV view_id,label,votes,evaluations,suspicious")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the losses, count, write."""
    from workflow_scripts.evaluation.votes import count_votes
    from workflow_scripts.files import read_csv, write_csv

    if len(set(arguments.losses)) < len(arguments.losses):
        raise UserError("--losses names a file twice; its runs would vote twice")
    losses = {str(path): read_csv(path) for path in arguments.losses}
    labels = read_csv(arguments.labels)
    votes = count_votes(losses, labels, arguments.threshold, arguments.exceedances, arguments.share)
    for label, rows in votes.groupby("label"):
        flagged, evaluations = int(rows["suspicious"].sum()), sorted(set(rows["evaluations"]))
        say(f"{label}: {flagged} of {len(rows)} views suspicious ({'/'.join(map(str, evaluations))} evaluations each)")
    write_csv(votes, arguments.output)


if __name__ == "__main__":
    run(main, parser())
