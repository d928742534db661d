"""Clean the labels of each fold by the audit's runs that never saw it (the protocol `nested`).

With all runs voting, as in the paper, the label of a test view is judged by models that trained on it, and its change
then counts as truth. Here the model of fold f learns labels that the audit of its own training part has judged, and the
views of fold f keep their original labels. The runs exist already, since the audit shares the folds. The label set has a
row per view and fold: view_id, fold, label, keep.

    python -m workflow_scripts.audit.nest_labels --policy flipped --losses audit/imagenet_seed0.csv audit/uscl_seed0.csv \\
        --index views/labelled.csv --complete labels/complete.csv --classes homogeneous inhomogeneous \\
        --output-labels labels/flipped_nested/seed0.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.audit.labels import LABEL_COLUMNS, apply_decisions, decisions_of_votes
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_settings, run, settings, stage_parser
from workflow_scripts.study.config.audit import VoteRule
from workflow_scripts.study.label_sets import OUT_OF_FOLD


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "losses+ index complete")
    add_outputs(parser, "labels")
    add_parameters(parser, "policy classes")
    add_settings(parser, VoteRule)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Judge and clean fold by fold."""
    from workflow_scripts.audit.suspicion import judge
    from workflow_scripts.core.files import read_csv

    rule = settings(arguments)
    if rule.method in OUT_OF_FOLD:
        raise UserError(
            f"--method {rule.method} judges a view by models that trained on the other folds, the test fold among them; "
            "nested labels need votes, mean_loss or aum"
        )
    index, complete = read_csv(arguments.index, "index"), read_rows(arguments.complete, "complete")
    losses = {str(path): read_csv(path, "losses") for path in arguments.losses}
    rows = []
    for fold in sorted(set.union(*(set(table["fold"]) for table in losses.values()))):
        runs = {name: table[table["fold"] == fold] for name, table in losses.items()}
        votes = judge(runs, {}, index, rule, arguments.classes[1])
        suspicious = [{"view_id": view, "suspicious": "1"} for view in votes.loc[votes["suspicious"] == 1, "view_id"]]
        decisions = decisions_of_votes(arguments.policy, suspicious)
        say(
            f"fold {fold}: {len(decisions)} of {len(complete)} labels {arguments.policy}, none of them of its own views"
        )
        labels = apply_decisions(complete, decisions, arguments.classes, str(arguments.complete))
        rows += [{**row, "fold": fold} for row in labels]
    write_rows(rows, (LABEL_COLUMNS[0], "fold", *LABEL_COLUMNS[1:]), arguments.output_labels)


if __name__ == "__main__":
    run(main, parser())
