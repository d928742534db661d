"""Give the views of an organ side one probability: the sigmoid of their mean logit.

The network is the one of the single views; only what it says of an organ side is put together. Views of one side that lie in
several folds are put together within each fold. For external predictions, within each network.

    python -m workflow_scripts.finetuning.fuse_views --predictions ud-flipped/seed0.csv --index views/labelled.csv \\
        --classes homogeneous inhomogeneous --output-predictions ud-flipped-mean_logits/seed0.csv
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    import pandas as pd


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "predictions index")
    add_outputs(parser, "predictions")
    add_parameters(parser, "classes")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, fuse, decide, write."""
    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.finetuning.predictions import decide

    table = read_csv(arguments.predictions)
    table["probability"] = fused(table, read_csv(arguments.index, "index"))
    if "prediction" in table:
        table["prediction"] = decide(table["probability"].to_numpy(), arguments.classes)
    write_csv(table, arguments.output_predictions)


def fused(predictions: pd.DataFrame, index: pd.DataFrame) -> pd.Series:
    """The fused probability of each row of `predictions` (view_id, seed, fold, probability), aligned with it.

    `index` is that of the views. Raises `UserError` where it lacks a predicted view.
    """
    import pandas as pd

    from workflow_scripts.finetuning.calibration import logit, sigmoid
    from workflow_scripts.study.patients import numbered_organ_sides

    side = predictions["view_id"].map(pd.Series(numbered_organ_sides(index).to_numpy(), index=index["view_id"]))
    if side.isna().any():
        unknown = predictions["view_id"][side.isna()].iloc[0]
        raise UserError(
            f"the index lacks the predicted view {unknown}; predictions and index must come from the same crop"
        )
    logits = pd.Series(logit(predictions["probability"].to_numpy()), index=predictions.index)
    mean = logits.groupby([predictions["seed"], predictions["fold"], side]).transform("mean")
    return pd.Series(sigmoid(mean.to_numpy()), index=predictions.index)


if __name__ == "__main__":
    run(main, parser())
