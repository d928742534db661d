"""The inputs of fine-tuning and the audit: tables that must agree, targets and weights by fold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.randomness import philox


def join_tables(
    index: pd.DataFrame,
    folds: pd.DataFrame,
    labels: pd.DataFrame | None,
    classes: Sequence[str],
    sources: Sequence[str],
) -> pd.DataFrame:
    """One row per view, in the order of `index`: view_id, patient_id, fold, label_original, label_policy, keep.

    `index` (view_id, patient_id, label), `folds` (view_id, patient_id, fold), `labels` (view_id, label, keep) or None
    for the original labels. Labels that differ by fold have a column `fold` and one row per view and
    fold; a view is then scored by the row of its own fold. `sources` are the three names for messages. Raises
    `UserError` where the tables do not agree, where a label is not one of `classes`, and where a fold would train on one
    class only.
    """
    index_file, folds_file, labels_file = sources
    _require_columns(index, ("view_id", "patient_id", "label"), index_file)
    _require_columns(folds, ("view_id", "patient_id", "fold"), folds_file)
    _require_unique(index, "view_id", index_file)
    # A view listed twice could be in two folds, trained on in one and tested in the other.
    _require_unique(folds, "view_id", folds_file)
    _require_same(index["view_id"], folds["view_id"], "views", index_file, folds_file)
    joined = index[["view_id", "patient_id"]].assign(
        fold=folds.set_index("view_id")["fold"].loc[index["view_id"]].to_numpy(),
        label_original=index["label"].to_numpy(),
    )
    if labels is None:
        labels, labels_file = index[["view_id", "label"]].assign(keep=1), index_file
    _require_columns(labels, ("view_id", "label", "keep"), labels_file)
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
    by_fold = _labels_by_fold(joined, labels, index_file, labels_file)
    _require_both_classes(joined, by_fold, classes)

    own = pd.concat([part.loc[joined.loc[joined["fold"] == fold, "view_id"]] for fold, part in by_fold.items()])
    own = own.loc[index["view_id"]]
    return joined.assign(label_policy=own["label"].to_numpy(), keep=own["keep"].to_numpy())


def training_targets(joined: pd.DataFrame, labels: pd.DataFrame | None, positive: str) -> dict[int, np.ndarray]:
    """What the model of each fold learns, int64 (N,): 1 for the positive class, 0 for the negative, -1 for views left out.

    `joined` as `join_tables` gave it for these `labels`. Views of the fold itself are left out too.
    """
    if labels is None:
        labels = joined[["view_id"]].assign(label=joined["label_original"], keep=1)
    targets = {}
    for fold, part in _labels_by_fold(joined, labels, "", "").items():
        learnt = (part["keep"].to_numpy() == 1) & (joined["fold"].to_numpy() != fold)
        targets[fold] = np.where(learnt, (part["label"] == positive).to_numpy(np.int64), -1)
    return targets


def fewer_patients(
    targets: Mapping[int, np.ndarray], patients: Sequence[str], percent: int, seed: int
) -> dict[int, np.ndarray]:
    """`training_targets` with `percent` of the patients that a fold trains on; the views of the others are left out (-1).

    `patients` (N,) are the views'. Drawn by fold and seed, separately among patients with a positive view and the others,
    rounded up; those of a smaller percentage are among those of a larger one.
    """
    if not 1 <= percent <= 100:
        raise UserError(f"--training-percent {percent}: 1 to 100 percent of the training patients can be learnt from")
    names, fewer = np.asarray(patients), {}
    for fold, learnt in targets.items():
        positive = sorted(set(names[learnt == 1]))
        chosen: list[str] = []
        for group in (positive, sorted(set(names[learnt == 0]) - set(positive))):
            order = philox(seed, f"fold{fold}/training_patients").permutation(len(group))
            chosen += [group[i] for i in order[: -(-len(group) * percent // 100)]]
        fewer[fold] = np.where(np.isin(names, chosen), learnt, -1)
    return fewer


def _labels_by_fold(
    joined: pd.DataFrame, labels: pd.DataFrame, index_file: str, labels_file: str
) -> dict[int, pd.DataFrame]:
    """For each fold, label and keep of every view, in the order of `joined` and by its view ids."""
    by_fold = {}
    for fold in sorted(joined["fold"].unique().tolist()):
        part = labels[labels["fold"] == fold] if "fold" in labels else labels
        _require_unique(part, "view_id", labels_file)
        _require_same(joined["view_id"], part["view_id"], "views", index_file, labels_file)
        by_fold[fold] = part.set_index("view_id")[["label", "keep"]].loc[joined["view_id"]]
    return by_fold


def weights_by_fold(weights: Sequence[Path], folds: Sequence[int], layout: str) -> dict[int, Path | None]:
    """The file each fold starts from: none for scratch, one for all folds, or one per fold in order."""
    if len(weights) not in (0, 1, len(folds)):
        raise UserError(f"--weights names {len(weights)} files for {len(folds)} folds; give none, one, or one per fold")
    if not weights and not layout.startswith("scratch"):
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


def _require_both_classes(joined: pd.DataFrame, by_fold: Mapping[int, pd.DataFrame], classes: Sequence[str]) -> None:
    if len(by_fold) < 2:
        raise UserError(f"all {len(joined)} views are in one fold; cross-validation needs at least two")
    for fold, labels in by_fold.items():
        part = labels.loc[(joined["fold"].to_numpy() != fold) & (labels["keep"].to_numpy() == 1), "label"]
        counts = [int((part == name).sum()) for name in classes]
        if 0 in counts:
            learnt = " and ".join(f"{count} {name}" for count, name in zip(counts, classes, strict=True))
            raise UserError(
                f"the model of fold {fold} would train on {learnt} views; it needs both classes. "
                "Use fewer folds, label more patients, or look at what the label policy leaves"
            )
