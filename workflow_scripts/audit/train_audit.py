"""Train on the original labels and record how well each view is fitted, fold by fold of one seed (paper, Sec. 3).

With --record training, the paper's way, the recorded loss is the one that training itself computes: of the augmented
view, in train mode, in its batch, before the step that the batch leads to. With the sampler `weighted` a view drawn more
than once in an epoch counts with its mean and one not drawn has no row. With --record evaluation it is that of the clean
view in eval mode, for every view of the training part after each epoch. Epochs count from 1.
Beside the losses, each view gets the probability that the model of its own fold, which never saw its patient, gives it.

    python -m workflow_scripts.audit.train_audit --views views/labelled.npy --index views/labelled.csv --folds folds/seed0.csv \\
        --seed 0 --classes homogeneous inhomogeneous --layout torchvision --weights weights/resnet18-f37072fd.pth \\
        --output-losses audit/imagenet_seed0.csv --output-oof audit/imagenet_seed0_oof.csv --work-dir work/imagenet_seed0
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.audit import AuditRecipe


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index folds weights*")
    add_outputs(parser, "losses oof")
    add_parameters(parser, "record seed classes backbone normalisation layout")
    add_settings(parser, AuditRecipe)
    add_run(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load, check, train the folds, write."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.networks.cross_validation import (
        CrossValidation,
        Fold,
        cross_validate,
        initial_classifiers,
        partners,
    )
    from workflow_scripts.networks.fold_inputs import join_tables, training_targets
    from workflow_scripts.runtime.device import to_device
    from workflow_scripts.runtime.run import Run
    from workflow_scripts.study.patients import numbered_organ_sides

    run = Run(arguments)
    recipe: AuditRecipe = settings(arguments)

    # What is learnt, and what the folds start from: every mistake shows before anything is trained.
    store = ViewStore.open(arguments.views, arguments.index)
    sources = (str(arguments.index), str(arguments.folds), str(arguments.index))
    table = join_tables(store.index, read_csv(arguments.folds, "folds"), None, arguments.classes, sources)
    names = sorted(table["fold"].unique().tolist())
    models = initial_classifiers(
        arguments.backbone, arguments.layout, arguments.weights, arguments.seed, names, recipe, arguments.normalisation,
        store.side,
    )  # fmt: skip
    say(f"{len(table)} views, {len(models)} folds, on {run.device}")

    run.start(run.identity(recipe))
    task = CrossValidation(
        views=to_device(np.array(store.pixels), run.device),
        targets=training_targets(table, None, arguments.classes[1]),
        folds=table["fold"].to_numpy(),
        recipe=recipe,
        seed=arguments.seed,
        record=arguments.record,
        partners=partners(numbered_organ_sides(store.index).to_numpy()) if recipe.coupled else None,
    )
    results = cross_validate(models, task, run)

    view_ids = table["view_id"].to_numpy()

    def long_table(result: Fold) -> pd.DataFrame:
        epochs, count = result.losses.shape
        long = pd.DataFrame(
            {
                "view_id": np.tile(view_ids[result.training], epochs),
                "fold": result.fold,
                "epoch": np.repeat(np.arange(1, epochs + 1), count),
                "loss": result.losses.ravel(),
            }
        )
        return long.dropna(subset=["loss"])

    probabilities = np.full(len(table), np.nan)
    for result in results:
        probabilities[result.test] = result.probabilities
    write_csv(table[["view_id", "fold"]].assign(probability=probabilities), arguments.output_oof)
    write_csv(pd.concat([long_table(result) for result in results]), arguments.output_losses)
    run.work.close()


if __name__ == "__main__":
    run(main, parser())
