"""Draw reliability diagrams of the rows of a table: what the probabilities say, against how often it is so.

The out-of-fold predictions of all seeds are pooled and held against the original labels of all views.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, stage_parser
from workflow_scripts.evaluation.table_rows import add_predictions, add_rows, read_predictions, read_table_rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_rows(parser)
    add_predictions(parser)
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, bin, redraw the patients, draw."""
    from workflow_scripts.evaluation.calibration_figures import panel, reliability_figure
    from workflow_scripts.evaluation.figures import save

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
    save(reliability_figure(panels, positive, headline, arguments.origin), arguments.output)


if __name__ == "__main__":
    run(main, parser())
