"""Train the copy encoder on the real views and embed with it what the copy audit compares.

It learns from all real views, those that the generator saw and held-out ones alike, except the excluded fold's. Its
features of the labelled views, of the synthetic views, and of planted copies of the views that the generator saw are
written as float32 (N, D), (M, D) and (kinds, copies, D). An interrupted training run is continued.

    python -m workflow_scripts.privacy.embed_copies --views views/labelled.npy --index views/labelled.csv \\
        --synthetic-views views/synthetic.npy --holdout diffusion/holdout.csv --output-copy-real embedding/copy_labelled.npy \\
        --output-copy-synthetic embedding/copy_synthetic.npy --output-copy-planted embedding/copy_planted.npy \\
        --work-dir work/embed_copies
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_npy
from workflow_scripts.core.store import ViewStore, open_pixels
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.manifold import PrivacyRecipe
from workflow_scripts.study.patients import real_masks

SAVE_SECONDS = 300


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index synthetic_views holdout folds?")
    add_outputs(parser, "copy_real copy_synthetic copy_planted")
    add_parameters(parser, "exclude_fold")
    add_settings(parser, PrivacyRecipe)
    add_run(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Train, then embed."""
    import numpy as np

    from workflow_scripts.privacy.copy_encoder import CopyTraining, copy_features
    from workflow_scripts.privacy.planted import planted_copies, planted_rows
    from workflow_scripts.runtime.run import CHECKPOINT, Run
    from workflow_scripts.synthesis.features import exact_float32

    run = Run(arguments)
    exact_float32()
    recipe: PrivacyRecipe = settings(arguments)
    store, synthetic = ViewStore.open(arguments.views, arguments.index), open_pixels(arguments.synthetic_views)
    training, held_out = real_masks(store.index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    if not training.any():
        raise UserError(f"{arguments.holdout} and the excluded fold leave no training views to plant copies of")
    run.start(run.identity(recipe, device=run.device.type))

    # Training.
    encoder = CopyTraining(store.pixels[training | held_out], recipe.encoder_steps, recipe.seed, run.device)
    checkpoint = run.work.load(CHECKPOINT)
    if checkpoint:
        encoder.restore(checkpoint)
    for step in run.steps(
        recipe.encoder_steps,
        encoder.state,
        start=checkpoint["step"] if checkpoint else 0,
        seconds=SAVE_SECONDS,
        label="copy encoder",
    ):
        encoder.step(step)

    # Features.
    known = store.pixels[training]
    copies = planted_copies(known[planted_rows(len(known), recipe.seed)], recipe.shift, recipe.seed)
    planted = [copy_features(encoder.network, copy, run.device) for copy in copies.values()]
    write_npy(copy_features(encoder.network, store.pixels, run.device), arguments.output_copy_real)
    write_npy(copy_features(encoder.network, synthetic, run.device), arguments.output_copy_synthetic)
    write_npy(np.stack(planted), arguments.output_copy_planted)
    run.work.close()


if __name__ == "__main__":
    run(main, parser())
