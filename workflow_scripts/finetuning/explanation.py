"""Grad-CAM++: the pixels that a classifier's decision rests on (Chattopadhay et al. 2018; the paper's figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import stamp
from workflow_scripts.runtime.device import to_numpy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST_MAP = 7
OUTLINE = "#7fd6ff"  # of the parenchyma, on grey and on heat


def explained_stage(backbone: nn.Module, size: int) -> nn.Module:
    """The last stage of a timm network whose map of a view with `size` pixels a side has at least `SMALLEST_MAP` cells a side.

    ResNet: layer4 from 224 pixels on. A coarser map would show a corner of the view and no structure in it; where every
    stage is coarser, it is the first.
    """
    stages = getattr(backbone, "feature_info", None)
    if not stages:
        raise UserError(
            "this backbone names no stages, so Grad-CAM++ has no layer to explain; leave figures.explained empty"
        )
    fine = [stage for stage in stages if size // stage["reduction"] >= SMALLEST_MAP]
    return backbone.get_submodule((fine[-1] if fine else stages[0])["module"])


def heat_maps(model: nn.Module, layer: nn.Module, images: Tensor, target: int, batch_size: int = 32) -> np.ndarray:
    """Grad-CAM++ of one logit.

    `model` maps `images` (N, 3, H, W) to logits; `layer` is the module whose (N, C, h, w) output is explained. Returns
    float32 (N, H, W) in [0, 1], each map scaled to its own range; a map is 0 where no evidence supports the target.
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
    return to_numpy(torch.cat([model(chunk).softmax(dim=1)[:, 1] for chunk in images.split(batch_size)]))


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


@dataclass(frozen=True)
class Explained:
    """One explained view: `images` (2, H, W) clean and with markers, in [0, 1]; `maps` (arms, 2, H, W) and
    `probabilities` (arms, 2) of the positive class; `title` says which view it is; `mask`, bool (H, W), is its parenchyma,
    None where that is unknown."""

    title: str
    images: np.ndarray
    maps: np.ndarray
    probabilities: np.ndarray
    mask: np.ndarray | None = None


def explanation_figure(
    views: Sequence[Explained], arms: Sequence[str], positive: str, summary: Sequence[str], origin: str
) -> Figure:
    """Figure 5: per view two lines, clean and with markers; the image, then one Grad-CAM++ map per arm.

    The map is as opaque as it is hot, so that what lies under a cold part stays visible. `summary`: lines above the views.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    columns = 1 + len(arms)
    height = 2.7 * 2 * len(views) + 0.2 * len(summary) + 0.7
    figure = Figure(figsize=(2.7 * columns + 0.7, height), layout="constrained")
    grid = figure.subplots(2 * len(views), columns, squeeze=False)
    heat = None
    for i, view in enumerate(views):
        for j, condition in enumerate(("clean", "with markers")):
            line = grid[2 * i + j]
            line[0].set_ylabel(f"{view.title}\n{condition}", fontsize=11)
            for axis in line:
                axis.imshow(view.images[j], cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
                if view.mask is not None:
                    axis.contour(view.mask, levels=[0.5], colors=OUTLINE, linewidths=1.2)
            for arm, axis in enumerate(line[1:]):
                own = view.maps[arm, j]
                heat = axis.imshow(own, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * own)
                axis.set_xlabel(f"p({positive}) = {view.probabilities[arm, j]:.2f}", fontsize=10.5)
    for axis, title in zip(grid[0], ("view", *arms), strict=True):
        axis.set_title(title, fontsize=12.5)
    assert heat is not None
    scale = figure.colorbar(ScalarMappable(heat.norm, heat.cmap), ax=grid, fraction=0.02, aspect=30, ticks=[0, 1])
    scale.ax.set_yticklabels(["none", "most of\nthe map"], fontsize=10)
    figure.suptitle(
        f"What speaks for {positive} (Grad-CAM++)\n" + "\n".join(summary), fontsize=11.5, x=0.01, ha="left", wrap=True
    )
    stamp(figure, origin)
    return figure
