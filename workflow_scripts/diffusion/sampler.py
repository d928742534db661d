"""Sampling: image j of a set is a function of (weights, seed, j), whatever the shard or batch it is drawn in.

Its noise depends on (seed, step, j) alone. That of a GPU comes from the GPU's own generator, so that a set drawn on a
GPU is not the set drawn on a CPU. On either, another batch size changes the arithmetic's rounding and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from diffusers import UNet2DModel

from workflow_scripts.diffusion.process import GaussianProcess
from workflow_scripts.errors import UserError
from workflow_scripts.training.device import autocast
from workflow_scripts.training.randomness import normals

STREAM = "sample"


def shard_range(images: int, shards: int, shard: int) -> range:
    """The images of one shard: contiguous, and as equal in number as can be. UserError if the shard has none."""
    if not 0 <= shard < shards:
        raise UserError(f"shard {shard} does not exist; {shards} shards are numbered 0 to {shards - 1}")
    if images < shards:
        raise UserError(f"{images} images cannot be shared by {shards} shards; lower shards")
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


def reverse_steps(
    unet: UNet2DModel,
    process: GaussianProcess,
    x: torch.Tensor,
    done: int,
    images: Sequence[int],
    seed: int,
    sampler: str,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Continue from `x` (N, 1, S, S) after `done` reverse steps; yields (steps done, x) after each of the others.

    sampler: `ancestral` (learned variance) or `ddim` (deterministic).
    """
    length = len(process)
    for step in range(done, length):
        t = torch.full((len(x),), length - 1 - step, device=x.device)
        with torch.no_grad(), autocast(x.device):
            output = unet(x, process.timesteps[t]).sample
        if sampler == "ddim":
            x = process.ddim_step(output, x, t)
        else:
            x = process.ancestral_step(output, x, t, image_noise(seed, step + 1, images, x.shape[-1], x.device))
        yield step + 1, x


def to_grey(x: torch.Tensor) -> np.ndarray:
    """uint8 (N, S, S) of images (N, 1, S, S) in [-1, 1]; UserError where a value is not finite."""
    if not bool(torch.isfinite(x).all()):
        raise UserError("the model samples values that are not finite; its training must have failed")
    return ((x[:, 0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
