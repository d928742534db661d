"""Training sets with synthetic views: which of them the model of a fold learns, and with which labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.randomness import philox
from workflow_scripts.core.store import ViewStore


@dataclass(frozen=True)
class SyntheticViews:
    """Synthetic views that the model of one fold learns: `pixels` uint8 (M, side, side), `targets` int64 (M,), 0 or 1."""

    pixels: np.ndarray
    targets: np.ndarray


def synthetic_stores(
    views: Sequence[Path], index: Sequence[Path], folds: Sequence[int], side: int
) -> dict[int, ViewStore]:
    """The synthetic views of each fold: one store for all folds, or one per fold in their order.

    With one per fold, the generator of a fold saw none of its test patients. `side` is that of the real views in pixels.
    """
    if len(views) not in (1, len(folds)) or len(index) != len(views):
        raise UserError(
            f"--synthetic-views and --synthetic-index name {len(views)} and {len(index)} files for {len(folds)} folds; give one "
            "of each, or one of each per fold"
        )
    stores = [ViewStore.open(*pair) for pair in zip(views, index, strict=True)]
    for store in stores:
        if store.side != side:
            raise UserError(
                f"{store.source} holds views of {store.side} pixels, the real ones have {side}; sample them again"
            )
    return dict(zip(folds, stores if len(stores) == len(folds) else stores * len(folds), strict=True))


def asked_targets(store: ViewStore, classes: Sequence[str]) -> np.ndarray:
    """The class that each synthetic view was asked for, int64 (N,): 1 for the positive one."""
    labels = store.index["label"].fillna("")
    if len(wrong := sorted(set(labels) - set(classes))):
        raise UserError(
            f"{store.source}: synthetic views of the class {wrong[0]!r}, expected {' or '.join(classes)}; sample them from a "
            "generator that is conditioned on these classes (diffusion.class_conditional)"
        )
    return (labels == classes[1]).to_numpy(np.int64)


def draw_synthetic(
    targets: np.ndarray, real: np.ndarray, percent: int, seed: int, fold: int, source: Path
) -> np.ndarray:
    """Rows of the synthetic views that the model of a fold learns, int64 (M,), negative ones first.

    `targets` (N,) are the classes of the synthetic views, 0 or 1, and `real` those of the fold's real training views, -1
    where a view is not learnt. Of each class, `percent` of the number of real views, rounded up. Those of a smaller
    percentage are among those of a larger one. Raises `UserError` where `source`, the store, has too few.
    """
    chosen = []
    for target in (0, 1):
        rows, count = np.flatnonzero(targets == target), -(-int((real == target).sum()) * percent // 100)
        if count > len(rows):
            raise UserError(
                f"{source}: {percent} % of the real training views of fold {fold} are {count} of class {target}, and there are "
                f"{len(rows)} synthetic ones; raise synthesis.images, or lower synthetic_percent"
            )
        chosen.append(philox(seed, f"fold{fold}/synthetic{target}").permutation(rows)[:count])
    return np.concatenate(chosen)


def shuffled(targets: np.ndarray, seed: int, fold: int) -> np.ndarray:
    """`targets` (M,) in random order: the control from which nothing can be learnt."""
    return philox(seed, f"fold{fold}/synthetic_labels").permutation(targets)


def appended(
    real: dict[int, np.ndarray], added: dict[int, SyntheticViews]
) -> tuple[np.ndarray, dict[int, np.ndarray], np.ndarray]:
    """The synthetic views of all folds in one array behind the real ones, and what each model learns.

    `real`: targets of the real views by fold, int64 (N,). Returns the synthetic pixels uint8 (M, side, side), the targets
    int64 (N + M,), -1 for the synthetic views of other folds, and the fold of each synthetic view, -1: none tests it.
    """
    counts = {fold: len(views.targets) for fold, views in added.items()}
    targets = {}
    for fold, learnt in real.items():
        own = [views.targets if other == fold else np.full(counts[other], -1) for other, views in added.items()]
        targets[fold] = np.concatenate([learnt, *own])
        if len(set(targets[fold][targets[fold] >= 0])) < 2:
            raise UserError(
                f"the model of fold {fold} would train on one class only; raise real_percent or synthetic_percent"
            )
    pixels = np.concatenate([views.pixels for views in added.values()])
    return pixels, targets, np.full(len(pixels), -1)
