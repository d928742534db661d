"""The snapshots of a training run, one after the other: each draws the same images, and something is measured on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel

from workflow_scripts.core.files import read_json
from workflow_scripts.core.log import say
from workflow_scripts.diffusion.pipeline import class_names, load_pipeline
from workflow_scripts.diffusion.process import GaussianProcess, spaced_timesteps
from workflow_scripts.diffusion.sampler import Condition
from workflow_scripts.diffusion.snapshots import drawn_images, load_weights, snapshot_files
from workflow_scripts.runtime.run import CHECKPOINT, Run
from workflow_scripts.study.config.base import Settings

SAVE_SECONDS = 300
# Of the images of a snapshot, uint8 (N, S, S), the network with its weights and the process with all timesteps: rows.
Measure = Callable[[np.ndarray, UNet2DModel, GaussianProcess], Sequence[dict[str, Any]]]


def measure_snapshots(model: Path, run: Run, recipe: Settings, measure: Callable[[], Measure]) -> list[dict[str, Any]]:
    """The rows that `measure()` gives for each snapshot of `model`, its own weights last, each with its `step`.

    `recipe` has images, steps, batch_size and seed. `measure` is called once the run has started. Sampled batches and
    measured snapshots survive an interruption.
    """
    images, steps, batch_size, seed = (
        getattr(recipe, name) for name in ("images", "steps", "batch_size", "seed")
    )  # fmt: skip
    unet, betas = load_pipeline(model)
    unet = unet.to(run.device)
    condition = Condition(len(classes)) if (classes := class_names(model)) else None
    whole = GaussianProcess(betas, device=run.device)
    short = GaussianProcess(betas, spaced_timesteps(len(betas), steps), run.device)
    final = {name: value.clone() for name, value in unet.state_dict().items()}
    last = read_json(model / "parameters.json")["settings"]["steps"]
    snapshots: list[tuple[int, Path | None]] = [*snapshot_files(model).items(), (last, None)]
    say(f"{len(snapshots)} snapshots, {images} images each, {steps} steps on {run.device}")
    run.start(run.identity(recipe, device=run.device.type))
    measured = measure()

    # A batch of images at a time; a snapshot is measured with its last one.
    batches = -(-images // batch_size)
    checkpoint = run.work.load(CHECKPOINT) or {"step": 0, "rows": [], "images": []}
    rows: list[dict[str, Any]] = checkpoint["rows"]
    parts: list[torch.Tensor] = checkpoint["images"]
    loaded = None

    def state() -> dict[str, Any]:
        return {"rows": rows, "images": parts}

    for number in run.steps(
        len(snapshots) * batches,
        state,
        start=checkpoint["step"],
        every=batches,
        seconds=SAVE_SECONDS,
        label="snapshots",
        unit="batch",
    ):
        position, batch = divmod(number, batches)
        step, file = snapshots[position]
        if loaded != step:
            if file is None:
                unet.load_state_dict(final)
            else:
                load_weights(unet, file)
            loaded = step
        drawn = drawn_images(unet, short, images, batch_size, seed, condition, batch * batch_size)
        parts.append(torch.from_numpy(next(drawn)))
        if batch == batches - 1:
            found = measured(torch.cat(parts).numpy(), unet, whole)
            rows.extend({"step": step, **row} for row in found)
            parts.clear()
    return rows
