"""Which views belong to the same organ, and which real views the stages of the synthetic set may use."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv

if TYPE_CHECKING:
    import pandas as pd


def numbered_organ_sides(index: pd.DataFrame) -> pd.Series:
    """A number per organ side, aligned with `index`: a patient's side where the side is known, else the frame.

    All views of an organ side show one organ, so they have one true label. `index` is that of a view store (patient_id,
    side, image_id).
    """
    import pandas as pd

    names = [
        f"{patient}\0{side}" if side else image
        for patient, side, image in zip(index["patient_id"], index["side"], index["image_id"], strict=True)
    ]
    return pd.Series(pd.factorize(np.array(names, dtype=object))[0], index=index.index)


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
        held_out = _belong(patients, read_csv(holdout, "holdout")["patient_id"], holdout)
    left_out = np.zeros(len(index), dtype=bool)
    if folds is not None:
        table = read_csv(folds, "folds")
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
