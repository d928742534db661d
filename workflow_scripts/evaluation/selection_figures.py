"""What the snapshots of the generator measure, over its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from workflow_scripts.evaluation.figures import stamp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "fid": ("Fréchet distance to held-out views", {"fid": ""}),
    "manifold": ("precision and recall, held-out views", {"precision": "precision", "recall": "recall"}),
    "loss": ("denoising loss", {"held_out_loss": "held-out patients", "training_loss": "training patients"}),
    "copies": ("share of near-copies", {"copies": "generated", "control": "held-out views, no copies"}),
}


def selection_figure(rows: Sequence[Mapping[str, float]], chosen: int, reason: str, origin: str) -> Figure:
    """The snapshots' measures over the training, with a line at the chosen one."""
    from matplotlib.figure import Figure

    ordered = sorted(rows, key=lambda row: row["step"])
    steps = [row["step"] for row in ordered]
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    for axis, (name, (title, curves)) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for key, label in curves.items():
            axis.plot(steps, [row[key] for row in ordered], "o-", markersize=4, linewidth=1.5, label=label)
        if name == "copies":
            band = [[row["copies"] - row[f"excess_{end}"] for row in ordered] for end in ("high", "low")]
            axis.fill_between(steps, *band, alpha=0.15, linewidth=0)
        if len(curves) > 1:
            axis.legend(frameon=False, fontsize=9)
        axis.axvline(chosen, color="black", linewidth=1, linestyle="--")
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.suptitle(f"Used: step {chosen}, {reason}", fontsize=11)
    stamp(figure, origin)
    return figure
