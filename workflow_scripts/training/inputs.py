"""What fine-tuning and the audit are given: tables that must agree, views that must fit them, weights per fold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def join_tables(
    index: pd.DataFrame,
    folds: pd.DataFrame,
    labels: pd.DataFrame | None,
    classes: Sequence[str],
    sources: Sequence[str],
) -> pd.DataFrame:
    """One row per view, in the order of `index`: view_id, patient_id, fold, label_original, label_policy, keep.

    `index` (view_id, patient_id, label), `folds` (view_id, patient_id, fold), `labels` (view_id, label, keep) or None for the
    original labels; `sources` are their three names for messages. Raises `UserError` where they do not agree, where a
    label is none of `classes`, and where a fold would train on one class only.
    """
    index_file, folds_file, labels_file = sources
    _require_columns(index, ("view_id", "patient_id", "label"), index_file)
    _require_columns(folds, ("view_id", "patient_id", "fold"), folds_file)
    _require_unique(index, "view_id", index_file)
    # A view listed twice could be in two folds, trained on in one and tested in the other.
    _require_unique(folds, "view_id", folds_file)
    _require_same(index["view_id"], folds["view_id"], "views", index_file, folds_file)
    if labels is None:
        labels, labels_file = index[["view_id", "label"]].assign(keep=1), index_file
    _require_columns(labels, ("view_id", "label", "keep"), labels_file)
    _require_unique(labels, "view_id", labels_file)
    _require_same(index["view_id"], labels["view_id"], "views", index_file, labels_file)
    for table, file in ((index, index_file), (labels, labels_file)):
        wrong = table.loc[~table["label"].isin(list(classes))]
        if len(wrong):
            row = wrong.iloc[0]
            raise UserError(
                f"{file}: {len(wrong)} views have a label other than {' and '.join(classes)}, "
                f"for example {row['view_id']}: {row['label']!r}"
            )
    if not labels["keep"].isin([0, 1]).all():
        raise UserError(f"{labels_file}: column keep must be 0 or 1 everywhere")

    labels = labels.set_index("view_id").loc[index["view_id"]]
    joined = index[["view_id", "patient_id"]].assign(
        fold=folds.set_index("view_id")["fold"].loc[index["view_id"]].to_numpy(),
        label_original=index["label"].to_numpy(),
        label_policy=labels["label"].to_numpy(),
        keep=labels["keep"].to_numpy(),
    )
    _require_both_classes(joined, classes)
    return joined


def load_views(path: Path, count: int, index: Path) -> np.ndarray:
    """The views, uint8 (N, H, H), memory-mapped; raises `UserError` unless there are `count`, as `index` has."""
    from workflow_scripts.files import read_npy

    views = read_npy(path)
    if views.dtype != np.uint8 or views.ndim != 3 or views.shape[1] != views.shape[2]:
        raise UserError(f"{path} holds {views.dtype} {views.shape}; expected square views, uint8 (N, size, size)")
    if len(views) != count:
        raise UserError(f"{path} has {len(views)} views, but {index} describes {count}; crop the views again")
    return views


def weights_by_fold(weights: Sequence[Path], folds: Sequence[int], layout: str) -> dict[int, Path | None]:
    """The file each fold starts from: none for scratch, one for all folds, or one per fold in order."""
    if len(weights) not in (0, 1, len(folds)):
        raise UserError(f"--weights names {len(weights)} files for {len(folds)} folds; give none, one, or one per fold")
    if not weights and layout != "scratch":
        raise UserError(f"--layout {layout} needs --weights; only scratch starts without a file")
    files: list[Path | None] = list(weights) if len(weights) == len(folds) else [*weights, None][:1] * len(folds)
    return dict(zip(folds, files, strict=True))


def _require_columns(table: pd.DataFrame, columns: Iterable[str], file: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{file} lacks the columns {', '.join(missing)}")


def _require_unique(table: pd.DataFrame, column: str, file: str) -> None:
    repeated = table.loc[table[column].duplicated(), column]
    if len(repeated):
        raise UserError(f"{file}: {column} {repeated.iloc[0]} has more than one row")


def _require_same(first: pd.Series, second: pd.Series, what: str, first_file: str, second_file: str) -> None:
    for here, there, missing in (
        (first_file, second_file, set(first) - set(second)),
        (second_file, first_file, set(second) - set(first)),
    ):
        if missing:
            raise UserError(
                f"{len(missing)} {what} of {here} are not in {there}, for example {min(missing)!r}; "
                "one of the two is out of date"
            )


def _require_both_classes(joined: pd.DataFrame, classes: Sequence[str]) -> None:
    folds = sorted(joined["fold"].unique())
    if len(folds) < 2:
        raise UserError(f"all {len(joined)} views are in one fold; cross-validation needs at least two")
    for fold in folds:
        part = joined.loc[(joined["fold"] != fold) & (joined["keep"] == 1), "label_policy"]
        counts = [int((part == name).sum()) for name in classes]
        if 0 in counts:
            told = " and ".join(f"{count} {name}" for count, name in zip(counts, classes, strict=True))
            raise UserError(
                f"the model of fold {fold} would train on {told} views; it needs both classes. "
                "Use fewer folds, label more patients, or look at what the label policy leaves"
            )
