"""Contrastive pretraining of a backbone on a mix of view stores (paper, Sec. 4.1).

Each image is augmented twice; the two views attract each other and repel all others (L_con), and a linear head tells
the organs apart (L_sup, where the mix has several). The backbone is written without a classifier, ready for
`timm.create_model(NAME, num_classes=0)`, with every parameter of the run in its metadata.

    python -m workflow_scripts.pretraining.pretrain --views labelled.npy thyroid.npy --index labelled.csv thyroid.csv \\
        --organs testicle thyroid --output backbone.safetensors --output-heads heads.safetensors \\
        --output-metrics metrics.jsonl --output-sheet sheet.npy --output-parameters parameters.json --work-dir work/ud

`--processes 2` trains on two GPUs (it starts torchrun); the batch and the result stay those of one process.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.cli import add_settings, add_training, run, settings, stage_parser
from workflow_scripts.study.config.pretraining import PretrainingRecipe

if TYPE_CHECKING:
    from workflow_scripts.pretraining.mix import ViewUnion


def main(arguments: argparse.Namespace) -> None:
    """Load the mix and the backbone, train, write."""
    from workflow_scripts.runtime.processes import Processes, relaunch

    relaunch(arguments.processes)
    from workflow_scripts.core.files import sha256, write_json, write_npy, write_text
    from workflow_scripts.networks.backbone import create_backbone, library_versions, load_initialisation, save_weights
    from workflow_scripts.pretraining.augmentation import view_recipes
    from workflow_scripts.pretraining.loop import make_encoder, pretrain
    from workflow_scripts.pretraining.monitor import sheet
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.runtime.work import Clock, WorkDir

    clock = Clock(arguments.time_limit)
    processes = Processes()
    device = select_device(processes.device_name(arguments.device), arguments.threads)
    processes.join(device)
    recipe: PretrainingRecipe = settings(arguments)

    left_out = left_out_patients(arguments.folds, arguments.exclude_fold)
    views, sets = load_mix(arguments.views, arguments.index, arguments.organs, left_out, arguments.shares)
    identity = {
        "settings": recipe.model_dump(),
        "backbone": arguments.backbone,
        "layout": arguments.layout,
        "weights": sha256(arguments.weights) if arguments.weights else None,
        "organs": arguments.organs,
        "sets": sets,
        "folds": sha256(arguments.folds) if arguments.folds else None,
        "exclude_fold": arguments.exclude_fold,
        "code_version": arguments.code_version,
    }

    backbone = create_backbone(arguments.backbone, recipe.seed)
    load_initialisation(backbone, arguments.layout, arguments.weights, recipe.seed)
    encoder = make_encoder(backbone, len(arguments.organs), views, recipe)
    losses = " and ".join(
        name for name, head in (("L_con", encoder.projection), ("L_sup", encoder.organ)) if head is not None
    )
    say(f"{len(views)} views of {len(sets)} sets, {losses}, {recipe.steps} steps of {recipe.batch_size} on {device}")

    work = processes.work_dir(arguments.work_dir, lambda: WorkDir(arguments.work_dir, identity))
    pretrain(encoder, views, recipe, device, work, clock, processes, arguments.tensorboard)
    processes.leave()
    if not processes.is_first:
        return

    parameters = {**identity, "views": len(views), "device": device.type, "versions": library_versions()}
    state = encoder.state_dict()
    backbone_part = {name for name in state if name.startswith("backbone.")}
    save_weights({n.removeprefix("backbone."): state[n] for n in backbone_part}, parameters, arguments.output)
    save_weights({n: state[n] for n in state if n not in backbone_part}, parameters, arguments.output_heads)
    write_text(work.metrics_file().read_text(encoding="utf-8"), arguments.output_metrics)
    write_npy(sheet(views, view_recipes(recipe.augmentation), recipe.seed), arguments.output_sheet)
    write_json(parameters, arguments.output_parameters)
    work.close()


def left_out_patients(folds: Path | None, fold: int | None) -> set[str]:
    """The patients of a fold (columns `patient_id`, `fold`), who must not be seen; none without `--exclude-fold`."""
    from workflow_scripts.core.files import read_csv

    if folds is None or fold is None:
        if folds is not None or fold is not None:
            raise UserError("--folds and --exclude-fold go together: give both, or neither to leave nobody out")
        return set()
    table = read_csv(folds)
    patients = set(table.loc[table["fold"] == fold, "patient_id"])
    if not patients:
        raise UserError(f"{folds}: no patient is in fold {fold}; it has {sorted(table['fold'].unique().tolist())}")
    return patients


def load_mix(
    stores: list[Path], indexes: list[Path], organs: list[str], left_out: set[str], shares: list[float]
) -> tuple[ViewUnion, list[dict[str, Any]]]:
    """The union of the stores without the left-out patients, and what each of them contributes."""
    import numpy as np

    from workflow_scripts.core.files import read_csv, read_npy, sha256
    from workflow_scripts.pretraining.mix import ViewUnion

    shares = shares or [1.0] * len(stores)
    if len(shares) != len(stores) or not all(0 < share <= 1 for share in shares):
        raise UserError(f"--shares {shares}: give one number above 0 and up to 1 for each of the {len(stores)} stores")
    if len(stores) != len(indexes):
        raise UserError(f"--views names {len(stores)} stores, --index {len(indexes)}: each store needs its own index")
    arrays: list[np.ndarray] = []
    rows, shown, sets = [], [], []
    patients: list[str] = []
    labels: list[str] = []
    for store, file, share in zip(stores, indexes, shares, strict=True):
        digests = {"sha256": sha256(store), "index_sha256": sha256(file)}
        array, index = read_npy(store), read_csv(file)
        if len(array) != len(index):
            raise UserError(f"{store} has {len(array)} views but {file} {len(index)} rows: make both again together")
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[1:] != (arrays or [array])[0].shape[1:]:
            raise UserError(f"{store} holds {array.dtype} {array.shape}; expected uint8 (N, H, W) as in {stores[0]}")
        unknown = index.index[~index["organ"].isin(organs)]
        if len(unknown):
            organ = index.loc[unknown[0], "organ"]
            raise UserError(f"{file}, row {unknown[0] + 2}: organ {organ!r} is none of --organs {' '.join(organs)}")
        kept = np.flatnonzero(~index["patient_id"].isin(left_out))
        arrays.append(array)
        rows.append(kept)
        shown.append(index["organ"].map(organs.index).to_numpy()[kept])
        patients += index["patient_id"].iloc[kept].tolist()
        labels += index["label"].iloc[kept].tolist()
        counts = {"views": len(kept), "left_out": len(index) - len(kept), "share": share}
        sets.append({"name": store.stem, **counts, **digests})
    classes = sorted({label for label in labels if label})
    codes = [classes.index(label) if label else -1 for label in labels]
    return ViewUnion(arrays, rows, shown, shares, patients, codes), sets


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--views", type=Path, nargs="+", required=True, help="view stores of the mix, uint8 .npy")
    parser.add_argument("--index", type=Path, nargs="+", required=True, help="their indexes, .csv, in the same order")
    parser.add_argument("--organs", nargs="+", required=True, help="organs of the study; their order gives the labels")
    parser.add_argument(
        "--shares", type=float, nargs="*", default=[],
        help="share of each store's views that an epoch draws, in the same order (default: all)",
    )  # fmt: skip
    parser.add_argument("--backbone", default="resnet18", help="timm network (default: resnet18)")
    parser.add_argument(
        "--layout", choices=["scratch", "torchvision", "uscl", "timm"], default="scratch",
        help="key layout of --weights; scratch starts from random weights (default: scratch)",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, nargs="?", help="weights to start from; none for scratch")
    parser.add_argument("--folds", type=Path, help="fold file of a seed, with --exclude-fold")
    parser.add_argument("--exclude-fold", type=int, help="leave out every view of this fold's patients")
    parser.add_argument("--output", type=Path, required=True, help="backbone, .safetensors under timm's keys")
    parser.add_argument("--output-heads", type=Path, required=True, help="projection and organ head, .safetensors")
    parser.add_argument("--output-metrics", type=Path, required=True, help="losses and diagnostics, JSON lines")
    parser.add_argument("--output-sheet", type=Path, required=True, help="images and views drawn of them, .npy")
    parser.add_argument("--output-parameters", type=Path, required=True, help="every parameter of the run, JSON")
    add_settings(parser, PretrainingRecipe)
    add_training(parser)
    parser.add_argument("--tensorboard", type=Path, help="folder of TensorBoard's files (default: none)")
    parser.add_argument(
        "--processes", type=int, default=1, help="processes to share each batch, one per GPU (default: 1)"
    )
    return parser


if __name__ == "__main__":
    run(main, parser())
