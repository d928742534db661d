"""Train the diffusion model on the labelled views (paper, Sec. 4.2).

It learns from every labelled view, whatever the label policy, but for the patients that are held out. Killed or out of
time, the same command continues where it was. The output is a Diffusers folder with the averaged (EMA) weights:

    python -m workflow_scripts.diffusion.train_diffusion --views views/labelled.npy --index views/labelled.csv \\
        --holdout diffusion/holdout.csv --output diffusion/model --output-metrics diffusion/metrics.jsonl \\
        --work-dir work/diffusion --processes 2

With `--processes` above 1 the command becomes torchrun, with a GPU for each process (or CPUs); `torchrun -m --
workflow_scripts.diffusion.train_diffusion …` does the same.
"""

from __future__ import annotations

import argparse
import platform
import shutil
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.cli import add_settings, add_training, run, settings, stage_parser
from workflow_scripts.study.config.diffusion import DiffusionRecipe
from workflow_scripts.study.patients import add_reference


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--views", type=Path, required=True, help="store of the labelled views (.npy)")
    parser.add_argument("--index", type=Path, required=True, help="its index (.csv)")
    add_reference(parser)
    parser.add_argument(
        "--classes",
        nargs="*",
        default=[],
        help="labels to tell the model, in their order (default: none, unconditional)",
    )
    parser.add_argument(
        "--origin", default="", help="where the views come from if not from patients, for example PHANTOM"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the trained model")
    parser.add_argument(
        "--output-metrics", type=Path, required=True, help="JSON lines of loss, gradient norm and speed"
    )
    parser.add_argument("--tensorboard", type=Path, help="folder of TensorBoard's files (default: none)")
    parser.add_argument(
        "--snapshot-every",
        type=int,
        default=0,
        help="steps between copies of the averaged weights in the model's `snapshots` folder (default: 0, none)",
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="processes to share each batch, one per GPU (default: 1)"
    )
    add_settings(parser, DiffusionRecipe)
    add_training(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Check, train, write."""
    from workflow_scripts.runtime.processes import Processes, relaunch

    relaunch(arguments.processes)
    import diffusers
    import numpy as np
    import torch

    from workflow_scripts.core.files import atomic_directory, read_csv, read_npy, sha256, write_json, write_text
    from workflow_scripts.diffusion.card import model_card
    from workflow_scripts.diffusion.pipeline import refuse_foreign_folder, save_pipeline
    from workflow_scripts.diffusion.process import schedule_betas
    from workflow_scripts.diffusion.training import (
        GRIDS,
        NETWORK_KEYS,
        SNAPSHOTS,
        Labels,
        Trainer,
        check_division,
        train,
    )
    from workflow_scripts.diffusion.unet import architecture
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.runtime.work import Clock, WorkDir
    from workflow_scripts.study.patients import check_rows, real_masks

    clock = Clock(arguments.time_limit)
    recipe: DiffusionRecipe = settings(arguments)
    refuse_foreign_folder(arguments.output)
    views, index = read_npy(arguments.views), read_csv(arguments.index)
    if views.dtype != np.uint8 or views.ndim != 3 or views.shape[1] != views.shape[2]:
        raise UserError(f"{arguments.views} is no store of square uint8 views: {views.dtype} {views.shape}")
    check_rows({str(arguments.views): len(views), str(arguments.index): len(index)})
    schedule_betas(recipe.schedule, recipe.timesteps)
    architecture(views.shape[1], **recipe.model_dump(include=NETWORK_KEYS))
    seen, _ = real_masks(index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    rows = np.flatnonzero(seen)
    processes = Processes()
    check_division(recipe, len(rows), processes.count)
    labels = None
    if arguments.classes:
        unknown = sorted(set(index["label"]) - set(arguments.classes))
        if unknown:
            raise UserError(f"{arguments.index}: label {unknown[0]!r} is none of {', '.join(arguments.classes)}")
        labels = Labels(index["label"].map(arguments.classes.index).to_numpy(), len(arguments.classes))
    patients = index["patient_id"].to_numpy()
    facts = {
        "views": len(rows),
        "patients": len(set(patients[rows])),
        "views left out": len(index) - len(rows),
        "view size": views.shape[1],
    }
    passes = recipe.steps * recipe.batch_size / len(rows)
    say(", ".join(f"{name} {value}" for name, value in {**facts, "passes over them": f"{passes:.0f}"}.items()))

    device = select_device(processes.device_name(arguments.device), arguments.threads)
    processes.join(device)
    trainer = Trainer(views, rows, recipe, device, processes, labels)
    say(f"{processes.count} x {device.type}, {trainer.precision.name}")
    fingerprint = {
        "settings": recipe.model_dump(),
        "views": sha256(arguments.views),
        "learned_rows": rows.tolist(),
        "snapshot_every": arguments.snapshot_every,
        "labels": [arguments.classes, labels.values[rows].tolist()] if labels else None,
        "code_version": arguments.code_version,
    }
    work = processes.work_dir(arguments.work_dir, lambda: WorkDir(arguments.work_dir, fingerprint))
    unet = train(trainer, work, clock, arguments.tensorboard, arguments.origin, arguments.snapshot_every)
    processes.leave()
    if not processes.is_first:
        return

    parameters = {
        "origin": arguments.origin,
        "classes": arguments.classes,
        **facts,
        "settings": recipe.model_dump(),
        "views_sha256": fingerprint["views"],
        "exclude_fold": arguments.exclude_fold,
        "code_version": arguments.code_version,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
    }
    with atomic_directory(arguments.output) as folder:
        save_pipeline(unet, recipe.timesteps, recipe.schedule, folder)
        write_json(parameters, folder / "parameters.json")
        write_text(model_card(arguments.origin, facts, recipe.model_dump(), arguments.classes), folder / "README.md")
        for kept in (GRIDS, SNAPSHOTS):
            if (work.path / kept).is_dir():
                shutil.copytree(work.path / kept, folder / kept)
    write_text(work.metrics_file().read_text(encoding="utf-8"), arguments.output_metrics)
    work.close()


if __name__ == "__main__":
    run(main, parser())
