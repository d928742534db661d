"""Sampling: image j of a set is a function of (weights, seed, j), whatever the shard or batch it is drawn in.

Its noise depends on (seed, step, j) alone. On a GPU the noise comes from the GPU's own generator, so that a set drawn on a
GPU differs from one drawn on a CPU. On either, the batch size changes only the rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.randomness import normals
from workflow_scripts.diffusion.process import GaussianProcess, spaced_timesteps
from workflow_scripts.runtime.device import autocast, to_device, to_numpy

STREAM = "sample"
# Samplers of DPM-Solver++, by their name in Diffusers.
SOLVERS = {"dpmsolver++": "dpmsolver++", "sde_dpm_solver": "sde-dpmsolver++"}
# Samplers that add noise in every step.
FRESH = ("ancestral", "sde_dpm_solver")


@dataclass(frozen=True)
class Condition:
    """Classes to draw: image j is conditioned on class j modulo `classes`; the network's label `classes` means none.

    guidance (Ho and Salimans 2022): 1 is the conditional prediction, 0 the unconditional, above 1 beyond it.
    """

    classes: int
    guidance: float = 1.0

    def labels(self, images: Sequence[int], device: torch.device) -> torch.Tensor:
        """int64 (N,): the class that each image is conditioned on."""
        return to_device(torch.tensor([image % self.classes for image in images]), device)


def predict(
    unet: UNet2DModel, x: torch.Tensor, timesteps: torch.Tensor, images: Sequence[int], condition: Condition | None
) -> torch.Tensor:
    """The network's output (N, 2, S, S) for images (N, 1, S, S), guided towards their classes if there is a condition."""
    if condition is None:
        return unet(x, timesteps).sample
    labels = condition.labels(images, x.device)
    conditional = unet(x, timesteps, class_labels=labels).sample
    if condition.guidance == 1:
        return conditional
    unconditional = unet(x, timesteps, class_labels=torch.full_like(labels, condition.classes)).sample
    noise = unconditional[:, :1] + condition.guidance * (conditional[:, :1] - unconditional[:, :1])
    return torch.cat([noise, conditional[:, 1:]], dim=1)


def shard_range(images: int, shards: int, shard: int) -> range:
    """The images of one shard: contiguous, and as equal in number as can be. UserError if the shard has none."""
    if not 0 <= shard < shards:
        raise UserError(f"shard {shard} does not exist; {shards} shards are numbered 0 to {shards - 1}")
    if images < shards:
        raise UserError(f"{images} images cannot be divided into {shards} shards; use fewer")
    return range(shard * images // shards, (shard + 1) * images // shards)


def image_noise(seed: int, step: int, images: Sequence[int], side: int, device: torch.device) -> torch.Tensor:
    """Standard normal float32 (len(images), 1, side, side): row i depends on seed, step, images[i] and kind of device.

    Step 0 is the image that sampling starts from, step k the noise of the k-th reverse step.
    """
    if device.type == "cpu":
        return torch.from_numpy(normals(seed, STREAM, step, images, (1, side, side)))
    return generator_noise(seed, step, images, side, device)


def generator_noise(seed: int, step: int, images: Sequence[int], side: int, device: torch.device) -> torch.Tensor:
    """The same from torch's generator of `device`, seeded per image and step with a hash of (seed, step, image)."""
    generator = torch.Generator(device)
    rows = []
    for image in images:
        digest = hashlib.blake2b(f"{seed}/{STREAM}/{step}/{image}".encode(), digest_size=8).digest()
        generator.manual_seed(int.from_bytes(digest, "little"))
        rows.append(torch.randn((1, side, side), generator=generator, device=device))
    return torch.stack(rows)


def kept_timesteps(timesteps: int, count: int, sampler: str) -> np.ndarray:
    """int64 (count,) timesteps out of range(timesteps) that a sampler visits, in increasing order."""
    if sampler not in SOLVERS:
        return spaced_timesteps(timesteps, count, evenly=sampler == "ddim")
    # As Diffusers spaces them (`linspace`): from the last on, without 0, since its last step goes all the way.
    return spaced_timesteps(timesteps, count + 1)[1:]


def reverse_steps(
    unet: UNet2DModel,
    process: GaussianProcess,
    state: torch.Tensor,
    done: int,
    images: Sequence[int],
    seed: int,
    sampler: str,
    condition: Condition | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Continue from `state` after `done` reverse steps; yields (steps done, state) after each of the others.

    state: float32 (N, C, S, S), at first the starting noise; its first channel is always the images. DPM-Solver++ adds
    a channel, the clean images that it predicted a step before.
    sampler: `ancestral` (learned variance), `ddim` (deterministic), `dpmsolver++` (deterministic, second order) or
    `sde_dpm_solver` (the same with fresh noise in every step).
    """
    length = len(process)
    solver = _Solver(process, done, SOLVERS[sampler]) if sampler in SOLVERS else None
    for step in range(done, length):
        x = state[:, :1]
        t = torch.full((len(x),), length - 1 - step, device=x.device)
        with torch.no_grad(), autocast(x.device):
            output = predict(unet, x, process.timesteps[t], images, condition)
        fresh = None
        if sampler in FRESH:
            fresh = image_noise(seed, step + 1, images, x.shape[-1], x.device)
        if solver is not None:
            state = solver.step(process.reverse(output, x, t)[2], state, fresh)
        elif fresh is not None:
            state = process.ancestral_step(output, x, t, fresh)
        else:
            state = process.ddim_step(output, x, t)
        yield step + 1, state


class _Solver:
    """Diffusers' DPM-Solver++ (Lu et al. 2022), resumable.

    It is given the clipped clean images, not the network's output: of that its `learned_range` would take three
    channels for the noise, whatever the image has, and its unclipped estimate explodes on the cosine schedule.
    """

    def __init__(self, process: GaussianProcess, done: int, algorithm: str) -> None:
        self.scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=process.full_length,
            trained_betas=process.full_betas,
            prediction_type="sample",
            algorithm_type=algorithm,
            solver_order=2,
        )
        self.scheduler.set_timesteps(timesteps=to_numpy(process.timesteps)[::-1].tolist())
        self.scheduler.set_begin_index(done)
        self.scheduler.lower_order_nums = min(done, 2)

    def step(self, x0: torch.Tensor, state: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """The next state, from the clean images (N, 1, S, S) predicted for this one and, for the SDE, fresh noise."""
        if state.shape[1] > 1:
            self.scheduler.model_outputs[-1] = state[:, 1:]
        at = self.scheduler.step_index if self.scheduler.step_index is not None else self.scheduler.begin_index
        timestep = self.scheduler.timesteps[at]
        x = self.scheduler.step(x0, timestep, state[:, :1], variance_noise=noise).prev_sample
        return torch.cat([x, x0], dim=1)


def to_grey(x: torch.Tensor) -> np.ndarray:
    """uint8 (N, S, S) of images, the first channel of (N, C, S, S), in [-1, 1]; UserError if one is not finite."""
    if not bool(torch.isfinite(x[:, 0]).all()):
        raise UserError("the model samples values that are not finite; its training must have failed")
    return to_numpy(((x[:, 0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
