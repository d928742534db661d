"""Draw what the snapshots of the diffusion training run measure over its steps, and which of them is used.

    python -m workflow_scripts.privacy.draw_selection --measures diffusion/monitor.csv --select best \\
        --output-figure figures/selection.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from workflow_scripts.core.figures import save, stamp
from workflow_scripts.privacy.selection import choose, read_measures
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PANELS = {
    "fid": ("Fréchet distance to held-out views", {"fid": ""}),
    "manifold": ("precision and recall, held-out views", {"precision": "precision", "recall": "recall"}),
    "loss": ("denoising loss", {"held_out_loss": "held-out patients", "training_loss": "training patients"}),
    "copies": ("share of near-copies", {"copies": "synthetic views", "control": "held-out views, no copies"}),
}


def selection_figure(rows: Sequence[Mapping[str, float]], chosen: int, reason: str) -> Figure:
    """The snapshots' measures over the training run, with a line at the chosen one."""
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
    return figure


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "measures")
    add_outputs(parser, "figure")
    add_parameters(parser, "select origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, choose, draw."""
    rows = read_measures(arguments.measures)
    figure = selection_figure(rows, *choose(rows, arguments.select))
    stamp(figure, arguments.origin)
    save(figure, arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
