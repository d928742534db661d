"""The augmentation with which the released code fine-tunes, drawn for each image (its own draws some numbers per batch).

In this order: 25 of 300 pixels cut off the left, off the right (p 0.25 each), what is left being stretched to the whole
side; horizontal flip; up to four circles and up to four plus signs (p 0.3 each); three dotted lines between two plus signs
with a dot every 30 pixels (p 0.3 each); a shift down by 0 to 59 pixels (p 0.2), black coming in at the top. It pastes
images of markers; here they are drawn.
"""

from __future__ import annotations

import numpy as np
import torch

from workflow_scripts.networks.geometry import affine_matrices, warp
from workflow_scripts.networks.markers import DRAWS, LINE, burn_in

SIDE = 300  # pixels of the released code's views when it augments them
CUT, CUT_PROBABILITY = 25 / SIDE, 0.25
SHIFT_STEPS, SHIFT_PROBABILITY = 60, 0.2
MARKER_PROBABILITY = 0.3
CIRCLE, PLUS = 0, 1
MOST_MARKERS, LINES = 4, 3
DOTS = (30 / SIDE, 3 / SIDE)
# Per image: cuts, flip and shift; how many of each small marker and where; lines.
GEOMETRY, PLACE = 5, DRAWS - 1
SMALL = 3 + MOST_MARKERS * PLACE
UNIFORMS = GEOMETRY + 2 * SMALL + LINES * DRAWS


def augment_as_released(images: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
    """Images float (N, 1, H, W) in [0, 1], augmented; image i depends on draws[i] alone, float32 (N, UNIFORMS) in [0, 1)."""
    left, right, flip, occurs, amount = draws[:, :GEOMETRY].T
    cut_left, cut_right = (CUT * (draw < CUT_PROBABILITY) for draw in (left, right))
    still, whole = np.zeros_like(left), np.ones_like(left)
    # The side is 2 long in these coordinates; a window moved right by half of what the left loses more than the right.
    theta = affine_matrices(still, whole - cut_left - cut_right, whole, cut_left - cut_right, still, flip < 0.5)
    images = warp(images, theta, padding="border")

    for kind, first in ((CIRCLE, GEOMETRY), (PLUS, GEOMETRY + SMALL)):
        own = draws[:, first : first + SMALL]
        # As many as a number below another one that is 1 to 5.
        count = np.floor(own[:, 1] * (1 + np.floor(own[:, 2] * (MOST_MARKERS + 1))))
        for number in range(MOST_MARKERS):
            drawn = np.flatnonzero((own[:, 0] < MARKER_PROBABILITY) & (number < count))
            burn_in(images, kind, drawn, own[drawn, 3 + number * PLACE : 3 + (number + 1) * PLACE])
    for first in range(GEOMETRY + 2 * SMALL, UNIFORMS, DRAWS):
        drawn = np.flatnonzero(draws[:, first] < MARKER_PROBABILITY)
        burn_in(images, LINE, drawn, draws[drawn, first + 1 : first + DRAWS], DOTS)

    down = np.where(occurs < SHIFT_PROBABILITY, np.floor(amount * SHIFT_STEPS) / SIDE, 0)
    return warp(images, affine_matrices(still, whole, whole, still, -2 * down, still))
