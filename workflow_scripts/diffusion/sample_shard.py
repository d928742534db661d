"""Draw one shard of the synthetic views from a diffusion model.

Image j is the same whatever the number of shards and the batch size (up to rounding). Finished batches and the one in
progress survive an interruption.

    python -m workflow_scripts.diffusion.sample_shard --model diffusion/model --images 20000 --shard-count 20 --shard 0 \\
        --output-shard synthesis/shards/0.npy --work-dir work/sample_shard/0
"""

from __future__ import annotations

import argparse
from typing import Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.synthesis import SynthesisRecipe

# Seconds between checkpoints within a batch, which can take hours on a CPU.
SAVE_SECONDS = 300


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "model")
    add_outputs(parser, "shard")
    add_parameters(parser, "shard shard_count images size? asked_classes")
    add_settings(parser, SynthesisRecipe)
    add_run(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load the model, draw batch after batch, write the shard."""
    import numpy as np
    import torch

    from workflow_scripts.core.files import write_npy
    from workflow_scripts.diffusion.pipeline import class_names, load_pipeline
    from workflow_scripts.diffusion.process import GaussianProcess
    from workflow_scripts.diffusion.sampler import (
        Condition,
        image_noise,
        kept_timesteps,
        reverse_steps,
        shard_range,
        to_grey,
    )
    from workflow_scripts.runtime.compilation import compile_forward
    from workflow_scripts.runtime.run import CHECKPOINT, Run

    run = Run(arguments)
    recipe: SynthesisRecipe = settings(arguments)
    device, seed, sampler, length = run.device, recipe.seed, recipe.sampler, recipe.steps

    # The model, and that it is the one that the study asks for.
    images = shard_range(arguments.images, arguments.shard_count, arguments.shard)
    unet, betas = load_pipeline(arguments.model)
    kept = kept_timesteps(len(betas), length, sampler)
    side = unet.config.sample_size
    if arguments.size not in (None, side):
        raise UserError(
            f"{arguments.model} draws views of {side} x {side} pixels, the study has {arguments.size} (data.size); "
            'use a model of that size, or train one (diffusion.model: "")'
        )
    classes = class_names(arguments.model)
    if arguments.asked_classes is not None and arguments.asked_classes != classes:
        raise UserError(
            f"{arguments.model} is conditioned on the classes {classes or 'none'}, the study asks for "
            f"{arguments.asked_classes or 'none'} (diffusion.class_conditional, data.classes)"
        )
    if recipe.guidance != 1 and not classes:
        raise UserError(f"guidance {recipe.guidance}: {arguments.model} is unconditional, there is nothing to guide")
    condition = Condition(len(classes), recipe.guidance) if classes else None
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    unet = unet.to(device, memory_format=layout)
    if run.compiles(length * -(-len(images) // recipe.batch_size)):
        compile_forward(unet)
    process = GaussianProcess(betas, kept, device)
    say(f"images {images.start} to {images.stop - 1} of {arguments.images}, {length} {sampler} steps on {device}")

    run.start(run.identity(recipe, device=device.type))
    batches = [images[first : first + recipe.batch_size] for first in range(0, len(images), recipe.batch_size)]
    files = [f"batch_{number}.npy" for number in range(len(batches))]

    # Steps are the reverse steps of all batches: finished batches are in files, the one in progress in the checkpoint.
    x: torch.Tensor
    start, total = 0, len(batches) * length
    checkpoint = run.work.load(CHECKPOINT)
    if checkpoint is not None:
        start, x = checkpoint["step"], checkpoint["x"].to(device)

    def state() -> dict[str, Any]:
        return {"x": x.cpu()}

    for step in run.steps(total, state, start=start, every=length, seconds=SAVE_SECONDS, label="sampling"):
        number, done = divmod(step, length)
        if done == 0:
            x = image_noise(seed, 0, batches[number], side, device)
        if done == 0 or step == start:
            following = reverse_steps(unet, process, x, done, batches[number], seed, sampler, condition)
        _, x = next(following)
        if done == length - 1:
            run.work.write_block(files[number], to_grey(x))

    write_npy(np.concatenate([run.work.read_block(file) for file in files]), arguments.output_shard)
    run.work.close()


if __name__ == "__main__":
    run(main, parser())
