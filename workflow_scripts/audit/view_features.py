"""What is measured on a view for the shortcut audit: exposure, and what the scanner has written over the tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.audit.shortcuts import MARKERS
from workflow_scripts.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

# Black borders and shadows are at most this bright.
BLACK = 8
# What a scanner writes, letters and callipers, has upright strokes: bright along this length, and by so many grey levels
# darker within this width. Interfaces of tissue lie across the beam. Pixels at a side of 256.
STROKE, STANDS_OUT = 5, 90
# The outer share of a view on each side: text is there, callipers are inside.
RIM = 0.15
BATCH = 32


def view_features(view: np.ndarray, height: int, width: int) -> dict[str, float]:
    """Exposure and overlay of one uint8 view (S, S), cut from a box of `height` x `width` pixels and letterboxed."""
    from scipy.ndimage import grey_opening, laplace

    side = len(view)
    rows, columns = (max(1, round(side * length / max(height, width))) for length in (height, width))
    top, left = (side - rows) // 2, (side - columns) // 2
    shown = view[top : top + rows, left : left + columns]
    bright = shown[shown > BLACK].astype(np.float64)
    if not len(bright):
        bright = np.zeros(1)
    stroke = max(3, round(STROKE * side / 256))
    levels = shown.astype(np.int16)
    written = grey_opening(levels, (stroke, 1)) - grey_opening(levels, (1, stroke)) >= STANDS_OUT
    rim = np.ones(shown.shape, bool)
    rim[round(RIM * rows) : rows - round(RIM * rows), round(RIM * columns) : columns - round(RIM * columns)] = False
    return {
        "brightness": bright.mean(),
        "black": float((shown <= BLACK).mean()),
        "contrast": bright.std(),
        "sharpness": np.log1p(laplace(shown.astype(np.float64)).std()),
        "inside": np.log1p(written[~rim].sum()),
        "rim": np.log1p(written[rim].sum()),
    }


def marker_features(views: np.ndarray) -> np.ndarray:
    """How much each of uint8 views (N, S, S) resembles each of `MARKERS` at its most similar place, in [0, 1]: (N, 2)."""
    import torch

    from workflow_scripts.networks.markers import closest_to_markers

    batches = (np.array(views[start : start + BATCH, None]) for start in range(0, len(views), BATCH))
    return torch.cat([closest_to_markers(torch.from_numpy(batch).float() / 255) for batch in batches]).numpy()


def measure_views(views: np.ndarray, index: pd.DataFrame) -> pd.DataFrame:
    """Exposure, overlay and markers of each of `views` uint8 (N, S, S) with their `index`, a row per view."""
    import pandas as pd

    if "height" not in index:
        raise UserError("the index of the views has no columns height and width; crop the views again")
    boxes = zip(views, index["height"].tolist(), index["width"].tolist(), strict=True)
    measured = pd.DataFrame([view_features(view, height, width) for view, height, width in boxes])
    measured[list(MARKERS)] = marker_features(views)
    return measured
