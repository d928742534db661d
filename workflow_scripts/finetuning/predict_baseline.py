"""Predict every view without a network, out of fold: by the commonest class, or by texture statistics.

Learns from the views that the label policy keeps, with its labels; predicts all views of the test fold. The output has
the columns that fine-tuning writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.log import progress
from workflow_scripts.finetuning.baselines import KINDS, majority_probability, texture_features, texture_probability
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True, help="which baseline")
    parser.add_argument("--views", type=Path, required=True, help="store of the labelled views (.npy)")
    parser.add_argument("--index", type=Path, required=True, help="its CSV index")
    parser.add_argument("--labels", type=Path, required=True, help="CSV label set")
    parser.add_argument("--folds", type=Path, required=True, help="CSV view_id,patient_id,fold of the seed")
    parser.add_argument("--seed", type=int, required=True, help="seed whose folds these are")
    parser.add_argument(
        "--classes", nargs=2, required=True, metavar=("NEGATIVE", "POSITIVE"), help="the two label names"
    )
    parser.add_argument("--output", type=Path, required=True, help="CSV of predictions")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Features once, then one model per fold."""
    import numpy as np

    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.finetuning.predictions import PREDICTION_COLUMNS, decide
    from workflow_scripts.networks.fold_inputs import join_tables, load_views, training_targets

    index, folds, labels = (read_csv(path) for path in (arguments.index, arguments.folds, arguments.labels))
    sources = (str(arguments.index), str(arguments.folds), str(arguments.labels))
    table = join_tables(index, folds, labels, arguments.classes, sources).rename(columns={"keep": "kept"})
    views = load_views(arguments.views, len(table), arguments.index)
    fold_of = table["fold"].to_numpy()

    features = np.zeros((len(views), 0))
    if arguments.kind == "texture":
        features = np.stack([texture_features(view) for view in progress(views, "texture", "view", len(views))])
    probability = np.full(len(views), np.nan)
    for fold, targets in training_targets(table, labels, arguments.classes[1]).items():
        train, test = targets >= 0, fold_of == fold
        truth = targets[train] == 1
        if arguments.kind == "texture":
            probability[test] = texture_probability(features[train], truth, features[test])
        else:
            probability[test] = majority_probability(truth, int(test.sum()))
    table = table.assign(
        seed=arguments.seed, probability=probability, prediction=decide(probability, arguments.classes)
    )
    write_csv(table[PREDICTION_COLUMNS], arguments.output)


if __name__ == "__main__":
    run(main, parser())
