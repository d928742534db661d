"""Where in a view a classifier finds its evidence: Grad-CAM++ (Chattopadhay et al. 2018; the paper's figure 5)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from workflow_scripts.errors import UserError


def last_stage(backbone: nn.Module) -> nn.Module:
    """The module of a timm network that gives its last feature maps (ResNet: layer4)."""
    stages = getattr(backbone, "feature_info", None)
    if not stages:
        raise UserError(
            "this backbone names no stages, so Grad-CAM++ has no layer to look at; leave figures.explained empty"
        )
    return backbone.get_submodule(stages[-1]["module"])


def heat_maps(model: nn.Module, layer: nn.Module, images: Tensor, target: int, batch_size: int = 32) -> np.ndarray:
    """Grad-CAM++ of one logit.

    `model` maps `images` (N, 3, H, W) to logits; `layer` is the module whose (N, C, h, w) output is explained. Returns
    float32 (N, H, W) in [0, 1], each map scaled to its own range; a map is 0 where nothing speaks for the target.
    """
    from pytorch_grad_cam import GradCAMPlusPlus
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model.eval()
    with GradCAMPlusPlus(model, [layer]) as cam:
        parts = [
            cam(input_tensor=chunk, targets=[ClassifierOutputTarget(target)] * len(chunk))
            for chunk in images.split(batch_size)
        ]
    return np.concatenate(parts)


@torch.inference_mode()
def positive_probability(model: nn.Module, images: Tensor, batch_size: int = 64) -> np.ndarray:
    """Probability of the second class, float32 (N,), of a classifier with two logits."""
    model.eval()
    return torch.cat([model(chunk).softmax(dim=1)[:, 1] for chunk in images.split(batch_size)]).cpu().numpy()


def heat_share(maps: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share of each map's heat within `mask`: maps (N, H, W) >= 0, mask bool (N, H, W) -> (N,); NaN without heat."""
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    within = np.where(mask, maps, 0).sum(axis=(1, 2), dtype=np.float64)
    return np.divide(within, total, out=np.full(len(maps), np.nan), where=total > 0)


def spread_over_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of `count` views, alternating between the labels (sorted, last first) and evenly spaced within each."""
    groups = [np.flatnonzero(labels == label) for label in sorted(set(labels), reverse=True)]
    wanted = [len(range(i, count, len(groups))) for i in range(len(groups))]
    picked = [
        group[np.linspace(0, len(group) - 1, min(n, len(group))).astype(int)]
        for group, n in zip(groups, wanted, strict=True)
    ]
    longest = max((len(group) for group in picked), default=0)
    return np.array([group[i] for i in range(longest) for group in picked if i < len(group)], dtype=np.int64)
