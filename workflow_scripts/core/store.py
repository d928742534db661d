"""Views as every stage reads them: a store of pixels and the index that describes it, checked once and in one way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_npy

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class ViewStore:
    """Square grey views, `pixels` uint8 (N, side, side), and their `index`, one row per view in the same order.

    The pixels are memory-mapped, read as they are needed. `select` gives the chosen views alone.
    """

    def __init__(self, pixels: np.ndarray, index: pd.DataFrame, source: Path) -> None:
        self.pixels = pixels
        self.index = index
        self.source = source

    @classmethod
    def open(cls, views: Path, index: Path) -> ViewStore:
        """The views of a store (.npy) with their index (.csv).

        Raises `UserError` where a file is missing, where the store does not hold square uint8 views or holds none, and
        where the two files do not describe the same number of views.
        """
        pixels = open_pixels(views)
        if not index.is_file():
            raise UserError(f"{index} does not exist; {views} needs its index. Make them again together")
        table = read_csv(index, "index")
        check_rows({str(views): len(pixels), str(index): len(table)})
        return cls(pixels, table, views)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def side(self) -> int:
        """Side of the views in pixels."""
        return int(self.pixels.shape[1])

    @property
    def patients(self) -> np.ndarray:
        """Patient id of each view, (N,)."""
        return self.index["patient_id"].to_numpy()

    def select(self, mask: np.ndarray) -> ViewStore:
        """The views where `mask`, bool (N,), holds, in their order; their pixels are copied into memory."""
        return ViewStore(self.pixels[mask], self.index[mask].reset_index(drop=True), self.source)


def open_pixels(views: Path) -> np.ndarray:
    """The pixels of a store without its index, uint8 (N, side, side), memory-mapped and read-only.

    Raises `UserError` where the file is missing, does not hold square uint8 views, or holds none.
    """
    if not views.is_file():
        raise UserError(f"{views} does not exist; crop or sample the views first")
    pixels = read_npy(views)
    if pixels.dtype != "uint8" or pixels.ndim != 3 or pixels.shape[1] != pixels.shape[2] or not len(pixels):
        raise UserError(
            f"{views} is not a view store: expected square views, uint8 (N, side, side), got {pixels.dtype} {pixels.shape}"
        )
    return pixels


def check_rows(counts: dict[str, int]) -> None:
    """Raise `UserError` unless all the named artefacts describe the same number of views."""
    if len(set(counts.values())) > 1:
        raise UserError(
            "these files must describe the same views but hold different numbers of rows: "
            + ", ".join(f"{name} {count}" for name, count in counts.items())
            + ". Make them again from one view store"
        )
