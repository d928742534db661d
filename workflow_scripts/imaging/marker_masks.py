"""Calliper markers that scanners burnt into views, found by their shape and blacked out (paper, Sec. 4.1).

A network that is to recognise an image by its texture would otherwise recognise it by its callipers.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch.nn import functional as F

from workflow_scripts.imaging.markers import LARGEST, SMALLEST, _ink

# Circles and plus signs of these radii, in shares of the side; dashes and dots are too common in speckle.
SHAPES = (0, 1)
RADII = tuple(SMALLEST + (LARGEST - SMALLEST) * step / 3 for step in range(4))
# Correlation of a marker with its template, and how much its ink is brighter than what it lies on.
CORRELATION, CONTRAST = 0.5, 0.2
# On smaller views a marker has too few pixels to be told from speckle.
SMALLEST_SIDE = 96


def mask_markers(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 1, H, W) in [0, 1] with squares of black on the circles and plus signs found in them.

    Views smaller than `SMALLEST_SIDE` stay as they are. An image's result does not depend on the others in the batch.
    """
    side = min(images.shape[-2:])
    if side < SMALLEST_SIDE:
        return images
    found = torch.zeros_like(images, dtype=torch.bool)
    for templates in _templates(side):
        ink = templates.to(images)
        width = ink.shape[-1]
        # Edges are replicated: a dark frame of zeros would look like contrast.
        padded = F.pad(images, (width // 2,) * 4, mode="replicate")
        mean, square = (_box_mean(values, width) for values in (padded, padded.square()))
        area = ink.sum(dim=(1, 2), keepdim=True)
        brighter = F.conv2d(padded, (ink / area)[:, None]) - mean
        share = area / width**2
        # Of pixels and ink: the covariance is share * brighter, the ink's variance share (1 - share).
        deviation = (square - mean.square()).clamp_min(1e-6).sqrt()
        correlation = brighter * (share / (1 - share)).sqrt() / deviation
        is_marker = (correlation > CORRELATION) & (brighter / (1 - share) > CONTRAST)
        hits = is_marker.any(dim=1, keepdim=True).to(images.dtype)
        for kernel in ((width, 1), (1, width)):
            hits = F.max_pool2d(hits, kernel, stride=1, padding=(kernel[0] // 2, kernel[1] // 2))
        found |= hits > 0
    return images.masked_fill(found, 0.0)


def _box_mean(values: torch.Tensor, width: int) -> torch.Tensor:
    """Means over all squares of that width inside the images."""
    return F.avg_pool2d(F.avg_pool2d(values, (width, 1), stride=1), (1, width), stride=1)


@cache
def _templates(side: int) -> tuple[torch.Tensor, ...]:
    """For each radius the ink of every shape (shapes, w, w), w odd: 1 on the marker, 0 beside it."""
    stroke = max(0.6 / side, 0.004)
    templates = []
    for radius in RADII:
        half = math.ceil((radius + stroke) * side) + 1
        place = torch.arange(-half, half + 1) / side
        centre = (torch.zeros(1, 1),) * 4
        rows, columns = place.view(-1, 1), place.view(1, -1)
        shapes = [_ink(kind, rows, columns, centre, torch.tensor(radius), stroke).float() for kind in SHAPES]
        templates.append(torch.stack(shapes))
    return tuple(templates)
