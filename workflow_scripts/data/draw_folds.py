"""Assign the labelled patients to cross-validation folds, stratified on their original labels (paper, Sec. 4.3).

Every label policy and every experiment of a seed uses the same folds, so that table rows can be compared fold by fold.
With --split-by scanner or centre, each fold is one scanner or centre, whatever the seed. With --split-by view, views are
assigned instead, as in the paper's released code: then training folds hold views of test patients. Use it only to
measure that leak.

    python -m workflow_scripts.data.draw_folds --index views/labelled.csv --fold-count 3 --seed 0 \\
        --positive inhomogeneous --output-folds folds/seed0.csv
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.config.names import GROUPS


def assign_folds(views: Iterable[tuple[str, bool]], folds: int, seed: int, unit: str = "patient") -> dict[str, int]:
    """Assign patients to folds, stratified by the share of their views that is positive.

    `views` yields one (patient, is the view positive) per view; where views themselves are assigned (`unit` names that in
    messages), each is its own patient. Patients are shuffled, sorted by their share of positive views (then by their
    number of views) and assigned in turn. So folds differ by at most one patient, every fold has patients with positive
    and with negative views, and positive views differ by at most one patient's.
    Returns patient -> fold in 0..folds-1, in order of patient. Raises `UserError` where too few patients have a class.
    """
    counts: dict[str, list[int]] = {}
    for patient, is_positive in views:
        count = counts.setdefault(patient, [0, 0])
        count[bool(is_positive)] += 1
    with_class = [sum(1 for count in counts.values() if count[c]) for c in (0, 1)]
    for name, patients in zip(("negative", "positive"), with_class, strict=True):
        if patients < folds:
            raise UserError(
                f"{folds} folds need at least {folds} {unit}s with {name} labels, but of {len(counts)} labelled "
                f"{unit}s only {patients} have any. Use fewer folds (config key folds) or label more {unit}s"
            )
    draw = random.Random(seed)
    # From a sorted list, so that the order of the rows does not matter.
    order = sorted(counts)
    draw.shuffle(order)
    order.sort(key=lambda patient: (-counts[patient][1] / sum(counts[patient]), -sum(counts[patient])))
    # The first fold gets the patients with the largest share of positive views; chance decides which fold it is.
    turn = list(range(folds))
    draw.shuffle(turn)
    fold_of = {patient: turn[i % folds] for i, patient in enumerate(order)}
    return {patient: fold_of[patient] for patient in sorted(fold_of)}


def leave_one_out(views: Iterable[tuple[str, str]], folds: int, column: str) -> dict[str, int]:
    """Assign each scanner or centre to a fold of its own, in order of its name: its name -> fold in 0..folds-1.

    `views` yields (patient, scanner or centre) per view; `column` names which. Raises `UserError` where there are not
    `folds` of them, where one is empty, and where a patient has several, whom two folds would share.
    """
    of_patient: dict[str, str] = {}
    for patient, group in views:
        if not group:
            raise UserError(f"a view of patient {patient} has no {column}; fill the manifest's column {column}")
        if of_patient.setdefault(patient, group) != group:
            raise UserError(
                f"patient {patient} has views of {column} {of_patient[patient]} and {group}, so leaving one {column} out would "
                "not leave the patient out; take one of them out of the manifest, or use split_by: patient"
            )
    groups = sorted(set(of_patient.values()))
    if len(groups) != folds:
        raise UserError(f"there are {len(groups)} values of {column} but {folds} folds; set folds: {len(groups)}")
    return {group: fold for fold, group in enumerate(groups)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "index")
    add_outputs(parser, "folds")
    add_parameters(parser, "fold_count seed positive split_by")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the index, assign, write."""
    if arguments.fold_count < 2:
        raise UserError(f"--fold-count {arguments.fold_count}: a cross-validation needs at least 2 folds")
    index = read_rows(arguments.index, "index")
    for row in index:
        if not row["patient_id"] or not row["label"]:
            raise UserError(
                f"{arguments.index}: view {row['view_id']} has no patient or no label; it cannot be put in a fold"
            )
    unit = arguments.split_by if arguments.split_by in GROUPS else f"{arguments.split_by}_id"
    if arguments.split_by in GROUPS:
        views = ((row["patient_id"], row.get(unit, "")) for row in index)
        fold_of = leave_one_out(views, arguments.fold_count, unit)
    else:
        fold_of = assign_folds(
            ((row[unit], row["label"] == arguments.positive) for row in index), arguments.fold_count, arguments.seed,
            arguments.split_by,
        )  # fmt: skip
    in_folds: dict[str, set[int]] = {}
    for row in index:
        in_folds.setdefault(row["patient_id"], set()).add(fold_of[row[unit]])
    for fold in range(arguments.fold_count):
        labels = [row["label"] for row in index if fold_of[row[unit]] == fold]
        patients = sum(fold in folds for folds in in_folds.values())
        positive = labels.count(arguments.positive)
        say(f"fold {fold}: {patients} patients, {len(labels)} views, {positive} of them {arguments.positive}")
    if arguments.split_by == "view":
        split = sum(len(folds) > 1 for folds in in_folds.values())
        say(
            f"{split} of {len(in_folds)} patients have views in several folds: what this study measures includes a leak"
        )
    rows = [{"view_id": row["view_id"], "patient_id": row["patient_id"], "fold": fold_of[row[unit]]} for row in index]
    write_rows(rows, ("view_id", "patient_id", "fold"), arguments.output_folds)


if __name__ == "__main__":
    run(main, parser())
