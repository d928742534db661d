"""Fine-tune one experiment on the folds of one seed and predict every labelled view (paper, Sec. 4.3).

A backbone and a linear head are trained on the kept views of all folds but one, with the labels of a policy, and
predict the views of the fold left out: also views that the policy drops, so that each view is predicted exactly once.
Synthetic views may join the training folds or take their place; none is ever predicted.

    python -m workflow_scripts.finetuning.finetune --views views/labelled.npy --index views/labelled.csv \\
        --labels labels/complete.csv --folds folds/seed0.csv --seed 0 --classes homogeneous inhomogeneous \\
        --layout torchvision --weights weights/resnet18-f37072fd.pth --output-predictions seed0.csv \\
        --output-weights seed0_fold0.safetensors seed0_fold1.safetensors seed0_fold2.safetensors \\
        --output-training seed0_training.csv --work-dir work/seed0
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.finetuning import FinetuningRecipe

if TYPE_CHECKING:
    import numpy as np
    import torch

    from workflow_scripts.finetuning.training_sets import SyntheticViews
    from workflow_scripts.networks.backbone import Classifier


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index labels folds weights* synthetic_views* synthetic_index* labellers*")
    add_outputs(parser, "predictions weights+ training")
    add_parameters(parser, "seed classes backbone normalisation layout training_percent")
    add_parameters(parser, "synthetic_percent synthetic_labels rate_factors rate_holdout")
    add_settings(parser, FinetuningRecipe)
    add_run(parser)
    return parser


def synthetic_views(
    arguments: argparse.Namespace, targets: Mapping[int, np.ndarray], side: int, device: torch.device
) -> dict[int, SyntheticViews]:
    """The synthetic views that the model of each fold learns, and their labels.

    `targets` int64 (N,) by fold and `side` in pixels are those of the real views.
    """
    import numpy as np

    from workflow_scripts.finetuning.predictions import DECISION
    from workflow_scripts.finetuning.training_sets import (
        SyntheticViews,
        asked_targets,
        draw_synthetic,
        shuffled,
        synthetic_stores,
    )
    from workflow_scripts.networks.backbone import load_classifier
    from workflow_scripts.networks.cross_validation import predict
    from workflow_scripts.runtime.device import to_device

    folds, kind = sorted(targets), arguments.synthetic_labels
    wanted = len(folds) if kind == "relabelled" else 0
    if len(arguments.labellers) != wanted:
        raise UserError(f"--synthetic-labels {kind} takes {wanted} --labellers, not {len(arguments.labellers)}")
    stores = synthetic_stores(arguments.synthetic_views, arguments.synthetic_index, folds, side)
    labellers = dict(zip(folds, arguments.labellers, strict=False))
    added = {}
    for fold, store in stores.items():
        classes = asked_targets(store, arguments.classes)
        if path := labellers.get(fold):
            network, parameters = load_classifier(path)
            if (parameters["fold"], parameters["seed"]) != (fold, arguments.seed):
                raise UserError(
                    f"{path} is of seed {parameters['seed']}, fold {parameters['fold']}, and may have learnt the test patients "
                    f"of seed {arguments.seed}, fold {fold}; give the labeller of this fold"
                )
            probability = predict(network.to(device), to_device(np.array(store.pixels), device))
            given = (probability > DECISION).astype(np.int64)
            say(f"fold {fold}: {100 * (given != classes).mean():.1f} % of the synthetic views get another label")
            classes = given
        rows = draw_synthetic(classes, targets[fold], arguments.synthetic_percent, arguments.seed, fold, store.source)
        learnt = classes[rows]
        if kind == "shuffled":
            learnt = shuffled(learnt, arguments.seed, fold)
        added[fold] = SyntheticViews(store.pixels[rows], learnt)
    return added


def main(arguments: argparse.Namespace) -> None:
    """Load, check, train the folds, write."""
    import numpy as np

    from workflow_scripts.core.files import read_csv, write_csv, write_rows
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.finetuning.movement import backbone_weights, last_quarters, weights_moved
    from workflow_scripts.finetuning.predictions import PREDICTION_COLUMNS, TRAINING_COLUMNS, decide
    from workflow_scripts.finetuning.rates import at_rates, with_own_rates
    from workflow_scripts.finetuning.training_sets import appended
    from workflow_scripts.networks.backbone import library_versions, save_weights
    from workflow_scripts.networks.cross_validation import (
        CrossValidation,
        cross_validate,
        initial_classifier,
        partners,
    )
    from workflow_scripts.networks.fold_inputs import fewer_patients, join_tables, training_targets, weights_by_fold
    from workflow_scripts.runtime.device import to_device
    from workflow_scripts.runtime.run import Run
    from workflow_scripts.study.patients import numbered_organ_sides

    run = Run(arguments)
    recipe: FinetuningRecipe = settings(arguments)
    is_mixed = arguments.synthetic_percent > 0
    if is_mixed and arguments.rate_factors:
        raise UserError("--rate-factors are tried on real views alone; leave out --synthetic-percent or the factors")

    # What is learnt, and what the folds start from: every mistake shows before anything is trained.
    store = ViewStore.open(arguments.views, arguments.index)
    folds, labels = read_csv(arguments.folds, "folds"), read_csv(arguments.labels)
    sources = (str(arguments.index), str(arguments.folds), str(arguments.labels))
    table = join_tables(store.index, folds, labels, arguments.classes, sources)
    names = sorted(table["fold"].unique().tolist())
    if len(arguments.output_weights) != len(names):
        raise UserError(
            f"--output-weights names {len(arguments.output_weights)} files; {arguments.folds} has {len(names)} folds"
        )

    def start(fold: int) -> Classifier:
        files = weights_by_fold(arguments.weights, names, arguments.layout)
        return initial_classifier(
            arguments.backbone, arguments.layout, files[fold], arguments.seed, fold, recipe, arguments.normalisation,
            store.side,
        )  # fmt: skip

    models = {fold: start(fold) for fold in names}
    say(f"{len(table)} views, {int(table['keep'].sum())} kept, {len(names)} folds, on {run.device}")

    targets = training_targets(table, labels, arguments.classes[1])
    added = synthetic_views(arguments, targets, store.side, run.device) if is_mixed else {}
    if not arguments.training_percent and added:
        targets = {fold: np.full_like(learnt, -1) for fold, learnt in targets.items()}
    elif arguments.training_percent != 100:
        targets = fewer_patients(targets, table["patient_id"].tolist(), arguments.training_percent, arguments.seed)
    identity = run.identity(recipe)
    run.start(identity)
    pixels, view_folds = np.array(store.pixels), table["fold"].to_numpy()
    pairs = partners(numbered_organ_sides(store.index).to_numpy()) if recipe.coupled else None
    if added:
        synthetic, targets, no_fold = appended(targets, added)
        # A synthetic view has no partner, so it is paired with itself.
        if pairs is not None:
            pairs = np.concatenate([pairs, len(pixels) + np.arange(len(synthetic))])
        pixels, view_folds = np.concatenate([pixels, synthetic]), np.concatenate([view_folds, no_fold])
    task = CrossValidation(
        views=to_device(pixels, run.device), targets=targets, folds=view_folds, recipe=recipe, seed=arguments.seed,
        partners=pairs,
    )  # fmt: skip
    chosen: dict[int, float] = {}
    if arguments.rate_factors:
        chosen, task = with_own_rates(
            task, table["patient_id"].tolist(), arguments.rate_factors, arguments.rate_holdout, start, run
        )
    starts = {fold: backbone_weights(model) for fold, model in models.items()}
    results = [
        result
        for fold, own in sorted(at_rates(task, chosen).items())
        for result in cross_validate({fold: models[fold]}, own, run)
    ]

    training = []
    probabilities = np.full(len(table), np.nan)
    parameters = {**identity, "size": store.side, "versions": library_versions()}
    for result, path in zip(results, arguments.output_weights, strict=True):
        probabilities[result.test] = result.probabilities
        moved = (
            weights_moved(starts[result.fold], result.weights), *last_quarters(result.losses), chosen.get(result.fold, 1.0),
        )  # fmt: skip
        training.append(dict(zip(TRAINING_COLUMNS, (arguments.seed, result.fold, *moved), strict=True)))
        save_weights(result.weights, {**parameters, "fold": result.fold}, path)
    predictions = table.rename(columns={"keep": "kept"}).assign(
        seed=arguments.seed, probability=probabilities, prediction=decide(probabilities, arguments.classes)
    )
    write_csv(predictions[PREDICTION_COLUMNS], arguments.output_predictions)
    write_rows(training, TRAINING_COLUMNS, arguments.output_training)
    run.work.close()


if __name__ == "__main__":
    run(main, parser())
