"""Draw the learning curve of fine-tuning: accuracy by the share of the training patients that were learnt from.

    python -m workflow_scripts.tables.draw_learning_curve --experiments ud-flipped-patients50 ud-flipped --percents 50 100 \\
        --predictions finetuning/ud-flipped-patients50/seed0.csv finetuning/ud-flipped/seed0.csv \\
        --classes homogeneous inhomogeneous --output-figure learning_curve.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import BLUE, INK, save, stamp
from workflow_scripts.core.statistics import corrected_paired_test, patient_bootstrap
from workflow_scripts.core.tables import counted
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables.aggregation import run_scores
from workflow_scripts.tables.reading import signed, with_sign
from workflow_scripts.tables.rows import read_predictions
from workflow_scripts.tables.tables import patient_counts

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """A share of the training patients, in percent, and the accuracy that it gives, in percent with its 95 % interval."""

    percent: int
    accuracy: float
    low: float
    high: float


def learning_points(percents: Sequence[int], tables: Sequence[pd.DataFrame], positive: str) -> list[Point]:
    """A point per percentage: mean over the runs, on the policy's labels of the views that it keeps, as in the tables.

    `tables` are the joined predictions in the order of `percents`. The intervals redraw the test patients.
    """
    points = []
    for percent, table in zip(percents, tables, strict=True):
        low, high = patient_bootstrap(*patient_counts(table))
        accuracy = float(run_scores(table, positive, "policy")["accuracy"].mean())
        points.append(Point(percent, 100 * accuracy, 100 * low, 100 * high))
    return points


def last_step(percents: Sequence[int], tables: Sequence[pd.DataFrame], positive: str) -> str:
    """What the last step up brought: points of accuracy, paired by seed and fold, with the corrected interval."""
    before, after = (run_scores(table, positive, "policy")["accuracy"] for table in tables[-2:])
    test = corrected_paired_test((100 * (after - before)).to_numpy(), tables[-1]["fold"].nunique(), None)
    interval = "" if test.low != test.low else f" (corrected 95 % interval {signed(test.low)} to {signed(test.high)})"
    return f"from {percents[-2]} % to {percents[-1]} % of the patients: {with_sign(test.difference)} points{interval}"


def learning_figure(points: Sequence[Point], headline: str, origin: str) -> Figure:
    """The curve, with a bar for each interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axis = figure.subplots()
    percents, accuracies = [point.percent for point in points], [point.accuracy for point in points]
    axis.plot(percents, accuracies, color=BLUE, linewidth=1.6, marker="o", zorder=3)
    axis.vlines(
        percents, [point.low for point in points], [point.high for point in points], color=BLUE, alpha=0.4, linewidth=3
    )
    for point in points:
        axis.annotate(
            f"{point.accuracy:.1f}", (point.percent, point.accuracy), (8, -14), textcoords="offset points", color=INK
        )
    axis.set(xlabel="share of the training patients (%)", ylabel="accuracy (%)", xlim=(0, 108), xticks=percents)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(headline, fontsize=10.5, x=0.01, ha="left", wrap=True, parse_math=False)
    stamp(figure, origin)
    return figure


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions+")
    add_outputs(parser, "figure")
    add_parameters(parser, "experiments percents classes origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, average, draw."""
    percents, positive = arguments.percents, arguments.classes[1]
    if len(percents) != len(arguments.experiments) or percents != sorted(set(percents)) or len(percents) < 2:
        raise UserError("--percents: ascending percentages are needed, one per experiment and at least two")
    found = read_predictions([], arguments.experiments, arguments.predictions, arguments.classes)
    tables = [found[name] for name in arguments.experiments]
    views = tables[-1]
    headline = (
        f"{arguments.experiments[-1]}: {views['fold'].nunique()} folds × {counted(views['seed'].nunique(), 'seed')} of "
        f"{views['patient_id'].nunique()} patients; bars: 95 % over test patients\n"
        f"{last_step(percents, tables, positive)}"
    )
    figure = learning_figure(learning_points(percents, tables, positive), headline, arguments.origin)
    save(figure, arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
