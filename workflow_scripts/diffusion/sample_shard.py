"""Draw one shard of the synthetic views from a diffusion model.

Image j is the same whatever the number of shards and the batch size (up to the arithmetic's rounding). Finished batches
and the one at work survive an interruption.

    python -m workflow_scripts.diffusion.sample_shard --model diffusion/model --images 20000 --shards 20 --shard 0 \\
        --output synthesis/shards/0.npy --work-dir work/synthesis/0
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.runtime.cli import add_settings, add_training, run, settings, stage_parser
from workflow_scripts.study.config.synthesis import SynthesisRecipe

# A batch at work is saved about this often; on a CPU it can take hours.
SAVE_SECONDS = 300


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--model", type=Path, required=True, help="Diffusers folder: grey, learned range, trained here if conditional"
    )
    parser.add_argument(
        "--size", type=int, help="side that the views must have; another model is refused (default: any)"
    )
    parser.add_argument(
        "--classes", nargs="*", help="classes that the model must have been told, none or more (default: any)"
    )
    parser.add_argument("--images", type=int, required=True, help="images of all shards together")
    parser.add_argument("--shards", type=int, default=1, help="number of shards (default: 1)")
    parser.add_argument("--shard", type=int, default=0, help="which of them to draw, from 0 (default: 0)")
    parser.add_argument("--output", type=Path, required=True, help=".npy, uint8 (n, size, size)")
    add_settings(parser, SynthesisRecipe)
    add_training(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load the model, draw batch after batch, write the shard."""
    import time

    import numpy as np
    import torch

    from workflow_scripts.core.files import read_npy, sha256, write_npy
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
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.runtime.work import Clock, Interrupted, WorkDir

    clock = Clock(arguments.time_limit)
    recipe: SynthesisRecipe = settings(arguments)
    seed, sampler, length, batch_size = recipe.seed, recipe.sampler, recipe.steps, recipe.batch_size
    images = shard_range(arguments.images, arguments.shards, arguments.shard)
    device = select_device(arguments.device, arguments.threads)
    unet, betas = load_pipeline(arguments.model)
    kept = kept_timesteps(len(betas), length, sampler)
    side = unet.config.sample_size
    if arguments.size not in (None, side):
        raise UserError(
            f"{arguments.model} draws views of {side} x {side} pixels, the study has {arguments.size} (data.size); "
            'use a model of that size, or train one (diffusion.model: "")'
        )
    classes = class_names(arguments.model)
    if arguments.classes is not None and arguments.classes != classes:
        raise UserError(
            f"{arguments.model} was told the classes {classes or 'none'}, the study asks for "
            f"{arguments.classes or 'none'} (diffusion.class_conditional, data.classes)"
        )
    if recipe.guidance != 1 and not classes:
        raise UserError(f"guidance {recipe.guidance}: {arguments.model} is unconditional, there is nothing to guide")
    condition = Condition(len(classes), recipe.guidance) if classes else None
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    unet = unet.to(device, memory_format=layout)
    process = GaussianProcess(betas, kept, device)
    say(f"images {images.start} to {images.stop - 1} of {arguments.images}, {length} {sampler} steps on {device}")

    work = WorkDir(
        arguments.work_dir,
        {
            "settings": recipe.model_dump(),
            "images": [images.start, images.stop],
            "unet": sha256(arguments.model / "unet"),
            "betas": betas.tolist(),
            "classes": classes,
            "device": device.type,
            "code_version": arguments.code_version,
        },
    )
    # Progress counts reverse steps over all batches: finished batches lie in files, the one at work in a checkpoint.
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    finished = work.state["progress"] // length

    def batch_file(number: int) -> Path:
        return work.path / f"batch_{number}.npy"

    def draw() -> Iterator[int]:
        """The images of the batches that are not finished yet, each batch once it is on disk."""
        for number, batch in enumerate(batches):
            if number < finished:
                continue
            x, begun = image_noise(seed, 0, batch, side, device), 0
            checkpoint = work.load("batch.pt")
            if checkpoint is not None and checkpoint["batch"] == number:
                x, begun = checkpoint["x"].to(device), checkpoint["done"]
            saved = time.monotonic()
            for done, state in reverse_steps(unet, process, x, begun, batch, seed, sampler, condition):
                x = state
                is_over = clock.is_over()
                if done < length and (is_over or time.monotonic() - saved > SAVE_SECONDS):
                    work.save("batch.pt", {"batch": number, "done": done, "x": x.cpu()}, number * length + done)
                    saved = time.monotonic()
                    if is_over:
                        raise Interrupted(
                            f"time is over at image {batch[0]}, step {done} of {length}; try again to go on"
                        )
            write_npy(to_grey(x), batch_file(number))
            work.advance((number + 1) * length)
            yield from batch

    before = sum(len(batch) for batch in batches[:finished])
    for _ in progress(draw(), "sampling", "image", len(images), before):
        pass
    write_npy(np.concatenate([read_npy(batch_file(number)) for number in range(len(batches))]), arguments.output)
    work.close()


if __name__ == "__main__":
    run(main, parser())
