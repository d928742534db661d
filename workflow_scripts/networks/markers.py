"""Calliper markers as scanners burn them in, drawn on batches (paper, Sec. 4.3).

The paper pastes images of markers; here they are drawn from distance fields, each image with its own, all on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch.nn import functional as F

from workflow_scripts.runtime.device import to_device

# Four kinds (circles, plus signs, dashes, a dotted line between two plus signs); each may occur twice on an image.
KINDS = 4
LINE = 3
REPEATS = 2
# Period and length of the dots of a line, in shares of the side.
DOTS = (0.04, 0.02)
# Radius of a circle, arm of a plus, half of a dash, in shares of the side.
SMALLEST, LARGEST = 0.02, 0.04
# A draw per marker: whether it occurs, two points (x, y), size, brightness.
DRAWS = 7
MARKER_UNIFORMS = KINDS * REPEATS * DRAWS


def draw_markers(images: torch.Tensor, uniforms: np.ndarray, probability: float) -> torch.Tensor:
    """Images (N, 1, H, W) in [0, 1] with markers burnt in.

    `uniforms` (N, MARKER_UNIFORMS) in [0, 1) decide everything; row i belongs to image i alone. Each of the two markers of
    each kind occurs with `probability`. Sizes follow the side, so that a marker looks the same at any resolution.
    """
    if probability == 0:
        return images
    images = images.clone()
    draws = uniforms.reshape(len(images), KINDS, REPEATS, DRAWS)
    for kind in range(KINDS):
        for repeat in range(REPEATS):
            drawn = np.flatnonzero(draws[:, kind, repeat, 0] < probability)
            burn_in(images, kind, drawn, draws[drawn, kind, repeat, 1:])
    return images


def burn_in(
    images: torch.Tensor, kind: int, drawn: np.ndarray, draws: np.ndarray, dots: tuple[float, float] = DOTS
) -> None:
    """Burn a marker of a kind into each of the images (N, 1, H, W) whose numbers are `drawn` (n,), in place.

    `draws` (n, DRAWS - 1) in [0, 1): two points (x, y), size, brightness; `dots`: period and length of a line's dots.
    """
    if not len(drawn):
        return
    height, width = images.shape[-2:]
    side = min(height, width)
    stroke = max(0.6 / side, 0.004)  # half the width of a line; at least about a pixel, or it would vanish
    reach = LARGEST + stroke + 1 / side
    # A small marker is drawn within a window around it: whole images would cost a hundred times the arithmetic.
    window = (height, width) if kind == LINE else (min(math.ceil(2 * reach * side) + 1, side),) * 2
    points = [0.1 + 0.8 * draws[:, i] for i in range(4)]
    corner = [
        np.clip(np.floor((middle - reach) * side), 0, length - part).astype(np.int64)
        for middle, length, part in zip(points[1::-1], (height, width), window, strict=True)
    ]
    x1, y1, x2, y2, scale, bright = to_device(np.stack([*points, *draws[:, 4:].T]), images.device)[..., None, None]
    image, top, left = to_device(np.stack([drawn, *corner]), images.device)[..., None, None]
    row = top + torch.arange(window[0], device=images.device).view(1, -1, 1)
    column = left + torch.arange(window[1], device=images.device).view(1, 1, -1)
    # Pixel centres in shares of the side, so that all lengths are shares too.
    places = (row + 0.5) / side, (column + 0.5) / side
    ink = _ink(kind, *places, (x1, y1, x2, y2), SMALLEST * (1 + scale), stroke, dots)
    here = images[image, 0, row, column]
    images[image, 0, row, column] = torch.where(ink, (0.85 + 0.15 * bright).to(images.dtype), here)


def _ink(
    kind: int,
    rows: torch.Tensor,
    columns: torch.Tensor,
    ends: tuple[torch.Tensor, ...],
    size: torch.Tensor,
    stroke: float,
    dots: tuple[float, float] = DOTS,
) -> torch.Tensor:
    x1, y1, x2, y2 = ends
    if kind == 0:
        return _circle(rows, columns, x1, y1, size, stroke)
    if kind == 1:
        return _plus(rows, columns, x1, y1, size, stroke)
    if kind == 2:
        return _dash(rows, columns, x1, y1, size, stroke)
    crosses = _plus(rows, columns, x1, y1, size, stroke) | _plus(rows, columns, x2, y2, size, stroke)
    return crosses | _dots(rows, columns, x1, y1, x2, y2, stroke, dots)


def _circle(
    rows: torch.Tensor, columns: torch.Tensor, x: torch.Tensor, y: torch.Tensor, size: torch.Tensor, stroke: float
) -> torch.Tensor:
    distance = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
    return (distance - size).abs() <= stroke


def _plus(
    rows: torch.Tensor, columns: torch.Tensor, x: torch.Tensor, y: torch.Tensor, size: torch.Tensor, stroke: float
) -> torch.Tensor:
    down, across = (rows - y).abs(), (columns - x).abs()
    return ((down <= stroke) & (across <= size)) | ((across <= stroke) & (down <= size))


def _dash(
    rows: torch.Tensor, columns: torch.Tensor, x: torch.Tensor, y: torch.Tensor, size: torch.Tensor, stroke: float
) -> torch.Tensor:
    return ((rows - y).abs() <= stroke) & ((columns - x).abs() <= size)


def _dots(
    rows: torch.Tensor, columns: torch.Tensor, x1: torch.Tensor, y1: torch.Tensor, x2: torch.Tensor, y2: torch.Tensor,
    stroke: float, dots: tuple[float, float],
) -> torch.Tensor:  # fmt: skip
    """A dotted segment; `dots`: period and length of its dots."""
    run, rise = x2 - x1, y2 - y1
    length = (run**2 + rise**2).sqrt().clamp_min(1e-6)
    along = ((columns - x1) * run + (rows - y1) * rise) / length
    away = ((columns - x1) * rise - (rows - y1) * run).abs() / length
    return (away <= stroke) & (along >= 0) & (along <= length) & (along.remainder(dots[0]) < dots[1])


# Markers that scanners burnt into views are found by their shape and blacked out (paper, Sec. 4.1); otherwise a network
# that is to recognise an image by its texture could recognise it by its callipers.
# Circles and plus signs of these radii, in shares of the side; dashes and dots are too common in speckle.
SHAPES = (0, 1)
RADII = tuple(SMALLEST + (LARGEST - SMALLEST) * step / 3 for step in range(4))
# Correlation of a marker with its template, and how much its ink is brighter than what it lies on.
CORRELATION, CONTRAST = 0.5, 0.2
# On smaller views a marker has too few pixels to be distinguished from speckle.
SMALLEST_SIDE = 96


def mask_markers(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 1, H, W) in [0, 1] with squares of black on the circles and plus signs found in them.

    Views smaller than `SMALLEST_SIDE` stay as they are. An image's result does not depend on the others in the batch.
    """
    side = min(images.shape[-2:])
    if side < SMALLEST_SIDE:
        return images
    found = torch.zeros_like(images, dtype=torch.bool)
    for width, correlation, contrast in _matches(images):
        is_marker = (correlation > CORRELATION) & (contrast > CONTRAST)
        hits = is_marker.any(dim=1, keepdim=True).to(images.dtype)
        for kernel in ((width, 1), (1, width)):
            hits = F.max_pool2d(hits, kernel, stride=1, padding=(kernel[0] // 2, kernel[1] // 2))
        found |= hits > 0
    return images.masked_fill(found, 0.0)


def closest_to_markers(images: torch.Tensor) -> torch.Tensor:
    """How much the most similar place of each image (N, 1, H, W) in [0, 1] resembles each of `SHAPES`: (N, shapes).

    The largest correlation with a template where the ink is bright enough; 0 where it is nowhere, and on images smaller than
    `SMALLEST_SIDE`.
    """
    closest = images.new_zeros(len(images), len(SHAPES))
    if min(images.shape[-2:]) < SMALLEST_SIDE:
        return closest
    for _, correlation, contrast in _matches(images):
        closest = torch.maximum(closest, correlation.masked_fill(contrast <= CONTRAST, 0.0).amax(dim=(2, 3)))
    return closest


def _matches(images: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """For each radius the templates' width, and correlation and contrast (N, shapes, H, W) of every place with them."""
    for ink in _templates(min(images.shape[-2:]), images.device, images.dtype):
        width = ink.shape[-1]
        # Edges are replicated: a dark frame of zeros would look like contrast.
        padded = F.pad(images, (width // 2,) * 4, mode="replicate")
        mean, square = (_box_mean(values, width) for values in (padded, padded.square()))
        area = ink.sum(dim=(1, 2), keepdim=True)
        brighter = F.conv2d(padded, (ink / area)[:, None]) - mean
        share = area / width**2
        # Of pixels and ink: the covariance is share * brighter, the ink's variance share (1 - share).
        deviation = (square - mean.square()).clamp_min(1e-6).sqrt()
        yield width, brighter * (share / (1 - share)).sqrt() / deviation, brighter / (1 - share)


def _box_mean(values: torch.Tensor, width: int) -> torch.Tensor:
    """Means over all squares of that width inside the images."""
    return F.avg_pool2d(F.avg_pool2d(values, (width, 1), stride=1), (1, width), stride=1)


@cache
def _templates(side: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """For each radius the ink of every shape (shapes, w, w), w odd: 1 on the marker, 0 elsewhere."""
    stroke = max(0.6 / side, 0.004)
    templates = []
    for radius in RADII:
        half = math.ceil((radius + stroke) * side) + 1
        place = torch.arange(-half, half + 1) / side
        centre = (torch.zeros(1, 1),) * 4
        rows, columns = place.view(-1, 1), place.view(1, -1)
        shapes = [_ink(kind, rows, columns, centre, torch.tensor(radius), stroke).float() for kind in SHAPES]
        templates.append(to_device(torch.stack(shapes).to(dtype), device))
    return tuple(templates)
