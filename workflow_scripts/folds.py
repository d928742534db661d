"""Deal the labelled patients to folds, stratified on their original labels.

The same folds serve every label policy and every experiment of a seed, so that table rows can be compared fold by fold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, say, stage_parser
from workflow_scripts.errors import UserError
from workflow_scripts.evaluation.folds import assign_folds
from workflow_scripts.files import read_rows, write_rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--index", type=Path, required=True, help="CSV index of the labelled views")
    parser.add_argument("--folds", type=int, required=True, help="number of folds")
    parser.add_argument("--seed", type=int, required=True, help="seed of the shuffle")
    parser.add_argument("--positive", required=True, help="name of the positive class")
    parser.add_argument("--output", type=Path, required=True, help="CSV patient_id,fold")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the index, deal, write."""
    if arguments.folds < 2:
        raise UserError(f"--folds {arguments.folds}: a cross-validation needs at least 2 folds")
    index = read_rows(arguments.index)
    for row in index:
        if not row["patient_id"] or not row["label"]:
            raise UserError(
                f"{arguments.index}: view {row['view_id']} has no patient or no label; it cannot be put in a fold"
            )
    fold_of = assign_folds(
        ((row["patient_id"], row["label"] == arguments.positive) for row in index), arguments.folds, arguments.seed
    )
    for fold in range(arguments.folds):
        views = [row for row in index if fold_of[row["patient_id"]] == fold]
        positive = sum(row["label"] == arguments.positive for row in views)
        patients = len({row["patient_id"] for row in views})
        say(f"fold {fold}: {patients} patients, {len(views)} views, {positive} of them {arguments.positive}")
    rows = [{"patient_id": patient, "fold": fold} for patient, fold in fold_of.items()]
    write_rows(rows, ("patient_id", "fold"), arguments.output)


if __name__ == "__main__":
    run(main, parser())
