"""Make a label set from the audit or from a clinician's decisions (paper, Sec. 3).

filtered: suspicious views are left out (keep 0). flipped: their label is swapped. reviewed: a clinician's CSV
(view_id, decision = keep | flip | discard | unsure, as the review page writes it) decides; views that it does not name
or is unsure of stay as they are. With --at-random as many labels of each class change, but of views drawn at random: what
cleaning does beyond that is the audit's merit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, say, stage_parser
from workflow_scripts.errors import UserError
from workflow_scripts.evaluation.controls import random_decisions
from workflow_scripts.evaluation.labels import (
    LABEL_COLUMNS,
    POLICIES,
    apply_decisions,
    decisions_of_clinician,
    decisions_of_votes,
    require_reviewed_labels,
    rows_of_clinician,
)
from workflow_scripts.files import read_rows, write_rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--policy", choices=POLICIES, required=True, help="what becomes of doubtful views")
    parser.add_argument("--votes", type=Path, help="CSV of the audit's votes (filtered, flipped)")
    parser.add_argument("--complete", type=Path, required=True, help="CSV of the original labels")
    parser.add_argument(
        "--classes", nargs=2, required=True, metavar=("NEGATIVE", "POSITIVE"), help="the two label names"
    )
    parser.add_argument("--decisions", type=Path, help="CSV of a clinician's decisions (reviewed)")
    parser.add_argument(
        "--at-random",
        type=int,
        metavar="SEED",
        help="change as many labels of views drawn at random (filtered, flipped)",
    )
    parser.add_argument("--output", type=Path, required=True, help="CSV view_id,label,keep")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, decide, write."""
    reviewed = arguments.policy == "reviewed"
    source = arguments.decisions if reviewed else arguments.votes
    if source is None:
        raise UserError(f"the policy {arguments.policy} needs {'--decisions' if reviewed else '--votes'}")
    if not source.is_file():
        raise UserError(f"{source} does not exist")
    rows, complete = read_rows(source), read_rows(arguments.complete)
    if reviewed:
        checked = rows_of_clinician(rows, str(source))
        require_reviewed_labels(checked, complete, str(source))
        decisions = decisions_of_clinician(checked, str(source))
    else:
        decisions = decisions_of_votes(arguments.policy, rows)
        if arguments.at_random is not None:
            decisions = random_decisions(decisions, complete, arguments.at_random)
    labels = apply_decisions(complete, decisions, arguments.classes, str(source))
    discarded = sum(row["keep"] == "0" for row in labels)
    flipped = sum(new["label"] != old["label"] for new, old in zip(labels, complete, strict=True))
    unsure = sum(decision == "unsure" for decision in decisions.values())
    say(
        f"{arguments.policy}: of {len(labels)} views {discarded} left out, {flipped} flipped"
        + (f", {unsure} unsure, whose label stays" if unsure else "")
    )
    write_rows(labels, LABEL_COLUMNS, arguments.output)


if __name__ == "__main__":
    run(main, parser())
