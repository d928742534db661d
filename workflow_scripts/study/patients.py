"""Which real views a stage of the synthetic set may look at."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv

if TYPE_CHECKING:
    import argparse

    import pandas as pd
import pandas as pd


# FOLDED
# The organ that a view shows: its views share one truth, however they are labelled.
def numbered_organ_sides(index: pd.DataFrame) -> pd.Series:
    """A number per organ side, aligned with `index`: a patient's side where the side is known, else the frame.

    `index` is that of a view store (patient_id, side, image_id).
    """
    names = [
        f"{patient}\0{side}" if side else image
        for patient, side, image in zip(index["patient_id"], index["side"], index["image_id"], strict=True)
    ]
    return pd.Series(pd.factorize(np.array(names, dtype=object))[0], index=index.index)


def add_reference(parser: argparse.ArgumentParser, holdout_required: bool = False) -> None:
    """Add the flags that say which patients the generator never saw and which are left out altogether."""
    parser.add_argument(
        "--holdout",
        type=Path,
        required=holdout_required,
        help="CSV of the patients kept from the generator (patient_id)",
    )
    parser.add_argument(
        "--folds", type=Path, nargs="?", help="CSV of the folds (view_id, patient_id, fold), with --exclude-fold"
    )
    parser.add_argument("--exclude-fold", type=int, help="leave this fold's patients out of everything")


def real_masks(
    index: pd.DataFrame, holdout: Path | None, folds: Path | None, exclude_fold: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """bool (N,) of the views the generator learnt from, and of the views of its held-out patients.

    Views of the excluded fold are in neither. Raises `UserError` where the files do not belong together.
    """
    if (folds is None) != (exclude_fold is None):
        raise UserError("--folds and --exclude-fold belong together: give both or neither")
    patients = index["patient_id"].to_numpy()
    held_out = np.zeros(len(index), dtype=bool)
    if holdout is not None:
        held_out = _belong(patients, read_csv(holdout)["patient_id"], holdout)
    left_out = np.zeros(len(index), dtype=bool)
    if folds is not None:
        table = read_csv(folds)
        if exclude_fold not in set(table["fold"]):
            raise UserError(f"{folds} has no fold {exclude_fold}; it has {sorted(set(table['fold']))}")
        left_out = _belong(patients, table.loc[table["fold"] == exclude_fold, "patient_id"], folds)
    return ~held_out & ~left_out, held_out & ~left_out


def _belong(patients: np.ndarray, wanted: Collection[str], source: Path) -> np.ndarray:
    unknown = sorted(set(wanted) - set(patients))
    if unknown:
        raise UserError(
            f"{source} names {len(unknown)} patients without labelled views, for example {unknown[0]!r}: it was made "
            "from other views. Make it again"
        )
    return np.isin(patients, list(wanted))


def check_rows(counts: dict[str, int]) -> None:
    """Raise `UserError` unless all the named artefacts describe the same number of views."""
    if len(set(counts.values())) > 1:
        raise UserError(
            "these files must describe the same views but hold different numbers of rows: "
            + ", ".join(f"{name} {count}" for name, count in counts.items())
            + ". Make them again from one view store"
        )
