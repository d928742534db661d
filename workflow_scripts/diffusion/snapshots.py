"""Snapshots of a training run: their samples, and how well they denoise views that they never saw."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.randomness import normals
from workflow_scripts.diffusion.process import GaussianProcess
from workflow_scripts.diffusion.sampler import Condition, image_noise, reverse_steps, to_grey
from workflow_scripts.diffusion.training import SNAPSHOTS
from workflow_scripts.runtime.device import autocast, to_device, to_numpy

# Noise levels at which denoising is measured: the middles of so many equal parts of the timesteps.
LEVELS = 8
STREAM = "denoising"
# SecMI (Duan et al. 2023): the share of the signal's variance that is left where the step back is taken, and steps to there.
SIGNAL_LEFT, STEPS_THERE = 0.9, 10


def snapshot_files(folder: Path) -> dict[int, Path]:
    """The snapshots of a trained model's folder by step, in order; its own weights, the last ones, are not among them."""
    files = sorted((folder / SNAPSHOTS).glob("step_*.safetensors"))
    return {int(file.stem.removeprefix("step_")): file for file in files}


def load_weights(unet: UNet2DModel, file: Path) -> None:
    """Put a snapshot's weights into the network; UserError if they do not fit."""
    try:
        unet.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a snapshot of this model: {str(error).splitlines()[0]}") from error


def drawn_images(
    unet: UNet2DModel,
    process: GaussianProcess,
    count: int,
    batch_size: int,
    seed: int,
    condition: Condition | None = None,
    first: int = 0,
) -> Iterator[np.ndarray]:
    """Ancestral samples of `process`, uint8 (batch, S, S), batch by batch from image `first` on; the same noise for every
    network."""
    device, side = next(unet.parameters()).device, unet.config.sample_size
    for start in range(first, count, batch_size):
        images = range(start, min(start + batch_size, count))
        state = image_noise(seed, 0, images, side, device)
        for _, following in reverse_steps(unet, process, state, 0, images, seed, "ancestral", condition):
            state = following
        yield to_grey(state)


def denoising_errors(
    unet: UNet2DModel,
    process: GaussianProcess,
    views: np.ndarray,
    batch_size: int,
    seed: int,
    noise_round: int = 0,
    first: int = 0,
) -> Iterator[np.ndarray]:
    """Mean squared error of the predicted noise, float64 (batch,), of views uint8 (N, S, S) over LEVELS noise levels.

    Batch by batch from row `first` on. A conditional model is given no class. The noise of a view depends on the seed, its
    row, the level and the round, so that networks are compared on the same task. `process` has all timesteps.
    """
    device, length = next(unet.parameters()).device, len(process)
    classes = unet.config.num_class_embeds
    for start in range(first, len(views), batch_size):
        rows = range(start, min(start + batch_size, len(views)))
        losses = torch.zeros(len(rows), dtype=torch.float64, device=device)
        x0 = to_device(views[rows.start : rows.stop].astype(np.float32) / 127.5 - 1, device)[:, None]
        for level in range(LEVELS):
            t = torch.full((len(rows),), (2 * level + 1) * length // (2 * LEVELS), device=device)
            drawn = normals(seed, STREAM, LEVELS * noise_round + level, rows, tuple(x0.shape[1:]))
            noise = to_device(drawn, device)
            with torch.no_grad(), autocast(device):
                labels = torch.full_like(t, classes - 1) if classes else None  # the last label means none
                predicted = unet(process.q_sample(x0, t, noise), t, class_labels=labels).sample[:, :1]
            errors = ((predicted.float() - noise) ** 2).flatten(1).mean(dim=1)
            losses += errors.double() / LEVELS
        yield to_numpy(losses)


def denoising_loss(
    unet: UNet2DModel, process: GaussianProcess, views: np.ndarray, batch_size: int, seed: int
) -> np.ndarray:
    """`denoising_errors` of all views, float64 (N,), with one noise per level."""
    return np.concatenate(list(denoising_errors(unet, process, views, batch_size, seed)))


def reverse_step_errors(
    unet: UNet2DModel, process: GaussianProcess, views: np.ndarray, batch_size: int, first: int = 0
) -> Iterator[np.ndarray]:
    """SecMI's error, float64 (batch,), of views uint8 (N, S, S): how far a step there and back again leads astray.

    A view is led deterministically (DDIM, backwards) to the noise at which SIGNAL_LEFT of its variance is left, one step
    further, and that step back; the mean squared distance of both arrivals is the error. Batch by batch from row `first` on;
    a conditional model is given no class; single precision, since the distances are small. `process` has all timesteps.
    """
    device, classes = next(unet.parameters()).device, unet.config.num_class_embeds
    there = int(np.argmax(process.alphas_cumprod <= SIGNAL_LEFT))
    path = np.linspace(0, there, STEPS_THERE + 1).round().astype(int).tolist()
    beyond = there + max(1, round(there / STEPS_THERE))

    def moved(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
        labels = torch.full((len(x),), classes - 1, device=device) if classes else None  # the last label means none
        epsilon = unet(x, torch.full((len(x),), start, device=device), class_labels=labels).sample[:, :1]
        now, then = process.alphas_cumprod[start], process.alphas_cumprod[end]
        x0 = (x - np.sqrt(1 - now) * epsilon) / np.sqrt(now)
        return np.sqrt(then) * x0 + np.sqrt(1 - then) * epsilon

    for start in range(first, len(views), batch_size):
        x = to_device(views[start : start + batch_size].astype(np.float32) / 127.5 - 1, device)[:, None]
        with torch.no_grad():
            for here, following in pairwise(path):
                x = moved(x, here, following)
            back = moved(moved(x, there, beyond), beyond, there)
        yield to_numpy(((back - x) ** 2).flatten(1).mean(dim=1).double())
