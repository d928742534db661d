"""A control for cleaned labels: as many labels of each class change, but of views drawn at random.

What cleaning gains beyond this control is the merit of the audit.

    python -m workflow_scripts.audit.change_at_random --policy flipped --votes audit/votes.csv --complete labels/complete.csv \\
        --classes homogeneous inhomogeneous --seed 0 --output-labels labels/flipped_random/seed0.csv
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence

from workflow_scripts.audit.labels import decisions_of_votes, read_votes, write_decided
from workflow_scripts.core.files import read_rows
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

Row = Mapping[str, str]


def random_decisions(decisions: Mapping[str, str], complete: Sequence[Row], seed: int) -> dict[str, str]:
    """Decisions of the same number, kinds and class mix as `decisions` (view_id -> decision) on views drawn at random.

    `complete` are the original labels (view_id, label). For each class the views are drawn without replacement from all
    of that class, those that were decided among them.
    """
    draw = random.Random(seed)
    views: dict[str, list[str]] = {}
    wanted: dict[str, list[str]] = {}
    for row in complete:
        views.setdefault(row["label"], []).append(row["view_id"])
        if row["view_id"] in decisions:
            wanted.setdefault(row["label"], []).append(decisions[row["view_id"]])
    return {
        view: decision
        for label, kinds in wanted.items()
        for view, decision in zip(draw.sample(sorted(views[label]), len(kinds)), kinds, strict=True)
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "votes complete")
    add_outputs(parser, "labels")
    add_parameters(parser, "policy classes seed")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, draw, write."""
    complete = read_rows(arguments.complete, "complete")
    decided = decisions_of_votes(arguments.policy, read_votes(arguments.votes, complete, arguments.complete))
    decisions = random_decisions(decided, complete, arguments.seed)
    write_decided(complete, decisions, arguments.policy, arguments.classes, arguments.votes, arguments.output_labels)


if __name__ == "__main__":
    run(main, parser())
