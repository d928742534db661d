"""The generated views that score highest in the copy audit, each beside its nearest training view.

For the group's own eyes: it shows real views.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import stamp
from workflow_scripts.core.files import read_csv, read_npy
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.patients import check_rows
from workflow_scripts.synthesis.figures import DISCARDED, REAL, draw_view

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--privacy", type=Path, required=True, help="the copy audit's answers")
    parser.add_argument("--real-views", type=Path, required=True, help="store of the labelled views")
    parser.add_argument("--real-index", type=Path, required=True, help="index of the labelled views")
    parser.add_argument("--synthetic-views", type=Path, required=True, help="store of the generated views")
    parser.add_argument("--count", type=int, default=10, help="pairs (default: 10)")
    parser.add_argument("--origin", default="", help="stamp on the figure, for example PHANTOM (default: none)")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw the pairs."""
    import pandas as pd

    from workflow_scripts.core.figures import save

    real, synthetic = read_npy(arguments.real_views), read_npy(arguments.synthetic_views)
    index = read_csv(arguments.real_index)
    answers = pd.read_csv(arguments.privacy, dtype={"nearest_view": str})
    check_rows({str(arguments.real_views): len(real), str(arguments.real_index): len(index)})
    check_rows({str(arguments.synthetic_views): len(synthetic), str(arguments.privacy): len(answers)})
    closest = answers.sort_values("score", ascending=False, kind="stable").head(arguments.count)
    rows = pd.Index(index["view_id"]).get_indexer(closest["nearest_view"])
    if (rows < 0).any():
        raise UserError(
            f"{arguments.privacy} names views that {arguments.real_index} does not have; run the audit again"
        )
    columns = (closest[name] for name in ("index", "score", "nearest_view", "correlation"))
    titles = [
        (f"no. {number}, score {score:.1f}", f"{view}, r {correlation:.2f}")
        for number, score, view, correlation in zip(*columns, strict=True)
    ]
    pictures = synthetic[closest["index"].to_numpy()], real[rows]
    save(pairs_figure(*pictures, titles, list(closest["copy"] == 1), arguments.origin), arguments.output)


def pairs_figure(
    synthetic: np.ndarray, real: np.ndarray, titles: list[tuple[str, str]], flagged: list[bool], origin: str
) -> Figure:
    """Pairs of generated and real views (P, side, side) side by side, closest first; flagged ones framed red."""
    from matplotlib.figure import Figure

    columns = min(5, len(titles))
    lines = -(-len(titles) // columns)
    figure = Figure(figsize=(3.2 * columns, 1.95 * lines + 0.7), layout="constrained")
    figure.suptitle(
        "Closest pairs: generated view (left), nearest training view (right); red = counted as a copy\n"
        "shows training views: not for release",
        fontsize=11,
    )
    stamp(figure, origin)
    grid = figure.subplots(lines, 2 * columns, squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for place, (generated_title, real_title) in enumerate(titles):
        left, right = grid[place // columns, 2 * (place % columns) : 2 * (place % columns) + 2]
        colour = DISCARDED if flagged[place] else REAL
        draw_view(left, synthetic[place], colour)
        draw_view(right, real[place], colour)
        left.set_title(generated_title, fontsize=7, color=colour)
        right.set_title(real_title, fontsize=7, color=colour)
    return figure


if __name__ == "__main__":
    run(main, parser())
