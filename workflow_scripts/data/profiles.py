"""Crop profiles: which parts of a frame are views (paper, Sec. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from workflow_scripts.core.errors import UserError
from workflow_scripts.data.pixels import LARGEST_PIXELS, Box, Frame

KINDS = ("boxes", "dicom_regions", "auto", "masks", "none")


class View(NamedTuple):
    """A view as it is cut out of a frame."""

    name: str
    pixels: np.ndarray
    """Grey, uint8 (size, size)."""
    coloured: float
    """Share of its pixels that are coloured, 0 to 1: colour Doppler or coloured marks."""
    shape: tuple[int, int]
    """Height and width of its box on the frame, pixels."""


def cut_views(frame: Frame, profile: Mapping[str, Any], size: int, image_id: str) -> list[View]:
    """The views of a frame, in the profile's order; what is not square is letterboxed before it is resized.

    Raises `UserError` as `view_boxes` does, and where a box is so narrow that its square would have more than
    `LARGEST_PIXELS`.
    """
    boxes = view_boxes(frame, profile, image_id)
    for name, (_, _, height, width) in boxes:
        if max(height, width) ** 2 > LARGEST_PIXELS:
            raise UserError(
                f"{image_id}: view {name!r} has {height} rows and {width} columns; made square, that is more than the "
                f"{LARGEST_PIXELS:,} pixels a frame may have"
            )
    return [
        View(name, resize(letterbox(frame.grey(box)), size), frame.coloured_share(box), box[2:]) for name, box in boxes
    ]


def view_boxes(frame: Frame, profile: Mapping[str, Any], image_id: str) -> list[tuple[str, Box]]:
    """Names and boxes of the views of a frame.

    `profile` is an entry of the config's data.crop_profiles. Kind `boxes`: one view per [top, left, height, width].
    `dicom_regions`: one view, `region1` and on, per region that the file marks as a tissue image. `auto`: one view,
    `sonogram1` and on, per sonogram found in a screenshot. `masks`: the box of the frame's mask is the view `marked`.
    `none`: the whole frame is the view `full`. Raises `UserError` where a box is empty or reaches beyond the frame, and
    where there is no region, sonogram or mask.
    """
    height, width = frame.shape
    if profile["kind"] == "none":
        return [("full", (0, 0, height, width))]
    if profile["kind"] == "masks":
        if frame.marked is None:
            raise UserError(f"{image_id}: the crop profile cuts by a mask, and there is none; choose another profile")
        return [("marked", frame.marked)]
    if profile["kind"] == "boxes":
        named = [(name, tuple(box)) for name, box in zip(profile["views"], profile["boxes"], strict=True)]
    elif profile["kind"] == "dicom_regions":
        named = [(f"region{i}", box) for i, box in enumerate(frame.tissue, start=1)]
        if not named:
            raise UserError(
                f"{image_id}: the file marks no region as a tissue image; give its device a crop profile of boxes"
            )
    else:
        from workflow_scripts.data.sonogram import find_sonograms  # SciPy: only where it is needed

        named = [(f"sonogram{i}", box) for i, box in enumerate(find_sonograms(frame.grey()), start=1)]
        if not named:
            raise UserError(f"{image_id}: no sonogram was found in the frame; give its device a crop profile of boxes")
    for name, (top, left, box_height, box_width) in named:
        box = f"the box of view {name!r} (top {top}, left {left}, height {box_height}, width {box_width})"
        if min(box_height, box_width) < 1:
            raise UserError(f"{image_id}: {box} holds no pixel; correct it in data.crop_profiles")
        if min(top, left) < 0 or top + box_height > height or left + box_width > width:
            raise UserError(
                f"{image_id}: {box} reaches beyond the frame of {height} rows and {width} columns; is its device right?"
            )
    return named


def letterbox(image: np.ndarray) -> np.ndarray:
    """The uint8 image (H, W) centred on a black square: texture must not be stretched, and nothing be cut off."""
    height, width = image.shape
    if height == width:
        return image
    side = max(height, width)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (size, size) by Pillow's Lanczos filter, whose support widens when shrinking: speckle does not alias.

    Box averaging would weigh neighbours unevenly at ratios such as 300 to 256, and so print a beat of sharp and
    soft stripes on the speckle, which a generator learns; Lanczos keeps texture best. Its overshoot is clipped.
    """
    if image.shape == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))
