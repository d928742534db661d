"""Figure 4: synthetic views that the filter keeps (green) and discards (red), their features, and what other k keep.

The projection shows two principal components of the real features only: most of what separates kept from discarded
lies in the others, so it shows where the sets are, not the filter's border.

    python -m workflow_scripts.synthesis.draw_filter --real embedding/labelled.npy --synthetic embedding/synthetic.npy \\
        --views views/synthetic.npy --filter synthesis/filter.csv --curve synthesis/filter_curve.csv \\
        --output-figure figures/figure4.png
"""

from __future__ import annotations

import argparse
import json

from workflow_scripts.core.files import read_csv
from workflow_scripts.core.store import check_rows, open_pixels
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.protocol import made_with


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "real synthetic views filter curve")
    add_outputs(parser, "figure")
    add_parameters(parser, "protocol origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw the figure."""
    import numpy as np

    from workflow_scripts.core.figures import save, stamp
    from workflow_scripts.synthesis.checks import read_features
    from workflow_scripts.synthesis.figures import filter_figure

    (real, synthetic), views = read_features(arguments.real, arguments.synthetic), open_pixels(arguments.views)
    answers, curve = read_csv(arguments.filter), read_csv(arguments.curve)
    check_rows({
        str(arguments.synthetic): len(synthetic), str(arguments.views): len(views), str(arguments.filter): len(answers),
    })  # fmt: skip
    inside = answers["inside"].to_numpy() == 1
    figure = filter_figure(views, inside, np.asarray(real), np.asarray(synthetic), curve)
    if arguments.protocol:
        made = made_with(json.loads(arguments.protocol), [int(curve["real_views"].iloc[0])])
        figure.suptitle(f"{figure.get_suptitle()}\n{made}", fontsize=10)
    stamp(figure, arguments.origin)
    save(figure, arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
