"""Predict every view without a network, out of fold: by the commonest class, or by texture statistics.

Learns from the views that the label policy keeps, with its labels; predicts all views of the test fold. The output has
the columns that fine-tuning writes.

    python -m workflow_scripts.finetuning.predict_baseline --baseline texture --views views/labelled.npy \\
        --index views/labelled.csv --labels labels/complete.csv --folds folds/seed0.csv --seed 0 \\
        --classes homogeneous inhomogeneous --output-predictions texture/seed0.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.log import progress
from workflow_scripts.finetuning.baselines import linear_probability, majority_probability, texture_features
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index labels folds")
    add_outputs(parser, "predictions")
    add_parameters(parser, "baseline seed classes")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Features once, then one model per fold."""
    import numpy as np

    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.finetuning.predictions import PREDICTION_COLUMNS, decide
    from workflow_scripts.networks.fold_inputs import join_tables, training_targets

    store = ViewStore.open(arguments.views, arguments.index)
    folds, labels = read_csv(arguments.folds, "folds"), read_csv(arguments.labels)
    sources = (str(arguments.index), str(arguments.folds), str(arguments.labels))
    table = join_tables(store.index, folds, labels, arguments.classes, sources).rename(columns={"keep": "kept"})
    fold_of = table["fold"].to_numpy()

    features = np.zeros((len(store), 0))
    if arguments.baseline == "texture":
        features = np.stack([texture_features(view) for view in progress(store.pixels, "texture", "view", len(store))])
    probability = np.full(len(store), np.nan)
    for fold, targets in training_targets(table, labels, arguments.classes[1]).items():
        train, test = targets >= 0, fold_of == fold
        truth = targets[train] == 1
        if arguments.baseline == "texture":
            probability[test] = linear_probability(features[train], truth, features[test])
        else:
            probability[test] = majority_probability(truth, int(test.sum()))
    table = table.assign(
        seed=arguments.seed, probability=probability, prediction=decide(probability, arguments.classes)
    )
    write_csv(table[PREDICTION_COLUMNS], arguments.output_predictions)


if __name__ == "__main__":
    run(main, parser())
