"""Crop profiles: which parts of a frame are views (paper, Sec. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from workflow_scripts.errors import UserError

FULL_VIEW = "full"


def cut_views(frame: np.ndarray, profile: Mapping[str, Any], size: int, image_id: str) -> list[tuple[str, np.ndarray]]:
    """The views of a frame (height, width) uint8: names and uint8 (size, size) arrays, in the profile's order.

    `profile` is an entry of the config's data.crop_profiles. Kind `boxes`: one view per [top, left, height, width].
    Kind `none`: the whole frame is the view `full`. What is not square is letterboxed before it is resized. Raises
    `UserError` when a box is empty or reaches beyond the frame.
    """
    if profile["kind"] == "none":
        return [(FULL_VIEW, resize(letterbox(frame), size))]
    height, width = frame.shape
    views = []
    for name, (top, left, box_height, box_width) in zip(profile["views"], profile["boxes"], strict=True):
        box = f"the box of view {name!r} (top {top}, left {left}, height {box_height}, width {box_width})"
        if min(box_height, box_width) < 1:
            raise UserError(f"{image_id}: {box} holds no pixel; correct it in data.crop_profiles")
        if min(top, left) < 0 or top + box_height > height or left + box_width > width:
            raise UserError(
                f"{image_id}: {box} reaches beyond the frame of {height} rows and {width} columns; is its device right?"
            )
        views.append((name, resize(letterbox(frame[top : top + box_height, left : left + box_width]), size)))
    return views


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
