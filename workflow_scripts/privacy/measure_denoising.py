"""How well the generator denoises the real views that it learnt from, and those of patients it never saw.

The attack of someone who has the weights: where training views are denoised better, the weights tell whom they were
trained on. Writes per view `view_id, patient_id, held_out, error`: the mean squared error of the predicted noise over
eight noise levels and `--noises` noises at each. A conditional model is told no class. Views of the excluded fold are left
out. Finished batches survive an interruption.

    python -m workflow_scripts.privacy.measure_denoising --model diffusion/model --views views/labelled.npy \\
        --index views/labelled.csv --holdout diffusion/holdout.csv --output synthesis/denoising.csv --work-dir work/denoising
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.runtime.cli import add_settings, add_training, run, settings, stage_parser
from workflow_scripts.study.config.manifold import PrivacyRecipe
from workflow_scripts.study.patients import add_reference

SAVE_SECONDS = 300


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Diffusers folder of the generator")
    parser.add_argument("--views", type=Path, required=True, help="store of the labelled views (.npy)")
    parser.add_argument("--index", type=Path, required=True, help="its index (.csv)")
    add_reference(parser, holdout_required=True)
    parser.add_argument("--batch-size", type=int, default=64, help="views per forward pass (default: 64)")
    parser.add_argument("--output", type=Path, required=True, help="CSV, a row per view")
    add_settings(parser, PrivacyRecipe)
    add_training(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Denoise every view with every noise, batch by batch."""
    import time

    import pandas as pd
    import torch

    from workflow_scripts.core.files import read_csv, read_npy, sha256, write_csv
    from workflow_scripts.diffusion.pipeline import load_pipeline
    from workflow_scripts.diffusion.process import GaussianProcess
    from workflow_scripts.diffusion.snapshots import LEVELS, denoising_errors
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.runtime.work import Clock, Interrupted, WorkDir
    from workflow_scripts.study.patients import check_rows, real_masks

    clock = Clock(arguments.time_limit)
    recipe: PrivacyRecipe = settings(arguments)
    noises, seed, batch_size = recipe.noises, recipe.seed, arguments.batch_size
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size} must be at least 1")
    views, index = read_npy(arguments.views), read_csv(arguments.index)
    check_rows({str(arguments.views): len(views), str(arguments.index): len(index)})
    training, held_out = real_masks(index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    used = training | held_out
    views = views[used]
    device = select_device(arguments.device, arguments.threads)
    unet, betas = load_pipeline(arguments.model)
    if unet.config.sample_size != views.shape[1]:
        raise UserError(
            f"{arguments.model} knows views of {unet.config.sample_size} pixels, {arguments.views} holds views of"
            f" {views.shape[1]}; use the views that it was trained on"
        )
    unet = unet.to(device).eval()
    process = GaussianProcess(betas, device=device)
    say(f"{len(views)} views, {LEVELS} noise levels, {noises} noises on {device}")
    work = WorkDir(
        arguments.work_dir,
        {
            "noises": noises, "seed": seed, "batch_size": batch_size,
            "unet": sha256(arguments.model / "unet"), "betas": betas.tolist(),
            "views": sha256(arguments.views), "used": used.astype(int).tolist(),
            "device": device.type, "code_version": arguments.code_version,
        },
    )  # fmt: skip
    batches = -(-len(views) // batch_size)
    checkpoint = work.load("errors.pt") or {"errors": torch.zeros(len(views), dtype=torch.float64), "done": 0}
    errors, finished = checkpoint["errors"], checkpoint["done"]

    def denoise() -> Iterator[int]:
        done, saved = finished, time.monotonic()
        while done < noises * batches:
            noise_round, begun = divmod(done, batches)
            first = begun * batch_size
            for losses in denoising_errors(unet, process, views, batch_size, seed, noise_round, first):
                errors[first : first + len(losses)] += torch.from_numpy(losses) / noises
                first += len(losses)
                done += 1
                yield done
                if clock.is_over() or time.monotonic() - saved > SAVE_SECONDS:
                    work.save("errors.pt", {"errors": errors, "done": done}, done)
                    saved = time.monotonic()
                    if clock.is_over() and done < noises * batches:
                        raise Interrupted(
                            f"time is over after {done} of {noises * batches} batches; try again to go on"
                        )

    for _ in progress(denoise(), "denoising", "batch", noises * batches, finished):
        pass
    table = pd.DataFrame({
        "view_id": index["view_id"].to_numpy()[used],
        "patient_id": index["patient_id"].to_numpy()[used],
        "held_out": held_out[used].astype(int),
        "error": errors.numpy(),
    })  # fmt: skip
    write_csv(table, arguments.output)
    work.close()


if __name__ == "__main__":
    run(main, parser())
