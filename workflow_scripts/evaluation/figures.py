"""Figures of the trainings and of what the classifiers look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_scripts.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, BLUE, RED, GREY = "#1c2430", "#3b6fb6", "#c8452f", "#9aa5b1"
# What a training's metrics file may hold: title of the panel, and whether its axis is logarithmic.
CURVES = {
    "loss_con": ("contrastive loss $L_{con}$ (NT-Xent)", False),
    "loss_sup": ("organ loss $L_{sup}$ (cross-entropy)", False),
    "alignment": ("alignment of pairs (0 good)", False),
    "uniformity": ("uniformity (0 collapsed)", False),
    "knn_organ": ("organ by nearest neighbours (balanced accuracy)", False),
    "knn_label": ("label by nearest neighbours, a monitor only", False),
    "embedding_std": ("spread of the embeddings (1 even, 0 collapsed)", False),
    "mse": ("diffusion: squared error of the noise", True),
    "vb": ("diffusion: variational bound term", True),
}
# Curves with more points than this are smoothed for the eye; the raw points stay behind them.
_SMOOTH_ABOVE = 60


@dataclass(frozen=True)
class Explained:
    """One explained view: `images` (2, H, W) clean and with markers, in [0, 1]; `maps` (arms, 2, H, W) and
    `probabilities` (arms, 2) of the positive class; `title` says which view it is."""

    title: str
    images: np.ndarray
    maps: np.ndarray
    probabilities: np.ndarray


def training_figure(runs: Mapping[str, Sequence[Mapping[str, float | None]]], origin: str) -> Figure:
    """The curves of `CURVES` that the trainings' metrics hold, a panel each; `runs` maps names to metrics' rows."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    curves = {key: {name: curve for name, rows in runs.items() if len(curve := _curve(rows, key))} for key in CURVES}
    curves = {key: found for key, found in curves.items() if found}
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(5.4 * columns, 3.9 * lines + 0.7), layout="constrained")
    palette = colormaps["tab10" if len(runs) <= 10 else "tab20"]
    colours = {name: palette(i % palette.N) for i, name in enumerate(runs)}
    grid = figure.subplots(lines, columns, squeeze=False)
    for axis in grid.flat[len(curves) :]:
        axis.axis("off")
    handles = {}
    for axis, (key, found) in zip(grid.flat, curves.items(), strict=False):
        title, logarithmic = CURVES[key]
        for name, curve in found.items():
            step, value = curve.T
            if len(value) > _SMOOTH_ABOVE:
                axis.plot(step, value, color=colours[name], alpha=0.18, linewidth=0.8)
                window = max(3, len(value) // 40)
                step, value = (np.convolve(x, np.ones(window) / window, mode="valid") for x in (step, value))
            (handles[name],) = axis.plot(step, value, color=colours[name], linewidth=1.6, label=name)
        if logarithmic and all((curve[:, 1] > 0).all() for curve in found.values()):
            axis.set_yscale("log")
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(6, len(handles)), frameon=False
    )
    stamp(figure, origin)
    return figure


def explanation_figure(
    views: Sequence[Explained], arms: Sequence[str], positive: str, summary: str, origin: str
) -> Figure:
    """Figure 5: per view two lines, clean and with markers; the image, then one Grad-CAM++ map per arm."""
    from matplotlib.figure import Figure

    columns = 1 + len(arms)
    figure = Figure(figsize=(2.7 * columns, 2.95 * 2 * len(views) + 0.9), layout="constrained")
    grid = figure.subplots(2 * len(views), columns, squeeze=False)
    for i, view in enumerate(views):
        for j, condition in enumerate(("clean", "with markers")):
            line = grid[2 * i + j]
            line[0].set_ylabel(f"{view.title}\n{condition}", fontsize=9)
            for axis in line:
                axis.imshow(view.images[j], cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            for arm, axis in enumerate(line[1:]):
                axis.imshow(view.maps[arm, j], cmap="inferno", vmin=0, vmax=1, alpha=0.55)
                axis.set_xlabel(f"p({positive}) = {view.probabilities[arm, j]:.2f}", fontsize=8)
    for axis, title in zip(grid[0], ("view", *arms), strict=True):
        axis.set_title(title, fontsize=11)
    figure.suptitle(f"What speaks for {positive} (Grad-CAM++)\n{summary}", fontsize=10)
    stamp(figure, origin)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that is the same for the same figure."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})


def _curve(rows: Sequence[Mapping[str, float | None]], key: str) -> np.ndarray:
    """(points, 2): step and value of one metric, where it was measured."""
    points = [(float(row["step"] or 0), float(row[key] or 0)) for row in rows if row.get(key) is not None]
    return np.array(points).reshape(-1, 2)


def stamp(figure: Figure, origin: str) -> None:
    """Print the origin across a figure whose data are no patients, and once more in its lower left corner."""
    if origin:
        across: dict[str, Any] = {"fontsize": 64, "alpha": 0.13, "rotation": 28, "ha": "center", "va": "center"}
        corner: dict[str, Any] = {"fontsize": 11, "ha": "left", "va": "bottom"}
        for x, y, style in ((0.5, 0.5, across), (0.005, 0.005, corner)):
            figure.text(x, y, origin, color=RED, weight="bold", zorder=10, **style)
