"""Train the copy audit's networks on the real views and embed with them what it compares.

They learn from all real views, those that the generator saw and held-out ones alike, except the excluded fold's. Their
features of the labelled views and of crops of these, of the synthetic views, and of planted copies of the views that the
generator saw are written as float32 (N, networks, crops, D), (M, networks, 1, D) and (kinds, copies, networks, 1, D). An
interrupted training run is continued.

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

    from workflow_scripts.privacy.copy_encoder import TRAININGS, copy_features
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

    # Training, one network after the other.
    learnt = store.select(training | held_out)
    encoders = [
        begin(learnt.pixels, learnt.patients, recipe.encoder_steps, recipe.seed, run.device)
        for begin in TRAININGS.values()
    ]
    checkpoint = run.work.load(CHECKPOINT)
    if checkpoint:
        for encoder, state in zip(encoders, checkpoint["encoders"], strict=True):
            encoder.restore(state)
    for step in run.steps(
        len(encoders) * recipe.encoder_steps,
        lambda: {"encoders": [encoder.state() for encoder in encoders]},
        start=checkpoint["step"] if checkpoint else 0,
        seconds=SAVE_SECONDS,
        label="encoders",
    ):
        number, own_step = divmod(step, recipe.encoder_steps)
        encoders[number].step(own_step)

    # Features.
    def features(views: np.ndarray, crops: bool = False) -> np.ndarray:
        return np.stack([copy_features(encoder.network, views, run.device, crops) for encoder in encoders], axis=1)

    known = store.pixels[training]
    copies = planted_copies(known[planted_rows(len(known), recipe.seed)], recipe.shift, recipe.seed)
    write_npy(features(store.pixels, crops=True), arguments.output_copy_real)
    write_npy(features(synthetic), arguments.output_copy_synthetic)
    write_npy(np.stack([features(copy) for copy in copies.values()]), arguments.output_copy_planted)
    run.work.close()


if __name__ == "__main__":
    run(main, parser())
