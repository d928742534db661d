"""Figures of the synthetic set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT, DISCARDED, REAL = "#1a9641", "#d7191c", "#4d4d4d"
SHOWN = 48  # views on the contact sheet
# Points drawn per set: more only hide each other.
MAX_POINTS = 1500


def principal_axes(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and the two principal axes (2, D) of features (N, D), each axis' largest entry positive; float64."""
    mean = features.mean(axis=0, dtype=np.float64)
    axes = np.linalg.svd(features - mean, full_matrices=False)[2][:2]
    if len(axes) < 2:
        axes = np.vstack([axes, np.zeros((2 - len(axes), features.shape[1]))])
    largest = np.abs(axes).argmax(axis=1)
    signs = np.where(axes[np.arange(2), largest] < 0, -1.0, 1.0)
    return mean, axes * signs[:, None]


def evenly_of(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `rows`: a deterministic, evenly spaced subset with both ends."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]


def filter_figure(
    views: np.ndarray, inside: np.ndarray, real: np.ndarray, synthetic: np.ndarray, curve: pd.DataFrame
) -> Figure:
    """Contact sheet of kept and discarded views (numbered as in the whole set), projected features, filter curve.

    `views` uint8 (M, S, S) are synthetic, with features `synthetic` (M, D) and the filter's answers `inside` bool (M,).
    """
    from matplotlib.figure import Figure

    kept, discarded = np.flatnonzero(inside), np.flatnonzero(~inside)
    # Half and half where both exist, so that the discarded ones can be judged too; the title gives the true shares.
    shown_discarded = min(len(discarded), max(SHOWN // 2, SHOWN - len(kept)))
    shown_kept = min(len(kept), SHOWN - shown_discarded)
    shown = [(row, KEPT) for row in evenly_of(kept, shown_kept)]
    shown += [(row, DISCARDED) for row in evenly_of(discarded, shown_discarded)]
    columns = min(8, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(16, max(6.0, 1.15 * lines + 1.2)), layout="constrained")
    figure.suptitle(
        f"Manifold filter: {len(kept)} of {len(inside)} synthetic views kept ({len(kept) / len(inside):.1%})"
    )
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.15, 1])[0]
    left.suptitle(
        f"{shown_kept} kept (green) and {shown_discarded} discarded (red) views, numbered as generated", fontsize=10
    )
    grid = left.subplots(lines, columns, squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for axis, (row, colour) in zip(grid.flat, shown, strict=False):
        draw_view(axis, views[row], colour)
        axis.set_title(str(row), fontsize=7, pad=2, color=colour)
    axis, below = right.subplots(2, 1, height_ratios=[2, 1])
    mean, axes = principal_axes(real)
    for features, label, colour, marker in (
        (synthetic[evenly_of(discarded, MAX_POINTS)], f"discarded ({len(discarded)})", DISCARDED, "x"),
        (synthetic[evenly_of(kept, MAX_POINTS)], f"kept ({len(kept)})", KEPT, "o"),
        (real[evenly_of(np.arange(len(real)), MAX_POINTS)], f"real ({len(real)})", REAL, "."),
    ):
        if len(features):
            axis.scatter(
                *((features - mean) @ axes.T).T, s=14, c=colour, marker=marker, alpha=0.6, linewidths=0.7, label=label
            )
    axis.set_xlabel("first principal component of the real features")
    axis.set_ylabel("second principal component")
    axis.legend(loc="best", fontsize=9)
    _curve(below, curve)
    return figure


def _curve(axis: Axes, curve: pd.DataFrame) -> None:
    by_k = curve[curve["rule"] == "neighbours"]
    axis.plot(by_k["k"], 100 * by_k["share"], "o-", color=KEPT, label="kept")
    if by_k["held_out_share"].notna().any():
        axis.plot(by_k["k"], 100 * by_k["held_out_share"], "s--", color=REAL, label="kept of held-out real views")
    for name, colour in (("precision", "#2c7bb6"), ("recall", "#e08214")):
        axis.plot(by_k["k"], 100 * by_k[name], ".:", color=colour, label=f"{name} of what is kept")
    axis.set_xscale("log")
    axis.set_xticks(by_k["k"], [str(k) for k in by_k["k"]])
    axis.minorticks_off()
    axis.set(ylim=(0, 103), xlabel="k (neighbour that sets a ball's radius)", ylabel="%")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, frameon=False, borderaxespad=0)


def draw_view(axis: Axes, view: np.ndarray, colour: str) -> None:
    """Show a view in a coloured frame."""
    axis.axis("on")
    axis.imshow(view, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=2.5)
