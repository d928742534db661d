"""A contact sheet of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from workflow_scripts.files import atomic_path

BAND = 12  # pixels above the sheet for the stamp


def contact_sheet(images: np.ndarray, origin: str) -> np.ndarray:
    """uint8 (H, W) of images (N, S, S), in lines of about sqrt(N); `origin` (PHANTOM) is printed above them."""
    columns = int(np.ceil(np.sqrt(len(images))))
    lines = -(-len(images) // columns)
    padded = np.zeros((lines * columns, *images.shape[1:]), dtype=np.uint8)
    padded[: len(images)] = images
    side = images.shape[1]
    sheet = padded.reshape(lines, columns, side, side).swapaxes(1, 2).reshape(lines * side, columns * side)
    if not origin:
        return sheet
    band = Image.new("L", (sheet.shape[1], BAND))
    ImageDraw.Draw(band).text((2, 0), origin, fill=255)
    return np.concatenate([np.asarray(band), sheet])


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write uint8 (H, W) as PNG."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
