"""Draw what synthetic views teach: AUROC on real test views by the share of synthetic views in the training set.

    python -m workflow_scripts.tables.draw_synthetic --rows '[{"name": "real", "experiment": "ud-complete"}, …]' \\
        --experiments ud-complete ud-complete-on_alone --predictions finetuning/ud-complete/seed0.csv … \\
        --synthetic-shares 0 1 --classes homogeneous inhomogeneous --output-figure synthetic.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import BLUE, GREY, INK, RED, save, stamp
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tables.aggregation import run_scores
from workflow_scripts.tables.rows import read_predictions, read_table_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLOURS = {"–": INK, "asked": BLUE, "relabelled": RED, "shuffled": GREY}
REAL = "real views alone"


@dataclass(frozen=True)
class Point:
    """A row of table 5: its name, the share of synthetic views in its training set (0 to 1), their labels, and its AUROC.

    AUROC and its 95 % interval over test patients are in [0, 1].
    """

    name: str
    share: float
    labels: str
    auroc: float
    low: float
    high: float


def auroc_with_interval(predictions: pd.DataFrame, positive: str) -> tuple[float, float, float]:
    """AUROC as table 5 has it, the mean over the runs on the policy's labels, and its 95 % interval.

    The interval redraws the test patients with all their views, the same in every run, given the trained networks.
    """
    import numpy as np

    from workflow_scripts.core.statistics import drawn_auroc, percentile_interval, times_drawn

    kept = predictions[predictions["kept"] == 1]
    patients = np.unique(kept["patient_id"].astype(str))
    times = times_drawn(len(patients), draws=1000)
    drawn = []
    for _, part in kept.groupby(["seed", "fold"]):
        patient = np.searchsorted(patients, part["patient_id"].astype(str))
        truth = (part["label_policy"] == positive).to_numpy()
        drawn.append(drawn_auroc(part["probability"].to_numpy(), truth, times[:, patient]))
    over_runs = np.nanmean(drawn, axis=0)
    low, high = percentile_interval(over_runs[~np.isnan(over_runs)], 0.95)
    return float(run_scores(predictions, positive, "policy")["auroc"].mean()), low, high


def synthetic_figure(points: Sequence[Point], origin: str) -> Figure:
    """A point per row of table 5 with its interval, coloured by the labels of its synthetic views."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    axis = figure.subplots()
    # Rows of the same share are side by side, their names left and right in turn.
    places, offsets, taken = [], [], dict[float, int]()
    for point in points:
        order = taken.get(point.share, 0)
        places.append(100 * point.share + 1.6 * order)
        offsets.append(-8 if point.share and order % 2 == 0 else 8)
        taken[point.share] = order + 1
    shown = set()
    for place, offset, point in zip(places, offsets, points, strict=True):
        colour, kind = COLOURS[point.labels], REAL if point.labels == "–" else f"labels {point.labels}"
        axis.vlines(place, point.low, point.high, color=colour, alpha=0.45, linewidth=3)
        axis.plot(place, point.auroc, "o", color=colour, label=None if kind in shown else kind, zorder=3)
        side = "right" if offset < 0 else "left"
        axis.annotate(
            point.name,
            (place, point.auroc),
            (offset, 5),
            textcoords="offset points",
            ha=side,
            fontsize=8,
            parse_math=False,
        )
        shown.add(kind)
    axis.axhline(0.5, color=INK, alpha=0.4, linewidth=1, linestyle=":")
    axis.set(
        xlabel="share of synthetic views in the training set (%)", ylabel="AUROC on real test views", xlim=(-5, 130)
    )
    axis.set_xticks(range(0, 101, 25))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="best")
    figure.suptitle(
        "Trained on synthetic, tested on real; bars: 95 % over test patients", fontsize=10.5, x=0.01, ha="left"
    )
    stamp(figure, origin)
    return figure


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions+")
    add_outputs(parser, "figure")
    add_parameters(parser, "rows experiments synthetic_shares classes origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, score, draw."""
    rows = [row for row in read_table_rows(arguments.rows) if not row.is_baseline]
    if len(arguments.synthetic_shares) != len(rows):
        raise UserError(f"--synthetic-shares names {len(arguments.synthetic_shares)} shares for {len(rows)} networks")
    found = read_predictions(rows, arguments.experiments, arguments.predictions, arguments.classes)
    points = [
        Point(
            row.name, share, row.switches["labels of synthetic views"],
            *auroc_with_interval(found[row.experiment], arguments.classes[1]),
        )
        for row, share in zip(rows, arguments.synthetic_shares, strict=True)
    ]  # fmt: skip
    save(synthetic_figure(points, arguments.origin), arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
