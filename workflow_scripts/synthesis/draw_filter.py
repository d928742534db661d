"""Figure 4: generated views that the filter keeps (green) and discards (red), their features, and what other k keep.

The projection shows two principal components of the real features only: most of what separates kept from discarded
lies in the others, so it shows where the sets are, not the filter's border.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.files import read_csv, read_npy
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.patients import check_rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--real", type=Path, required=True, help="features of the labelled views")
    parser.add_argument("--synthetic", type=Path, required=True, help="features of the generated views")
    parser.add_argument("--views", type=Path, required=True, help="store of the generated views")
    parser.add_argument("--filter", type=Path, required=True, help="the manifold filter's answers")
    parser.add_argument("--curve", type=Path, required=True, help="CSV of what other rules keep")
    parser.add_argument("--count", type=int, default=48, help="views on the contact sheet (default: 48)")
    parser.add_argument("--origin", default="", help="stamp on the figure, for example PHANTOM (default: none)")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw the figure."""
    import numpy as np

    from workflow_scripts.core.figures import save
    from workflow_scripts.synthesis.figures import filter_figure

    real, synthetic, views = read_npy(arguments.real), read_npy(arguments.synthetic), read_npy(arguments.views)
    answers, curve = read_csv(arguments.filter), read_csv(arguments.curve)
    rows = {arguments.synthetic: len(synthetic), arguments.views: len(views), arguments.filter: len(answers)}
    check_rows({str(path): count for path, count in rows.items()})
    inside = answers["inside"].to_numpy() == 1
    figure = filter_figure(
        np.asarray(real), np.asarray(synthetic), views, inside, curve, arguments.count, arguments.origin
    )
    save(figure, arguments.output)


if __name__ == "__main__":
    run(main, parser())
