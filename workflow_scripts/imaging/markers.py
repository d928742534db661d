"""Calliper markers as scanners burn them in, drawn on batches (paper, Sec. 4.3).

The paper pastes images of markers; here they are drawn from distance fields, each image with its own, all on the device.
"""

from __future__ import annotations

import numpy as np
import torch

# Four kinds (circles, plus signs, dashes, a dotted line between two plus signs); each may occur twice on an image.
KINDS = 4
REPEATS = 2
# A draw per marker: whether it occurs, two points (x, y), size, brightness.
DRAWS = 7
MARKER_UNIFORMS = KINDS * REPEATS * DRAWS


def draw_markers(images: torch.Tensor, uniforms: torch.Tensor | np.ndarray, probability: float) -> torch.Tensor:
    """Images (N, 1, H, W) in [0, 1] with markers burnt in.

    `uniforms` (N, MARKER_UNIFORMS) in [0, 1) decide everything; row i belongs to image i alone. Each of the two markers of
    each kind occurs with `probability`. Sizes follow the side, so that a marker looks the same at any resolution.
    """
    if probability == 0:
        return images
    count, _, height, width = images.shape
    draws = torch.as_tensor(uniforms, dtype=torch.float32, device=images.device).view(count, KINDS, REPEATS, DRAWS)
    side = float(min(height, width))
    # Pixel centres in shares of the side, so that all lengths below are shares too.
    rows = ((torch.arange(height, device=images.device) + 0.5) / side).view(1, height, 1)
    columns = ((torch.arange(width, device=images.device) + 0.5) / side).view(1, 1, width)
    pixel = 1 / side
    stroke = max(0.6 * pixel, 0.004)  # half the width of a line; at least about a pixel, or it would vanish
    for kind in range(KINDS):
        for repeat in range(REPEATS):
            occurs, x1, y1, x2, y2, scale, bright = (draws[:, kind, repeat, i].view(count, 1, 1) for i in range(DRAWS))
            x1, y1, x2, y2 = (0.1 + 0.8 * value for value in (x1, y1, x2, y2))
            size = 0.02 + 0.02 * scale
            if kind == 0:
                ink = _circle(rows, columns, x1, y1, size, stroke)
            elif kind == 1:
                ink = _plus(rows, columns, x1, y1, size, stroke)
            elif kind == 2:
                ink = _dash(rows, columns, x1, y1, size, stroke)
            else:
                ends = _plus(rows, columns, x1, y1, size, stroke) | _plus(rows, columns, x2, y2, size, stroke)
                ink = ends | _dots(rows, columns, x1, y1, x2, y2, stroke)
            mask = (ink & (occurs < probability)).unsqueeze(1)
            images = torch.where(mask, (0.85 + 0.15 * bright).unsqueeze(1).to(images.dtype), images)
    return images


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
    stroke: float,
) -> torch.Tensor:  # fmt: skip
    """A dotted segment: on along half of every 0.03 of its length."""
    run, rise = x2 - x1, y2 - y1
    length = (run**2 + rise**2).sqrt().clamp_min(1e-6)
    along = ((columns - x1) * run + (rows - y1) * rise) / length
    away = ((columns - x1) * rise - (rows - y1) * run).abs() / length
    return (away <= stroke) & (along >= 0) & (along <= length) & (along.remainder(0.04) < 0.02)
