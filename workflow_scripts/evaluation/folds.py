"""Cross-validation folds that never split a patient (paper, Sec. 4.3)."""

from __future__ import annotations

import random
from collections.abc import Iterable

from workflow_scripts.errors import UserError


def assign_folds(views: Iterable[tuple[str, bool]], folds: int, seed: int, unit: str = "patient") -> dict[str, int]:
    """Deal patients to folds, stratified by the share of their views that is positive.

    `views` yields one (patient, is the view positive) per view; where views themselves are dealt (`unit` names that in
    messages), each is its own patient. Patients are shuffled, sorted by their share of
    positive views (then by their number of views) and dealt out in turn. So folds differ by at most one patient, every
    fold has patients with positive and with negative views, and positive views differ by at most one patient's.
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
    # The fold that is dealt to first gets the richest patients; let chance say which one it is.
    turn = list(range(folds))
    draw.shuffle(turn)
    fold_of = {patient: turn[i % folds] for i, patient in enumerate(order)}
    return {patient: fold_of[patient] for patient in sorted(fold_of)}
