"""Predict the views of external patients with the fine-tuned networks of every fold and seed of an experiment.

No network has seen the patients, so that each predicts every view; the table of the external test pools them.

    python -m workflow_scripts.finetuning.predict_external --views views/external/b.npy --index views/external/b.csv \\
        --weights finetuning/ud-flipped/seed0_fold0.safetensors finetuning/ud-flipped/seed0_fold1.safetensors \\
        --classes homogeneous inhomogeneous --output-predictions external/b/ud-flipped.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_device, run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index weights+")
    add_outputs(parser, "predictions")
    add_parameters(parser, "classes")
    add_device(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load one network after the other, predict all views with it, write."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.files import write_csv
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.finetuning.predictions import EXTERNAL_COLUMNS
    from workflow_scripts.networks.backbone import load_classifier
    from workflow_scripts.networks.cross_validation import predict
    from workflow_scripts.runtime.device import select_device, to_device

    device = select_device(arguments.device, arguments.threads)
    store = ViewStore.open(arguments.views, arguments.index)
    views = to_device(np.array(store.pixels), device)
    tables = []
    for path in progress(arguments.weights, "predicting", "network", len(arguments.weights)):
        network, parameters = load_classifier(path)
        if parameters["classes"] != list(arguments.classes):
            raise UserError(
                f"{path} tells {' from '.join(parameters['classes'])}, not {' from '.join(arguments.classes)}; fine-tune it again"
            )
        probability = predict(network.to(device), views)
        run_of = {"seed": parameters["seed"], "fold": parameters["fold"]}
        tables.append(store.index.assign(**run_of, probability=probability)[EXTERNAL_COLUMNS])
    write_csv(pd.concat(tables, ignore_index=True), arguments.output_predictions)
    say(f"{len(store)} views of {len(set(store.patients))} patients, {len(tables)} networks, on {device}")


if __name__ == "__main__":
    run(main, parser())
