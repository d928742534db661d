"""Folds: no patient is split, both classes everywhere, balance, chance."""

import collections
import random
import subprocess
import sys

import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.data.draw_folds import assign_folds, leave_one_out


def cohort(patients: int, seed: int, share: float = 0.2) -> list[tuple[str, bool]]:
    """The paper's layout: two testicles of two views, the label a testicle's."""
    draw = random.Random(seed)
    views = []
    for i in range(patients):
        for _ in range(2):
            views += [(f"P{i:03d}", draw.random() < share)] * 2
    return views


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_balanced_in_patients_and_in_positive_views(folds: int) -> None:
    for seed in range(20):
        views = cohort(220, seed)
        fold_of = assign_folds(views, folds, seed)
        assert set(fold_of) == {patient for patient, _ in views}
        patients = collections.Counter(fold_of.values())
        positives = collections.Counter(fold_of[patient] for patient, is_positive in views if is_positive)
        assert max(patients.values()) - min(patients.values()) <= 1
        # One patient has four views at most.
        assert max(positives.values()) - min(positives.values()) <= 4


def test_every_fold_has_both_classes_when_it_is_just_possible() -> None:
    views = [(f"p{i}", True) for i in range(3)] + [(f"n{i}", False) for i in range(3)] + [("p0", False)]
    for seed in range(20):
        fold_of = assign_folds(views, 3, seed)
        for is_positive in (True, False):
            assert {fold_of[patient] for patient, value in views if value == is_positive} == {0, 1, 2}


def test_too_few_patients_of_a_class_are_refused_with_the_numbers() -> None:
    views = [(f"n{i}", False) for i in range(10)] + [("p0", True), ("p1", True)]
    with pytest.raises(UserError, match=r"at least 3 patients with positive labels.*12 labelled patients only 2"):
        assign_folds(views, 3, 0)
    with pytest.raises(UserError, match="negative"):
        assign_folds([(patient, not value) for patient, value in views], 3, 0)


def test_the_seed_decides_and_the_order_of_rows_does_not() -> None:
    views = cohort(60, 1)
    shuffled = random.Random(5).sample(views, len(views))
    assert assign_folds(views, 3, 7) == assign_folds(shuffled, 3, 7)
    assert assign_folds(views, 3, 7) != assign_folds(views, 3, 8)
    # No fold is always the one with the most positives.
    first = {assign_folds([*views, ("rich", True)], 3, seed)["rich"] for seed in range(20)}
    assert first == {0, 1, 2}


def test_each_scanner_is_left_out_once() -> None:
    views = [("p1", "Mindray"), ("p2", "Esaote"), ("p1", "Mindray"), ("p3", "GE")]
    assert leave_one_out(views, 3, "scanner") == {"Esaote": 0, "GE": 1, "Mindray": 2}
    with pytest.raises(UserError, match="3 values of scanner but 2 folds; set folds: 3"):
        leave_one_out(views, 2, "scanner")
    with pytest.raises(UserError, match="patient p1 has views of scanner Mindray and GE"):
        leave_one_out([*views, ("p1", "GE")], 3, "scanner")
    with pytest.raises(UserError, match="a view of patient p4 has no centre"):
        leave_one_out([*views, ("p4", "")], 3, "centre")


def test_stage(tmp_path) -> None:
    labels = ["pos" if i % 3 else "neg" for i in range(12)]
    rows = [
        {"view_id": f"{i}#{view}", "patient_id": f"{i:03d}", "label": label}
        for i, label in enumerate(labels)
        for view in "ab"
    ]
    write_rows(rows, list(rows[0]), tmp_path / "index.csv")
    command = [
        sys.executable, "-m", "workflow_scripts.data.draw_folds", "--index", tmp_path / "index.csv",
        "--fold-count", "3",
        "--seed", "0", "--positive", "pos", "--output-folds", tmp_path / "folds.csv",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    folds = read_rows(tmp_path / "folds.csv")
    assert [(row["view_id"], row["patient_id"]) for row in folds] == [
        (row["view_id"], row["patient_id"]) for row in rows
    ]
    assert collections.Counter(row["fold"] for row in folds) == {"0": 8, "1": 8, "2": 8}
    assert all(first["fold"] == second["fold"] for first, second in zip(folds[::2], folds[1::2], strict=True))

    told = subprocess.run([*command, "--split-by", "view"], check=True, capture_output=True, text=True).stderr
    folds = read_rows(tmp_path / "folds.csv")
    assert collections.Counter(row["fold"] for row in folds) == {"0": 8, "1": 8, "2": 8}
    split = sum(first["fold"] != second["fold"] for first, second in zip(folds[::2], folds[1::2], strict=True))
    assert split > 3
    assert f"{split} of 12 patients have views in several folds" in told

    rows = [{**row, "centre": f"C{int(row['patient_id']) // 4}"} for row in rows]
    write_rows(rows, list(rows[0]), tmp_path / "index.csv")
    subprocess.run([*command, "--split-by", "centre"], check=True, capture_output=True)
    assert [int(row["fold"]) for row in read_rows(tmp_path / "folds.csv")] == [int(row["centre"][1]) for row in rows]

    command[command.index("3")] = "5"
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "only 4 have any" in failed.stderr
