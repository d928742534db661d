"""Figures of the label audit, of the trainings and of what the classifiers look at."""

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
# Views flagged in at least 1, 2, … 16 evaluations with three exceedances: the paper's released lists.
RELEASED_VOTES = (464, 393, 345, 305, 288, 276, 242, 217, 197, 185, 166, 149, 132, 122, 98, 72)
RELEASED_VIEWS = 880
# What a training's metrics file may hold: title of the panel, and whether its axis is logarithmic.
CURVES = {
    "loss_con": ("contrastive loss $L_{con}$ (NT-Xent)", False),
    "loss_sup": ("organ loss $L_{sup}$ (cross-entropy)", False),
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


def audit_figure(
    votes: np.ndarray, evaluations: int, wrong: np.ndarray | None, released: bool, headline: Sequence[str], origin: str
) -> Figure:
    """How many views were flagged in at least n of N evaluations.

    `votes` (V,) counts the flags of each view. `wrong`, bool (V,), says where the label is known to be wrong (phantoms
    only) and splits the bars. `released` draws the paper's released counts beside them, if N is the paper's 16.
    `headline` are the lines of the title.
    """
    from matplotlib.figure import Figure

    from workflow_scripts.evaluation.votes import votes_at_least

    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    steps = np.arange(1, evaluations + 1)
    counts = votes_at_least(votes, evaluations)
    beside = released and evaluations == len(RELEASED_VOTES)
    width, shift = (0.4, 0.2) if beside else (0.75, 0.0)
    percent = 100 / len(votes)
    if wrong is None:
        bars = axis.bar(steps - shift, percent * counts, width, color=BLUE, label=f"this study ({len(votes)} views)")
    else:
        hits = votes_at_least(votes[wrong], evaluations)
        label = f"label is wrong ({int(wrong.sum())} of {len(votes)} views)"
        axis.bar(steps - shift, percent * hits, width, color=RED, label=label)
        rest = percent * (counts - hits)
        bars = axis.bar(steps - shift, rest, width, bottom=percent * hits, color=BLUE, label="label is right")
    axis.bar_label(bars, labels=[str(count) for count in counts], fontsize=8, padding=2, color=INK)
    tallest = percent * counts[0]
    if beside:
        shares = 100 / RELEASED_VIEWS * np.array(RELEASED_VOTES)
        paper = axis.bar(steps + shift, shares, width, color=GREY, label=f"the paper ({RELEASED_VIEWS} views)")
        axis.bar_label(paper, labels=[str(count) for count in RELEASED_VOTES], fontsize=8, padding=2, color=GREY)
        tallest = max(tallest, shares[0])
    axis.legend(frameon=False)
    axis.set_xlabel(f"flagged in at least n of {evaluations} evaluations")
    axis.set_ylabel("percent of the views (numbers: views)")
    axis.set_xlim(0.4, evaluations + 0.6)
    axis.set_xticks(steps if evaluations <= 24 else steps[:: evaluations // 12])
    axis.set_ylim(0, 1.12 * max(1.0, tallest))
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("\n".join(headline), loc="left", fontsize=11)
    _stamp(figure, origin)
    return figure


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
    _stamp(figure, origin)
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
    _stamp(figure, origin)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that is the same for the same figure."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})


def _curve(rows: Sequence[Mapping[str, float | None]], key: str) -> np.ndarray:
    """(points, 2): step and value of one metric, where it was measured."""
    points = [(float(row["step"] or 0), float(row[key] or 0)) for row in rows if row.get(key) is not None]
    return np.array(points).reshape(-1, 2)


def _stamp(figure: Figure, origin: str) -> None:
    """Print the origin across a figure whose data are no patients, and once more in its lower left corner."""
    if origin:
        across: dict[str, Any] = {"fontsize": 64, "alpha": 0.13, "rotation": 28, "ha": "center", "va": "center"}
        corner: dict[str, Any] = {"fontsize": 11, "ha": "left", "va": "bottom"}
        for x, y, style in ((0.5, 0.5, across), (0.005, 0.005, corner)):
            figure.text(x, y, origin, color=RED, weight="bold", zorder=10, **style)
