"""How well the generator denoises the real views that it learnt from, and those of patients it never saw.

The attack of someone who has the weights: where training views are denoised better, the weights reveal whom they were
trained on. Writes per view `view_id, patient_id, held_out, error, secmi`: the mean squared error of the predicted noise over
eight noise levels and `--noises` noises at each, and SecMI's error of a step there and back (Duan et al. 2023), which
needs no noise. A conditional model is given no class. Views of the excluded fold are left out. Finished batches survive an
interruption.

    python -m workflow_scripts.privacy.measure_denoising --model diffusion/model --views views/labelled.npy \\
        --index views/labelled.csv --holdout diffusion/holdout.csv --output-denoising synthesis/denoising.csv \\
        --work-dir work/measure_denoising
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.manifold import PrivacyRecipe

SAVE_SECONDS = 300


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "model views index holdout folds?")
    add_outputs(parser, "denoising")
    add_parameters(parser, "batch_size exclude_fold")
    add_settings(parser, PrivacyRecipe)
    add_run(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Denoise every view with every noise, batch by batch."""
    import pandas as pd
    import torch

    from workflow_scripts.core.files import write_csv
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.diffusion.pipeline import load_pipeline
    from workflow_scripts.diffusion.process import GaussianProcess
    from workflow_scripts.diffusion.snapshots import LEVELS, denoising_errors, reverse_step_errors
    from workflow_scripts.runtime.run import CHECKPOINT, Run
    from workflow_scripts.study.patients import real_masks

    batch_size = arguments.batch_size
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size} must be at least 1")
    run = Run(arguments)
    recipe: PrivacyRecipe = settings(arguments)
    store = ViewStore.open(arguments.views, arguments.index)
    training, held_out = real_masks(store.index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    used = store.select(training | held_out)
    unet, betas = load_pipeline(arguments.model)
    if unet.config.sample_size != store.side:
        raise UserError(
            f"{arguments.model} was trained on views of {unet.config.sample_size} pixels, {arguments.views} holds views of"
            f" {store.side}; use the views that it was trained on"
        )
    unet = unet.to(run.device).eval()
    process = GaussianProcess(betas, device=run.device)
    say(f"{len(used)} views, {LEVELS} noise levels, {recipe.noises} noises on {run.device}")
    run.start(run.identity(recipe, device=run.device.type))

    batches = -(-len(used) // batch_size)
    checkpoint = run.work.load(CHECKPOINT)
    errors = {
        name: checkpoint[name] if checkpoint else torch.zeros(len(used), dtype=torch.float64)
        for name in ("error", "secmi")
    }
    for step in run.steps(
        (recipe.noises + 1) * batches,
        lambda: errors,
        start=checkpoint["step"] if checkpoint else 0,
        seconds=SAVE_SECONDS,
        label="denoising",
        unit="batch",
    ):
        # One round per noise, and one for SecMI.
        noise_round, batch = divmod(step, batches)
        first = batch * batch_size
        if noise_round < recipe.noises:
            found = next(denoising_errors(unet, process, used.pixels, batch_size, recipe.seed, noise_round, first))
            errors["error"][first : first + len(found)] += torch.from_numpy(found) / recipe.noises
        else:
            found = next(reverse_step_errors(unet, process, used.pixels, batch_size, first))
            errors["secmi"][first : first + len(found)] = torch.from_numpy(found)

    table = pd.DataFrame({
        "view_id": used.index["view_id"],
        "patient_id": used.patients,
        "held_out": held_out[training | held_out].astype(int),
        **{name: values.numpy() for name, values in errors.items()},
    })  # fmt: skip
    write_csv(table, arguments.output_denoising)
    run.work.close()


if __name__ == "__main__":
    run(main, parser())
