"""Draw reliability diagrams of the rows of a table: are four of five views that get the probability 0.8 positive?

The out-of-fold predictions of all seeds are pooled and compared with the original labels of all views.

    python -m workflow_scripts.tables.draw_calibration --rows '[{"name": "UD", "experiment": "ud-flipped"}]' \\
        --experiments ud-flipped --predictions finetuning/ud-flipped/seed0.csv --classes homogeneous inhomogeneous \\
        --output-figure calibration.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.figures import BLUE, GREY, INK, RED, save, stamp
from workflow_scripts.finetuning.calibration import BINS, Reliability, brier, expected_calibration_error, reliability
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables.aggregation import patient_interval
from workflow_scripts.tables.rows import read_predictions, read_table_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4


@dataclass(frozen=True)
class Panel:
    """One network: its name, the points of its diagram, and ECE and Brier score as (value, low, high)."""

    name: str
    points: Reliability
    ece: tuple[float, float, float]
    brier: tuple[float, float, float]


def panel(name: str, probability: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> Panel:
    """A network's panel from its out-of-fold predictions, all seeds pooled.

    `probability` in [0, 1], `truth` bool, `patients` names, all (N,). The intervals redraw the patients.
    """
    ece, score = (
        (statistic(probability, truth), *patient_interval(statistic, probability, truth, patients))
        for statistic in (expected_calibration_error, brier)
    )
    return Panel(name, reliability(probability, truth), ece, score)


def reliability_figure(
    panels: Sequence[Panel], positive: str, headline: str, origin: str, unit: str = "view"
) -> Figure:
    """A reliability diagram per network, and below it how many predictions each bin holds; each is of one `unit`."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(3.3 * columns + 0.3, 7), 4.7 * lines + 0.7), layout="constrained")
    grid = figure.subplots(2 * lines, columns, squeeze=False, sharex=True, height_ratios=[3, 1] * lines)
    for i in range(lines * columns):
        line, column = divmod(i, columns)
        diagram, counts = grid[2 * line, column], grid[2 * line + 1, column]
        if i >= len(panels):
            diagram.axis("off")
            counts.axis("off")
            continue
        _draw_diagram(diagram, panels[i])
        _draw_counts(counts, panels[i].points)
        if column == 0:
            diagram.set_ylabel(f"share of {positive} {unit}s")
            counts.set_ylabel("predictions", color=INK)
        counts.set_xlabel(f"probability of {positive}")
        counts.tick_params(labelbottom=True)
    figure.suptitle(headline, fontsize=10.5, x=0.01, ha="left")
    stamp(figure, origin)
    return figure


def _draw_diagram(axis: Axes, shown: Panel) -> None:
    points = shown.points
    axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axis.vlines(points.predicted, points.predicted, points.observed, color=RED, alpha=0.45, linewidth=3)
    axis.plot(points.predicted, points.observed, color=BLUE, linewidth=1, alpha=0.5)
    # A point of few predictions says little, so its area is its share of them.
    area = 18 + 220 * points.count / points.count.sum()
    axis.scatter(points.predicted, points.observed, s=area, color=BLUE, edgecolor="white", linewidth=0.6, zorder=3)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    ece, score = (
        f"{name} {value:.3f} ({low:.3f} to {high:.3f})"
        for name, (value, low, high) in (("ECE", shown.ece), ("Brier", shown.brier))
    )
    axis.set_title(shown.name, loc="left", fontsize=11, pad=31, color=INK, weight="bold")
    axis.text(0, 1.02, f"{ece}\n{score}", transform=axis.transAxes, fontsize=8.5, va="bottom", color=INK)


def _draw_counts(axis: Axes, points: Reliability) -> None:
    # The bin of a point: bins are (a, b], and the first holds 0 as well.
    left = np.clip(np.ceil(points.predicted * BINS - 1e-9) - 1, 0, BINS - 1) / BINS
    bars = axis.bar(left + 0.5 / BINS, points.count, width=0.9 / BINS, color=GREY)
    axis.bar_label(bars, labels=[str(count) for count in points.count], fontsize=7, padding=1, color=INK)
    axis.set_ylim(0, 1.25 * points.count.max())
    axis.locator_params(axis="y", nbins=3, integer=True)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions+")
    add_outputs(parser, "figure")
    add_parameters(parser, "rows experiments classes origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, bin, redraw the patients, draw."""
    positive = arguments.classes[1]
    rows = read_table_rows(arguments.rows)
    predictions = read_predictions(rows, arguments.experiments, arguments.predictions, arguments.classes)
    panels = []
    for row in rows:
        views = predictions[row.experiment]
        truth = (views["label_original"] == positive).to_numpy()
        panels.append(panel(row.name, views["probability"].to_numpy(), truth, views["patient_id"].to_numpy()))
    headline = (
        f"Reliability on the original labels: out-of-fold predictions of {views['view_id'].nunique()} views of "
        f"{views['patient_id'].nunique()} patients, all seeds pooled ({views['seed'].nunique()}).\n"
        "Brackets: 95 % over patients, given the trained networks. Red: distance from the diagonal. Area of a point: its "
        "share of the predictions."
    )
    save(reliability_figure(panels, positive, headline, arguments.origin), arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
