"""Feature sets that can be compared at all: finite, of one width, and not one view over and over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_npy


def read_features(*paths: Path) -> list[np.ndarray]:
    """The features of these files, (N, D) each, memory-mapped; `UserError` unless they are finite and of one width."""
    sets = {str(path): read_npy(path) for path in paths}
    for name, features in sets.items():
        extent(features, name)
    require_one_width(sets)
    return list(sets.values())


def extent(features: np.ndarray, name: str) -> float:
    """The largest absolute feature of a set (N, D); `UserError` where the set is empty or holds NaN or infinity."""
    if features.ndim != 2 or not features.size or features.dtype.kind not in "fiu":
        raise UserError(
            f"{name}: expected features (views, width) of at least one view, got shape {features.shape} of {features.dtype}"
        )
    # Block by block: a set may be a memory map, and its largest comes from the cache once its smallest is read.
    blocks = [features[start : start + 64] for start in range(0, len(features), 64)]
    largest = float(np.max([(abs(block.min()), abs(block.max())) for block in blocks]))
    if not math.isfinite(largest):
        bad = ~np.isfinite(features).all(axis=1)
        raise UserError(
            f"{name}: {int(bad.sum())} of {len(features)} rows hold NaN or infinity, the first is row "
            f"{int(bad.argmax())}; embed the views again"
        )
    return largest


def require_one_width(sets: Mapping[str, np.ndarray]) -> None:
    """Raise `UserError` unless all the named sets (N, D) have as many features per view."""
    if len({features.shape[1] for features in sets.values()}) > 1:
        widths = ", ".join(f"{name} {features.shape[1]}" for name, features in sets.items())
        raise UserError(f"features per view: {widths}; all must come from the same network. Embed the views again")


def require_comparable(sets: Mapping[str, np.ndarray]) -> None:
    """Raise one `UserError` for all that forbids to compare the named sets: NaN, unlike widths, no variance at all.

    Where all views of a set have the same features, no radius could be anything but 0.
    """
    problems = []
    for name, features in sets.items():
        try:
            extent(features, name)
        except UserError as error:
            problems.append(str(error))
            continue
        if len(features) > 1 and not np.ptp(features, axis=0).any():
            problems.append(
                f"{name}: all {len(features)} views have the same {features.shape[1]} features (zero variance): the views"
                " are copies of one image, or the embedding network answers alike to all; look at them and at the network"
            )
    try:
        require_one_width({name: features for name, features in sets.items() if features.ndim == 2})
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
