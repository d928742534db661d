"""Predict the views of external patients without a network: by the commonest class, or by texture statistics.

For every seed and fold, learns from the study's views that the fold's networks learn from, and predicts all external views.
The output has the columns of `predict_external`.

    python -m workflow_scripts.finetuning.predict_external_baseline --baseline texture --views views/external/b.npy \\
        --index views/external/b.csv --real-views views/labelled.npy --real-index views/labelled.csv \\
        --labels labels/complete.csv --folds folds/seed0.csv --seeds 0 --classes homogeneous inhomogeneous \\
        --output-predictions external/b/texture.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress
from workflow_scripts.finetuning.baselines import linear_probability, majority_probability, texture_features
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index real_views real_index labels+ folds+")
    add_outputs(parser, "predictions")
    add_parameters(parser, "baseline seeds classes")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Features once, then one model per seed and fold."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.finetuning.predictions import EXTERNAL_COLUMNS
    from workflow_scripts.networks.fold_inputs import join_tables, training_targets

    if not len(arguments.seeds) == len(arguments.labels) == len(arguments.folds):
        raise UserError(
            f"--seeds has {len(arguments.seeds)} entries, --labels {len(arguments.labels)} and --folds "
            f"{len(arguments.folds)}; give each seed its labels and its folds"
        )
    external = ViewStore.open(arguments.views, arguments.index)
    study = ViewStore.open(arguments.real_views, arguments.real_index)
    learnt, asked = (
        np.stack([texture_features(view) for view in progress(store.pixels, "texture", "view", len(store))])
        if arguments.baseline == "texture"
        else np.zeros((len(store), 0))
        for store in (study, external)
    )
    tables = []
    for seed, labels_file, folds_file in zip(arguments.seeds, arguments.labels, arguments.folds, strict=True):
        folds, labels = read_csv(folds_file, "folds"), read_csv(labels_file)
        sources = (str(arguments.real_index), str(folds_file), str(labels_file))
        table = join_tables(study.index, folds, labels, arguments.classes, sources)
        for fold, targets in training_targets(table, labels, arguments.classes[1]).items():
            rows = targets >= 0
            truth = targets[rows] == 1
            if arguments.baseline == "texture":
                probability = linear_probability(learnt[rows], truth, asked)
            else:
                probability = majority_probability(truth, len(external))
            tables.append(external.index.assign(seed=seed, fold=fold, probability=probability)[EXTERNAL_COLUMNS])
    write_csv(pd.concat(tables, ignore_index=True), arguments.output_predictions)


if __name__ == "__main__":
    run(main, parser())
