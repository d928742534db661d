"""Training of the diffusion model (paper, Sec. 4.2): guided-diffusion's hybrid loss, averaged weights, exact resume."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel

from workflow_scripts.cli import progress
from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas
from workflow_scripts.diffusion.unet import build_unet
from workflow_scripts.errors import UserError
from workflow_scripts.training.device import autocast
from workflow_scripts.training.randomness import epoch_order, normals, philox, uniforms
from workflow_scripts.training.work import Clock, Interrupted, WorkDir, append_metrics, trim_metrics

CHECKPOINT = "checkpoint.pt"
# Steps per line of metrics, each the mean over them: reading a value off a GPU makes it wait.
METRICS_EVERY = 50
NETWORK_KEYS = (
    "base_channels",
    "channel_multipliers",
    "residual_blocks",
    "attention_resolutions",
    "heads",
    "dropout",
)
MEASURED = ("loss", "mse", "vb", "grad_norm")


def unet_of(settings: Mapping[str, Any], size: int) -> UNet2DModel:
    """The freshly initialised network of `diffusion.recipe`, a function of its seed."""
    torch.manual_seed(_torch_seed(settings["seed"], "initial weights", 0))
    return build_unet(size, **{key: settings[key] for key in NETWORK_KEYS})


def batch_rows(rows: np.ndarray, seed: int, step: int, batch_size: int) -> np.ndarray:
    """The rows of one step's batch: every epoch is a new order of all `rows`, and a batch may span two epochs."""
    positions = step * batch_size + np.arange(batch_size)
    epochs = positions // len(rows)
    orders = {epoch: epoch_order(seed, "order", int(epoch), len(rows)) for epoch in np.unique(epochs)}
    places = [orders[epoch][position % len(rows)] for epoch, position in zip(epochs, positions, strict=True)]
    return rows[places]


def draw_batch(
    views: np.ndarray, rows: np.ndarray, settings: Mapping[str, Any], step: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (B, 1, S, S) in [-1, 1], timesteps (B,) and noise (B, 1, S, S) of one step, on CPU.

    views: uint8 (N, S, S); rows: those to learn from. Nothing depends on the steps before.
    """
    seed, size = settings["seed"], settings["batch_size"]
    images = views[batch_rows(rows, seed, step, size)].astype(np.float32) / 127.5 - 1
    draws = uniforms(seed, "timestep and flip", step, range(size), 2).astype(np.float64)
    timesteps = (draws[:, 0] * settings["timesteps"]).astype(np.int64)
    flipped = draws[:, 1] < settings["flip"]
    images[flipped] = images[flipped, :, ::-1]
    noise = normals(seed, "noise", step, range(size), (1, *views.shape[1:]))
    return torch.from_numpy(images[:, None]), torch.from_numpy(timesteps), torch.from_numpy(noise)


def ema_decay(largest: float, updates: int) -> float:
    """Decay of the averaged weights after `updates` earlier ones: 0 at first, so that no initial weight stays in."""
    return min(largest, 1 - (1 + updates) ** -0.75)


def learning_rate(settings: Mapping[str, Any], step: int) -> float:
    """Linear warm-up, then constant."""
    return settings["lr"] * min(1.0, (step + 1) / max(1, settings["warmup_steps"]))


def train(
    views: np.ndarray, rows: np.ndarray, settings: Mapping[str, Any], device: torch.device, work: WorkDir, clock: Clock
) -> UNet2DModel:
    """Train on `rows` of `views` (uint8, (N, S, S)) and return the network with the averaged weights, on CPU.

    Continues from the work directory's checkpoint; on CPU the result does not depend on where it was interrupted.
    Raises `Interrupted` when the clock is over (after a checkpoint) and UserError when the loss is no longer finite.
    """
    settings = dict(settings)
    steps = settings["steps"]
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    unet = unet_of(settings, views.shape[1]).to(device, memory_format=layout).train()
    average = copy.deepcopy(unet).requires_grad_(False).eval()
    parameters, averaged = list(unet.parameters()), list(average.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=settings["lr"], weight_decay=0.0, fused=device.type == "cuda")
    process = GaussianProcess(schedule_betas(settings["schedule"], settings["timesteps"]), device=device)
    sums, counted = torch.zeros(len(MEASURED), dtype=torch.float64, device=device), 0

    done = 0
    checkpoint = work.load(CHECKPOINT)
    if checkpoint is not None:
        done, counted = checkpoint["step"], checkpoint["counted"]
        sums = checkpoint["sums"].to(device)
        unet.load_state_dict(checkpoint["unet"])
        average.load_state_dict(checkpoint["average"])
        optimiser.load_state_dict(checkpoint["optimiser"])
    trim_metrics(work.metrics_file(), done)

    def means() -> dict[str, float]:
        values = (sums / max(1, counted)).tolist()
        if not all(math.isfinite(value) for value in values):
            raise UserError(
                f"the loss is no longer finite at step {done} (mean loss {values[0]}); lower the learning rate "
                f"(now {settings['lr']}) or raise warmup_steps (now {settings['warmup_steps']})"
            )
        return dict(zip(MEASURED, values, strict=True))

    def save() -> None:
        means()  # weights that are no longer finite must not replace the last good ones
        state = {"step": done, "counted": counted, "sums": sums, "unet": unet.state_dict()}
        work.save(CHECKPOINT, {**state, "average": average.state_dict(), "optimiser": optimiser.state_dict()}, done)

    started, timed = time.monotonic(), 0
    for step in progress(range(done, steps), "training", "step", steps, done):
        if clock.is_over():
            save()
            raise Interrupted(f"time is over at step {done} of {steps}; the next try continues from here")
        x0, t, noise = (tensor.to(device, non_blocking=True) for tensor in draw_batch(views, rows, settings, step))
        # Dropout draws from torch's own generator, which is therefore set anew at every step.
        torch.manual_seed(_torch_seed(settings["seed"], "dropout", step))
        xt = process.q_sample(x0, t, noise).contiguous(memory_format=layout)
        with autocast(device):
            output = unet(xt, t).sample
        mse, vb = process.losses(output, x0, xt, t, noise)
        loss = (mse + vb).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(gradients)
        rate = learning_rate(settings, step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - ema_decay(settings["ema"], step))
            sums += torch.stack([loss.detach(), mse.detach().mean(), vb.detach().mean(), grad_norm]).double()
        done, counted, timed = step + 1, counted + 1, timed + 1

        if done % METRICS_EVERY == 0 or done == steps:
            row = {"step": done, **means(), "lr": rate}
            speed = timed * settings["batch_size"] / (time.monotonic() - started)
            append_metrics(work.metrics_file(), {**row, "images_per_s": round(speed, 2)})
            sums, counted = torch.zeros_like(sums), 0
            started, timed = time.monotonic(), 0
        if done % settings["checkpoint_every"] == 0 or done == steps:
            save()
    return average.cpu()


def _torch_seed(seed: int, stream: str, step: int) -> int:
    return int(philox(seed, stream, step).integers(2**63))
