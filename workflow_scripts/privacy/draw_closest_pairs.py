"""The synthetic views that score highest in the copy audit, each beside its nearest training view.

For the group's own eyes: it shows real views. Without held-out patients the audit judges no view, and none is framed as a
copy or as none.

    python -m workflow_scripts.privacy.draw_closest_pairs --real-views views/labelled.npy --real-index views/labelled.csv \\
        --synthetic-views views/synthetic.npy --privacy synthesis/privacy.csv --output-figure figures/closest_pairs.png
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import save, stamp
from workflow_scripts.core.files import read_csv
from workflow_scripts.core.store import ViewStore, check_rows, open_pixels
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.synthesis.figures import DISCARDED, REAL, draw_view

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


PAIRS = 10


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "real_views real_index synthetic_views privacy")
    add_outputs(parser, "figure")
    add_parameters(parser, "origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw the pairs."""
    import pandas as pd

    real, synthetic = ViewStore.open(arguments.real_views, arguments.real_index), open_pixels(arguments.synthetic_views)
    answers = read_csv(arguments.privacy)
    check_rows({str(arguments.synthetic_views): len(synthetic), str(arguments.privacy): len(answers)})
    closest = answers.sort_values("score", ascending=False, kind="stable").head(PAIRS)
    rows = pd.Index(real.index["view_id"]).get_indexer(closest["nearest_view"])
    if (rows < 0).any():
        raise UserError(
            f"{arguments.privacy} names views that {arguments.real_index} does not have; run the audit again"
        )
    columns = (closest.index, *(closest[name] for name in ("score", "nearest_view", "correlation")))
    titles = [
        (f"no. {number}, score {score:.1f}", f"{view}, r {correlation:.2f}")
        for number, score, view, correlation in zip(*columns, strict=True)
    ]
    pictures = synthetic[closest.index], real.pixels[rows]
    judged = bool(answers["copy"].notna().all())
    figure = pairs_figure(*pictures, titles, list(closest["copy"] == 1) if judged else None)
    stamp(figure, arguments.origin)
    save(figure, arguments.output_figure)


def pairs_figure(
    synthetic: np.ndarray, real: np.ndarray, titles: list[tuple[str, str]], flagged: list[bool] | None
) -> Figure:
    """Pairs of synthetic and real views (P, side, side) side by side, closest first; flagged ones framed red.

    `flagged` is None where no view was judged.
    """
    from matplotlib.figure import Figure

    columns = min(5, len(titles))
    lines = -(-len(titles) // columns)
    figure = Figure(figsize=(3.2 * columns, 1.95 * lines + 0.7), layout="constrained")
    verdict = "no verdict: no patient was held out" if flagged is None else "red = counted as a copy"
    figure.suptitle(
        f"Closest pairs: synthetic view (left), nearest training view (right); {verdict}\n"
        "shows training views: not for release",
        fontsize=11,
    )
    grid = figure.subplots(lines, 2 * columns, squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for place, (synthetic_title, real_title) in enumerate(titles):
        left, right = grid[place // columns, 2 * (place % columns) : 2 * (place % columns) + 2]
        colour = DISCARDED if flagged is not None and flagged[place] else REAL
        draw_view(left, synthetic[place], colour)
        draw_view(right, real[place], colour)
        left.set_title(synthetic_title, fontsize=7, color=colour)
        right.set_title(real_title, fontsize=7, color=colour)
    return figure


if __name__ == "__main__":
    run(main, parser())
