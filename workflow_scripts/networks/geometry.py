"""Affine warps of a batch, each image with parameters of its own, composed in one resampling."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from workflow_scripts.runtime.device import to_device

Array = np.ndarray | Tensor


def affine_matrices(
    angle: Array, scale_x: Array, scale_y: Array, shift_x: Array, shift_y: Array, flip: Array
) -> Tensor:
    """Maps from output to input coordinates, float32 (N, 2, 3): mirror, then scale, then turn, then shift.

    Coordinates run from -1 (left, top edge) to 1 (right, bottom edge) of a square image. All arguments are (N,),
    arrays or tensors of one device.
    `angle` in degrees turns the content counter-clockwise; `flip` (true or non-zero) mirrors left and right; the output
    shows a window of `scale_x` x `scale_y` times the input's sides (below 1 magnifies) centred at (`shift_x`,
    `shift_y`), so a positive shift moves the content left and up, 2 being a whole side.
    """
    columns = [torch.as_tensor(value).to(torch.float32) for value in (angle, scale_x, scale_y, shift_x, shift_y)]
    turn, width, height, right, down = columns
    width = torch.where(torch.as_tensor(flip) != 0, -width, width)
    turn = torch.deg2rad(turn)
    cosine, sine = turn.cos(), turn.sin()
    first = torch.stack([cosine * width, -sine * height, right], dim=-1)
    second = torch.stack([sine * width, cosine * height, down], dim=-1)
    return torch.stack([first, second], dim=-2)


def warp(images: Tensor, theta: Tensor, padding: str = "zeros") -> Tensor:
    """Resample each image bilinearly: output (N, C, H, W) shows at x what the input shows at theta x.

    `images` (N, C, H, W) float with H = W, `theta` (N, 2, 3) as from `affine_matrices`, on any device. `padding` says
    what lies outside: `zeros`, `border` or `reflection`. An image's result does not depend on the others in the batch.
    """
    if theta.device != images.device:
        theta = to_device(theta, images.device)
    theta = theta.to(images.dtype)
    rows, columns = (
        (2 * torch.arange(side, device=images.device, dtype=images.dtype) + 1) / side - 1 for side in images.shape[-2:]
    )
    # Not F.affine_grid: that is a matrix product, which TF32 rounds to 11 bits, an eighth of a pixel at 256 pixels.
    # What varies along rows and what varies down columns are small; their sum is the one pass over all pixels.
    across = theta[:, :, 0, None] * columns
    down = theta[:, :, 1, None] * rows + theta[:, :, 2, None]
    grid = (across[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)
