"""Fine-tune one experiment on the folds of one seed and predict every labelled view (paper, Sec. 4.3).

A backbone and a linear head are trained on the kept views of all folds but one, with the labels of a policy, and
predict the views of the fold left out: also views that the policy drops, so that each view is predicted exactly once.

    python -m workflow_scripts.finetuning.finetune --views views/labelled.npy --index views/labelled.csv \\
        --labels labels/complete.csv --folds folds/seed0.csv --seed 0 --classes homogeneous inhomogeneous \\
        --layout torchvision --weights weights/resnet18-f37072fd.pth --output seed0.csv \\
        --output-weights seed0_fold0.safetensors seed0_fold1.safetensors seed0_fold2.safetensors --work-dir work/seed0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.cli import add_settings, add_training, run, settings, stage_parser
from workflow_scripts.study.config.finetuning import FinetuningRecipe

COLUMNS = [
    "view_id", "patient_id", "fold", "seed", "label_original", "label_policy", "kept", "probability", "prediction",
]  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--views", type=Path, required=True, help="store of the labelled views, uint8 .npy")
    parser.add_argument("--index", type=Path, required=True, help="its index CSV; column label is the original label")
    parser.add_argument("--labels", type=Path, required=True, help="CSV view_id,label,keep of the label policy")
    parser.add_argument("--folds", type=Path, required=True, help="CSV view_id,patient_id,fold of the seed")
    parser.add_argument("--seed", type=int, required=True, help="seed of initial weights and of every draw")
    parser.add_argument("--classes", nargs=2, required=True, metavar=("NEGATIVE", "POSITIVE"), help="label names")
    parser.add_argument("--backbone", default="resnet18", help="timm network (default: resnet18)")
    parser.add_argument(
        "--layout", choices=["scratch", "torchvision", "uscl", "timm"], default="scratch",
        help="key layout of --weights; scratch starts from random weights (default: scratch)",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, nargs="*", default=[], help="weights to start from: none, one file, or one per fold"
    )
    parser.add_argument("--output", type=Path, required=True, help="CSV of predictions, one row per view")
    parser.add_argument("--output-weights", type=Path, nargs="+", required=True, help="one .safetensors per fold")
    add_settings(parser, FinetuningRecipe)
    add_training(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load, check, train the folds, write."""
    import numpy as np

    from workflow_scripts.core.files import read_csv, sha256, write_csv
    from workflow_scripts.networks.backbone import library_versions, save_weights
    from workflow_scripts.networks.cross_validation import cross_validate, initial_classifier
    from workflow_scripts.networks.fold_inputs import join_tables, load_views, training_targets, weights_by_fold
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.runtime.work import Clock, WorkDir

    clock = Clock(arguments.time_limit)
    device = select_device(arguments.device, arguments.threads)
    recipe: FinetuningRecipe = settings(arguments)
    negative, positive = arguments.classes

    index, folds, labels = (read_csv(path) for path in (arguments.index, arguments.folds, arguments.labels))
    sources = (str(arguments.index), str(arguments.folds), str(arguments.labels))
    table = join_tables(index, folds, labels, arguments.classes, sources)
    views = load_views(arguments.views, len(table), arguments.index)
    names = sorted(table["fold"].unique().tolist())
    if len(arguments.output_weights) != len(names):
        raise UserError(
            f"--output-weights names {len(arguments.output_weights)} files; {arguments.folds} has {len(names)} folds"
        )
    starts = weights_by_fold(arguments.weights, names, arguments.layout)
    models = {
        fold: initial_classifier(arguments.backbone, arguments.layout, path, arguments.seed, fold)
        for fold, path in starts.items()
    }
    say(f"{len(table)} views, {int(table['keep'].sum())} kept, {len(names)} folds, on {device}")

    parameters = {
        "stage": "finetune",
        "settings": recipe.model_dump(),
        "seed": arguments.seed,
        "classes": arguments.classes,
        "backbone": arguments.backbone,
        "layout": arguments.layout,
        "weights": [sha256(path) for path in arguments.weights],
        "inputs": {name: sha256(getattr(arguments, name)) for name in ("views", "index", "labels", "folds")},
        "code_version": arguments.code_version,
    }
    work = WorkDir(arguments.work_dir, parameters)
    targets = training_targets(table, labels, positive)
    results = cross_validate(
        models, views, targets, table["fold"].to_numpy(), recipe, arguments.seed, device, work, clock
    )

    probabilities = np.full(len(table), np.nan)
    for result, path in zip(results, arguments.output_weights, strict=True):
        probabilities[result.test] = result.probabilities
        save_weights(result.weights, {**parameters, "fold": result.fold, "versions": library_versions()}, path)
    predictions = table.rename(columns={"keep": "kept"}).assign(
        seed=arguments.seed,
        probability=probabilities,
        prediction=np.where(probabilities > 0.5, positive, negative),
    )
    columns = [
        "view_id",
        "patient_id",
        "fold",
        "seed",
        "label_original",
        "label_policy",
        "kept",
        "probability",
        "prediction",
    ]
    write_csv(predictions[columns], arguments.output)
    work.close()


if __name__ == "__main__":
    run(main, parser())
