"""The organ that a view shows: its views share one truth, however they are labelled."""

from __future__ import annotations

import numpy as np
import pandas as pd


def numbered_testicles(index: pd.DataFrame) -> pd.Series:
    """A number per testicle, aligned with `index`: a patient's side where the side is known, else the frame.

    `index` is that of a view store (patient_id, side, image_id).
    """
    names = [
        f"{patient}\0{side}" if side else image
        for patient, side, image in zip(index["patient_id"], index["side"], index["image_id"], strict=True)
    ]
    return pd.Series(pd.factorize(np.array(names, dtype=object))[0], index=index.index)
