"""Contrastive pretraining of a backbone on a mix of view stores (paper, Sec. 4.1).

Each image is augmented twice; the two views attract each other and repel all others (L_con), and a linear head
distinguishes the organs (L_sup, where the mix has several). The backbone is written without a classifier, ready for
`timm.create_model(NAME, num_classes=0)`, with every parameter of the run in its metadata.

    python -m workflow_scripts.pretraining.pretrain --views labelled.npy thyroid.npy --index labelled.csv thyroid.csv \\
        --organs testicle thyroid --output-backbone backbone.safetensors --output-heads heads.safetensors \\
        --output-metrics metrics.jsonl --output-sheet sheet.npy --output-parameters parameters.json --work-dir work/ud

`--processes 2` trains on two GPUs (it starts torchrun); the batch and the result stay those of one process.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.pretraining import PretrainingRecipe

if TYPE_CHECKING:
    from workflow_scripts.pretraining.mix import ViewUnion


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views+ index+ folds? weights?")
    add_outputs(parser, "backbone heads metrics sheet parameters")
    add_parameters(parser, "organs set_shares exclude_fold backbone normalisation layout")
    add_settings(parser, PretrainingRecipe)
    add_run(parser, shared=True)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load the mix and the backbone, train, write."""
    from workflow_scripts.runtime.processes import relaunch

    relaunch(arguments.processes)
    from workflow_scripts.core.files import write_json, write_npy, write_text
    from workflow_scripts.networks.backbone import create_backbone, library_versions, load_initialisation, save_weights
    from workflow_scripts.pretraining.augmentation import view_recipes
    from workflow_scripts.pretraining.loop import make_encoder, pretrain
    from workflow_scripts.pretraining.monitor import sheet
    from workflow_scripts.runtime.run import Run

    run = Run(arguments)
    recipe: PretrainingRecipe = settings(arguments)

    # The views and the network to start from.
    left_out = left_out_patients(arguments.folds, arguments.exclude_fold)
    views, sets = load_mix(arguments.views, arguments.index, arguments.organs, left_out, arguments.set_shares)
    backbone = create_backbone(arguments.backbone, recipe.seed, arguments.normalisation, views.stores[0].shape[1])
    load_initialisation(backbone, arguments.layout, arguments.weights, recipe.seed)
    encoder = make_encoder(backbone, len(arguments.organs), views, recipe)
    losses = " and ".join(
        name for name, head in (("L_con", encoder.projection), ("L_sup", encoder.organ)) if head is not None
    )
    say(
        f"{len(views)} views of {len(sets)} sets, {losses}, {recipe.steps} steps of {recipe.batch_size} on {run.device}"
    )

    # Training.
    identity = run.identity(recipe, sets=sets)
    run.start(identity)
    pretrain(encoder, views, recipe, run)
    if not run.finish():
        return

    # Results.
    parameters = {**identity, "views": len(views), "device": run.device.type, "versions": library_versions()}
    state = encoder.state_dict()
    backbone_part = {name for name in state if name.startswith("backbone.")}
    save_weights({n.removeprefix("backbone."): state[n] for n in backbone_part}, parameters, arguments.output_backbone)
    save_weights({n: state[n] for n in state if n not in backbone_part}, parameters, arguments.output_heads)
    write_text(run.work.metrics_file().read_text(encoding="utf-8"), arguments.output_metrics)
    drawn = sheet(views, view_recipes(recipe.augmentation), recipe.seed, recipe.pairs == "frame")
    write_npy(drawn, arguments.output_sheet)
    write_json(parameters, arguments.output_parameters)
    run.work.close()


def left_out_patients(folds: Path | None, fold: int | None) -> set[str]:
    """The patients of a fold (columns `patient_id`, `fold`), who must not be seen; none without `--exclude-fold`."""
    from workflow_scripts.core.files import read_csv

    if folds is None or fold is None:
        if folds is not None or fold is not None:
            raise UserError("--folds and --exclude-fold go together: give both, or neither to use all patients")
        return set()
    table = read_csv(folds, "folds")
    patients = set(table.loc[table["fold"] == fold, "patient_id"])
    if not patients:
        raise UserError(f"{folds}: no patient is in fold {fold}; it has {sorted(table['fold'].unique().tolist())}")
    return patients


def load_mix(
    stores: list[Path], indexes: list[Path], organs: list[str], left_out: set[str], shares: list[float]
) -> tuple[ViewUnion, list[dict[str, Any]]]:
    """The union of the stores without the left-out patients, and what each of them contributes."""
    import numpy as np

    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.pretraining.mix import ViewUnion

    shares = shares or [1.0] * len(stores)
    if len(shares) != len(stores) or not all(0 < share <= 1 for share in shares):
        raise UserError(
            f"--set-shares {shares}: give one number above 0 and up to 1 for each of the {len(stores)} stores"
        )
    if len(stores) != len(indexes):
        raise UserError(f"--views names {len(stores)} stores, --index {len(indexes)}: each store needs its own index")
    arrays: list[np.ndarray] = []
    rows, shown, sets = [], [], []
    patients: list[str] = []
    labels: list[str] = []
    frames: list[str] = []
    for path, file, share in zip(stores, indexes, shares, strict=True):
        store = ViewStore.open(path, file)
        if arrays and store.pixels.shape[1:] != arrays[0].shape[1:]:
            side, first = store.side, arrays[0].shape[1]
            raise UserError(
                f"{path} holds views of {side} x {side} pixels, {stores[0]} of {first} x {first}: make both with one size"
            )
        index = store.index
        unknown = index.index[~index["organ"].isin(organs)]
        if len(unknown):
            organ = index.loc[unknown[0], "organ"]
            raise UserError(f"{file}, row {unknown[0] + 2}: organ {organ!r} is not one of --organs {' '.join(organs)}")
        kept = np.flatnonzero(~index["patient_id"].isin(left_out))
        arrays.append(store.pixels)
        rows.append(kept)
        shown.append(index["organ"].map(organs.index).to_numpy()[kept])
        patients += index["patient_id"].iloc[kept].tolist()
        labels += index["label"].iloc[kept].tolist()
        frames += [f"{path}\0{frame}" for frame in index["image_id"].iloc[kept]]
        sets.append({"name": path.stem, "views": len(kept), "left_out": len(store) - len(kept), "share": share})
    classes = sorted({label for label in labels if label})
    codes = [classes.index(label) if label else -1 for label in labels]
    return ViewUnion(arrays, rows, shown, shares, patients, codes, frames), sets


if __name__ == "__main__":
    run(main, parser())
