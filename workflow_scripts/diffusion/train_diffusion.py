"""Train the diffusion model on the labelled views (paper, Sec. 4.2).

It learns from every labelled view, whatever the label policy, except those of held-out patients. Killed or out of time, the
same command continues where it was. The output is a Diffusers folder with the averaged (EMA) weights:

    python -m workflow_scripts.diffusion.train_diffusion --views views/labelled.npy --index views/labelled.csv \\
        --holdout diffusion/holdout.csv --output-model diffusion/trained --output-metrics diffusion/metrics.jsonl \\
        --work-dir work/train_diffusion --processes 2

With `--processes` above 1 the command becomes torchrun, with a GPU for each process (or CPUs); `torchrun -m --
workflow_scripts.diffusion.train_diffusion …` does the same.
"""

from __future__ import annotations

import argparse
import platform
import shutil

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.diffusion import DiffusionRecipe


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index holdout? folds?")
    add_outputs(parser, "model metrics")
    add_parameters(parser, "snapshot_every exclude_fold asked_classes origin")
    add_settings(parser, DiffusionRecipe)
    add_run(parser, shared=True)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Check, train, write."""
    from workflow_scripts.runtime.processes import relaunch

    relaunch(arguments.processes)
    import diffusers
    import numpy as np
    import torch

    from workflow_scripts.core.files import atomic_directory, write_json, write_text
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.diffusion.card import model_card
    from workflow_scripts.diffusion.pipeline import refuse_foreign_folder, save_pipeline
    from workflow_scripts.diffusion.process import schedule_betas
    from workflow_scripts.diffusion.training import (
        GRIDS,
        NETWORK_KEYS,
        SNAPSHOTS,
        Labels,
        Trainer,
        TrainingViews,
        check_division,
        train,
    )
    from workflow_scripts.diffusion.unet import architecture
    from workflow_scripts.runtime.run import Run
    from workflow_scripts.study.patients import real_masks

    run = Run(arguments)
    recipe: DiffusionRecipe = settings(arguments)
    classes = arguments.asked_classes or []
    refuse_foreign_folder(arguments.output_model)
    views = ViewStore.open(arguments.views, arguments.index)
    schedule_betas(recipe.schedule, recipe.timesteps)
    architecture(views.side, **recipe.model_dump(include=NETWORK_KEYS))
    seen, _ = real_masks(views.index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    rows = np.flatnonzero(seen)
    check_division(recipe, len(rows), run.processes.count)
    labels = None
    if classes:
        unknown = sorted(set(views.index["label"]) - set(classes))
        if unknown:
            raise UserError(f"{arguments.index}: label {unknown[0]!r} is not one of {', '.join(classes)}")
        labels = Labels(views.index["label"].map(classes.index).to_numpy(), len(classes))
    facts = {
        "views": len(rows),
        "patients": len(set(views.patients[rows])),
        "views left out": len(views) - len(rows),
        "view size": views.side,
    }
    passes = recipe.steps * recipe.batch_size / len(rows)
    say(", ".join(f"{name} {value}" for name, value in {**facts, "passes over them": f"{passes:.0f}"}.items()))

    compiles = run.compiles(recipe.steps * recipe.accumulate)
    trainer = Trainer(TrainingViews(views.pixels, rows, labels), recipe, run.device, run.processes, compiles)
    say(f"{run.processes.count} x {run.device.type}, {trainer.precision.name}{', compiled' if compiles else ''}")
    identity = run.identity(recipe)
    run.start(identity)
    unet = train(trainer, run, arguments.origin, arguments.snapshot_every)
    if not run.finish():
        return

    versions = {"python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__}
    with atomic_directory(arguments.output_model) as folder:
        save_pipeline(unet, recipe.timesteps, recipe.schedule, folder)
        write_json({**identity, **facts, "classes": classes, "versions": versions}, folder / "parameters.json")
        write_text(model_card(arguments.origin, facts, recipe.model_dump(), classes), folder / "README.md")
        for kept in (GRIDS, SNAPSHOTS):
            if (run.work.path / kept).is_dir():
                shutil.copytree(run.work.path / kept, folder / kept)
    write_text(run.work.metrics_file().read_text(encoding="utf-8"), arguments.output_metrics)
    run.work.close()


if __name__ == "__main__":
    run(main, parser())
