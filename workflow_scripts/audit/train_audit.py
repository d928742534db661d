"""Train on the original labels and record how well each view is fitted, fold by fold of one seed (paper, Sec. 3).

With --record training, the paper's way, the recorded loss is the one that training itself computes: of the augmented
view, in train mode, in its batch, before the step that the batch leads to. With the sampler `weighted` a view drawn more
than once in an epoch counts with its mean and one not drawn has no row. With --record evaluation it is that of the clean
view in eval mode, for every view of the training part after each epoch. Epochs count from 1.
Beside the losses, each view gets the probability that the model of its own fold, which never saw its patient, gives it.

    python -m workflow_scripts.audit.train_audit --views views/labelled.npy --index views/labelled.csv --folds folds/seed0.csv \\
        --seed 0 --classes homogeneous inhomogeneous --layout torchvision --weights weights/resnet18-f37072fd.pth \\
        --output audit/imagenet_seed0.csv --output-oof audit/imagenet_seed0_oof.csv --work-dir work/imagenet_seed0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.log import say
from workflow_scripts.runtime.cli import add_settings, add_training, run, settings, stage_parser
from workflow_scripts.study.config.audit import AuditRecipe


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--views", type=Path, required=True, help="store of the labelled views, uint8 .npy")
    parser.add_argument("--index", type=Path, required=True, help="its index CSV with the original labels")
    parser.add_argument("--folds", type=Path, required=True, help="CSV patient_id,fold of the seed")
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
    parser.add_argument("--output", type=Path, required=True, help="CSV view_id,fold,epoch,loss (training part only)")
    parser.add_argument("--output-oof", type=Path, required=True, help="CSV view_id,fold,probability (out of fold)")
    parser.add_argument(
        "--record", choices=["training", "evaluation"], default="training",
        help="losses of the training batches, or of a pass over the clean views after each epoch (default: training)",
    )  # fmt: skip
    add_settings(parser, AuditRecipe)
    add_training(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load, check, train the folds, write."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.files import read_csv, sha256, write_csv
    from workflow_scripts.networks.cross_validation import Fold, cross_validate, initial_classifier
    from workflow_scripts.networks.fold_inputs import join_tables, load_views, training_targets, weights_by_fold
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.runtime.work import Clock, WorkDir

    clock = Clock(arguments.time_limit)
    device = select_device(arguments.device, arguments.threads)
    recipe: AuditRecipe = settings(arguments)

    index, folds = read_csv(arguments.index), read_csv(arguments.folds)
    sources = (str(arguments.index), str(arguments.folds), str(arguments.index))
    table = join_tables(index, folds, None, arguments.classes, sources)
    views = load_views(arguments.views, len(table), arguments.index)
    starts = weights_by_fold(arguments.weights, sorted(table["fold"].unique().tolist()), arguments.layout)
    models = {
        fold: initial_classifier(arguments.backbone, arguments.layout, path, arguments.seed, fold)
        for fold, path in starts.items()
    }
    say(f"{len(table)} views, {len(models)} folds, on {device}")

    fingerprint = {
        "stage": "audit",
        "settings": recipe.model_dump(),
        "record": arguments.record,
        "seed": arguments.seed,
        "classes": arguments.classes,
        "backbone": arguments.backbone,
        "layout": arguments.layout,
        "weights": [sha256(path) for path in arguments.weights],
        "inputs": {name: sha256(getattr(arguments, name)) for name in ("views", "index", "folds")},
        "code_version": arguments.code_version,
    }
    work = WorkDir(arguments.work_dir, fingerprint)
    targets = training_targets(table, None, arguments.classes[1])
    results = cross_validate(
        models, views, targets, table["fold"].to_numpy(), recipe, arguments.seed, device, work, clock, arguments.record
    )

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
    write_csv(pd.concat([long_table(result) for result in results]), arguments.output)
    work.close()


if __name__ == "__main__":
    run(main, parser())
