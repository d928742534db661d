"""Draw a table of fine-tuning as a forest plot: each row's difference of accuracy to the reference, with its interval.

    python -m workflow_scripts.tables.draw_forest --numbers tables/table2.csv --table table2 \\
        --output-figure figures/forest_table2.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workflow_scripts.core.figures import BLUE, GREY, INK, RED, save, stamp
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.tables import p_value
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables import tables
from workflow_scripts.tables.forest import Mark, accuracy_text, axis_label, extent, marks, share_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = 0.36  # inches per row


def forest_figure(shown: Sequence[Mark], title: str, has_shared_labels: bool, origin: str) -> Figure:
    """The names and accuracies left, the intervals in the middle, their numbers right; baselines grey."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(10.5, LINE * len(shown) + 1.75), layout="constrained")
    axis = figure.subplots()
    edge = extent(shown)
    axis.axvline(0, color=INK, linewidth=1, zorder=1)
    for line, mark in enumerate(shown):
        colour = GREY if mark.is_baseline else BLUE
        if line % 2:
            axis.axhspan(line - 0.5, line + 0.5, color=INK, alpha=0.035, linewidth=0)
        if not math.isnan(mark.low):
            axis.plot([max(mark.low, -edge), min(mark.high, edge)], [line, line], color=colour, linewidth=2.2)
            for end, arrow in ((mark.low, "<"), (mark.high, ">")):
                if abs(end) > edge:  # the interval goes on beyond the axis
                    axis.plot(math.copysign(edge, end), line, arrow, color=colour, markersize=6, clip_on=False)
        axis.plot(mark.difference, line, "D" if mark.is_reference else "s", color=INK if mark.is_reference else colour)
        if not math.isnan(mark.paper) and not mark.is_reference:
            axis.plot(mark.paper, line, "o", markerfacecolor="none", markeredgecolor=RED, markersize=9, mew=1.6)
    axis.set(xlim=(-edge, edge), ylim=(len(shown) - 0.5, -0.5))
    axis.set_yticks(range(len(shown)), [f"{mark.name}   {accuracy_text(mark)}" for mark in shown], parse_math=False)
    right = axis.secondary_yaxis("right")
    right.set_yticks(
        range(len(shown)),
        [mark.interval + ("" if math.isnan(mark.p) else f"   p {p_value(mark.p)}") for mark in shown],
        fontsize=9.5,
    )
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    reference = next(mark.name for mark in shown if mark.is_reference)
    axis.set_xlabel(f"worse  ◂   {axis_label(reference, has_shared_labels)}   ▸  better", parse_math=False)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", alpha=0.25)
    axis.set_title(title, loc="left", fontsize=12, weight="bold", color=INK)
    legend = [Line2D([], [], color=BLUE, marker="s", linewidth=2.2, label="this study, corrected 95 % interval")]
    if any(mark.is_baseline for mark in shown):
        legend.append(Line2D([], [], color=GREY, marker="s", linewidth=2.2, label="baseline without a network"))
    if any(not math.isnan(mark.paper) and not mark.is_reference for mark in shown):
        label = "the paper" if has_shared_labels else "the paper, each row on its own labels"
        legend.append(
            Line2D([], [], color=RED, marker="o", markerfacecolor="none", markersize=9, linewidth=0, label=label)
        )
    figure.legend(handles=legend, loc="outside lower right", ncols=3, frameon=False, fontsize=9)
    stamp(figure, origin)
    return figure


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "numbers")
    add_outputs(parser, "figure")
    add_parameters(parser, "table origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, draw."""
    values = read_csv(arguments.numbers)
    figure = forest_figure(marks(values), tables.TITLES[arguments.table], share_labels(values), arguments.origin)
    save(figure, arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
