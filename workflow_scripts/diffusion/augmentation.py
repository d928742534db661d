"""Augmentation that does not leak into what is sampled, for few views (EDM, Karras et al. 2022, appendix F.2).

Some views are scaled, rotated a little, stretched or shifted, and the network is conditioned on what was done. The label of
an untouched view is zero. The label projection has no bias, so a zero label leaves the time embedding unchanged: the trained
U-Net, without the projection, samples untouched views. This is the geometric part of EDM's pipeline, without vertical
flips, since shadows point away from the probe.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from workflow_scripts.core.randomness import normals, uniforms
from workflow_scripts.networks.geometry import affine_matrices, warp
from workflow_scripts.runtime.device import rows_where

# EDM's probability for small data sets, and its standard deviations; EDM rotates by any angle, this by a few degrees.
PROBABILITY = 0.15
LOG2_SCALE, DEGREES, LOG2_STRETCH, SHIFT_SIDES = 0.2, 5.0, 0.2, 0.125
LABELS = 5


def draw_labels(seed: int, step: int, places: range, probability: float = PROBABILITY) -> Tensor:
    """float32 (B, 5): scale, turn, stretch, shift right and down of some places of a step's batch; mostly zero.

    In units of their spreads, each kind drawn with `probability`. A row depends on (seed, step, place) alone.
    """
    happens = uniforms(seed, "augmentation", step, places, LABELS - 1) < probability
    values = normals(seed, "augmentation by", step, places, (LABELS,))
    return torch.from_numpy(values * happens[:, [0, 1, 2, 3, 3]])


def transform(images: Tensor, labels: Tensor) -> Tensor:
    """Images (B, 1, S, S) as their labels (B, 5) say, mirrored beyond their edges; those of label zero stay as they are.

    The labels are on the CPU, the images on any device.
    """
    touched = (labels != 0).any(dim=1)
    scale, turn, stretch, right, down = labels[touched].T
    width = torch.exp2(-LOG2_SCALE * scale - LOG2_STRETCH * stretch)
    height = torch.exp2(-LOG2_SCALE * scale + LOG2_STRETCH * stretch)
    shift = 2 * SHIFT_SIDES  # a side is 2 long
    theta = affine_matrices(DEGREES * turn, width, height, -shift * right, -shift * down, torch.zeros_like(scale))
    result, rows = images.clone(), rows_where(touched.numpy(), images.device)
    result[rows] = warp(images[rows], theta, padding="reflection")
    return result


class AugmentationConditionedUNet(torch.nn.Module):
    """A U-Net whose time embedding is conditioned on an augmentation label during training."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet
        self.label_projection = torch.nn.Linear(LABELS, unet.time_embedding.linear_2.out_features, bias=False)
        torch.nn.init.zeros_(self.label_projection.weight)
        self._labels: Tensor | None = None
        # UNet2DModel has no argument for such a label; with a hook its weights and their names stay those of a plain one.
        unet.time_embedding.register_forward_hook(self._add)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None, labels: Tensor) -> Any:
        """The U-Net's output for augmentation labels (B, 5)."""
        self._labels = labels
        try:
            return self.unet(x, t, class_labels=class_labels)
        finally:
            self._labels = None

    def _add(self, _module: torch.nn.Module, _inputs: tuple[Any, ...], embedding: Tensor) -> Tensor:
        if self._labels is None:
            return embedding
        return embedding + self.label_projection(self._labels).to(embedding.dtype)
