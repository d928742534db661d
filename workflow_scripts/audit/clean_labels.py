"""Make a label set from the audit or from a clinician's decisions (paper, Sec. 3).

filtered: suspicious views are left out (keep 0). flipped: their label is swapped. reviewed: a clinician's CSV
(view_id, decision = keep | flip | discard | unsure, as the review page writes it) decides; views that it does not name
or is unsure of stay as they are.

    python -m workflow_scripts.audit.clean_labels --policy flipped --votes audit/votes.csv --complete labels/complete.csv \\
        --classes homogeneous inhomogeneous --output-labels labels/flipped.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.audit.labels import (
    decisions_of_clinician,
    decisions_of_votes,
    read_decisions,
    read_votes,
    require_reviewed_labels,
    write_decided,
)
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "votes? complete decisions?")
    add_outputs(parser, "labels")
    add_parameters(parser, "policy classes")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, decide, write."""
    reviewed = arguments.policy == "reviewed"
    source = arguments.decisions if reviewed else arguments.votes
    if source is None:
        raise UserError(f"the policy {arguments.policy} needs {'--decisions' if reviewed else '--votes'}")
    if not source.is_file():
        raise UserError(f"{source} does not exist")
    complete = read_rows(arguments.complete, "complete")
    if reviewed:
        checked = read_decisions(source)
        require_reviewed_labels(checked, complete, str(source))
        decisions = decisions_of_clinician(checked, str(source))
    else:
        decisions = decisions_of_votes(arguments.policy, read_votes(source, complete, arguments.complete))
    write_decided(complete, decisions, arguments.policy, arguments.classes, source, arguments.output_labels)


if __name__ == "__main__":
    run(main, parser())
