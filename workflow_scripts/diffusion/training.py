"""Training of the diffusion model (paper, Sec. 4.2): guided-diffusion's hybrid loss, averaged weights, exact resume.

A batch is divided among the processes, and each process may work through its share in parts (`accumulate`), for GPUs whose
memory is too small for it. What a part draws depends on the seed, the step and the part's place in the batch, so that two
processes compute what one computes in two parts.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import contact_sheet, save_picture
from workflow_scripts.core.files import atomic_path
from workflow_scripts.core.randomness import epoch_order, normals, philox, uniforms
from workflow_scripts.diffusion.augmentation import AugmentationConditionedUNet, draw_labels, transform
from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas, spaced_timesteps
from workflow_scripts.diffusion.sampler import Condition, image_noise, reverse_steps, to_grey
from workflow_scripts.diffusion.tally import Tally
from workflow_scripts.diffusion.unet import build_unet
from workflow_scripts.runtime.compilation import Compiled, compile_forward
from workflow_scripts.runtime.device import Ahead, Precision, to_device
from workflow_scripts.runtime.processes import Processes
from workflow_scripts.runtime.run import CHECKPOINT, Run
from workflow_scripts.study.config.diffusion import DiffusionRecipe

GRIDS, SNAPSHOTS = "samples", "snapshots"
# Steps per line of metrics, which reports their means: reading a value from a GPU waits for it.
METRICS_EVERY = 50
# The contact sheets of samples during training: number of images and of ancestral steps.
GRID_IMAGES, GRID_STEPS = 16, 25
# Predicting no noise at all has a mean squared error of 1; a network this much worse does not recover.
DIVERGED_MSE = 2.0
NETWORK_KEYS = {
    "base_channels",
    "channel_multipliers",
    "residual_blocks",
    "attention_resolutions",
    "heads",
    "dropout",
}


def check_division(recipe: DiffusionRecipe, views: int, processes: int) -> None:
    """Raise UserError unless a batch divides into processes and parts, and the views suffice for one."""
    batch, parts = recipe.batch_size, recipe.accumulate
    if batch % (processes * parts):
        raise UserError(
            f"a batch of {batch} does not divide into {processes} processes of {parts} parts each (batch_size, GPUs, "
            f"accumulate); make it a multiple of {processes * parts}"
        )
    if views < batch:
        raise UserError(
            f"{views} views to learn from are fewer than one batch of {batch}; add views or lower batch_size"
        )


@dataclass(frozen=True)
class Labels:
    """Classes of the views, for a conditional model: int64 (N,), numbered from 0 to `classes` - 1."""

    values: np.ndarray
    classes: int

    def draw(self, recipe: DiffusionRecipe, rows: np.ndarray, step: int, places: range) -> torch.Tensor:
        """Labels (B,) of some places of a step's batch `rows`; a random share of them is `classes`, which means none."""
        draws = uniforms(recipe.seed, "label dropout", step, places, 1)[:, 0]
        labels = self.values[rows[places.start : places.stop]]
        return torch.from_numpy(np.where(draws < recipe.label_dropout, self.classes, labels).astype(np.int64))


@dataclass(frozen=True)
class TrainingViews:
    """Views to learn from: `pixels` uint8 (N, S, S), of which `rows` (n,) take part, and labels for a conditional model."""

    pixels: np.ndarray
    rows: np.ndarray
    labels: Labels | None = None


def unet_of(recipe: DiffusionRecipe, size: int, classes: int | None = None) -> UNet2DModel:
    """The freshly initialised network of `diffusion.recipe`, a function of its seed."""
    torch.manual_seed(_torch_seed(recipe.seed, "initial weights", 0))
    return build_unet(size, **recipe.model_dump(include=NETWORK_KEYS), classes=classes)


def batch_rows(rows: np.ndarray, seed: int, step: int, batch_size: int) -> np.ndarray:
    """The rows of one step's batch: every epoch is a new order of all `rows`, and a batch may span two epochs."""
    positions = step * batch_size + np.arange(batch_size)
    epochs = positions // len(rows)
    orders = {epoch: epoch_order(seed, "order", int(epoch), len(rows)) for epoch in np.unique(epochs)}
    places = [orders[epoch][position % len(rows)] for epoch, position in zip(epochs, positions, strict=True)]
    return rows[places]


def draw_batch(
    views: np.ndarray, rows: np.ndarray, recipe: DiffusionRecipe, step: int, places: range | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (B, 1, S, S) in [-1, 1], timesteps (B,) and noise (B, 1, S, S) of one step, on CPU.

    views: uint8 (N, S, S); rows: those to learn from; `places`: the part of the batch to draw, all of it unless given.
    Nothing depends on the steps or places before.
    """
    seed, size = recipe.seed, recipe.batch_size
    places = range(size) if places is None else places
    images = views[batch_rows(rows, seed, step, size)[places.start : places.stop]].astype(np.float32) / 127.5 - 1
    draws = uniforms(seed, "timestep and flip", step, places, 2).astype(np.float64)
    timesteps = (draws[:, 0] * recipe.timesteps).astype(np.int64)
    flipped = draws[:, 1] < recipe.flip
    images[flipped] = images[flipped, :, ::-1]
    noise = normals(seed, "noise", step, places, (1, *views.shape[1:]))
    return torch.from_numpy(images[:, None]), torch.from_numpy(timesteps), torch.from_numpy(noise)


def ema_decay(largest: float, updates: int) -> float:
    """Decay of the averaged weights after `updates` earlier ones: 0 at first, so that no initial weight stays in."""
    return min(largest, 1 - (1 + updates) ** -0.75)


def learning_rate(recipe: DiffusionRecipe, step: int) -> float:
    """Linear warm-up, then constant or, from the first step on, falling linearly to 0 at the end (`lr_schedule`)."""
    rate = recipe.lr * min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    return rate if recipe.lr_schedule == "constant" else rate * (1 - step / recipe.steps)


class Trainer:
    """Network, averaged weights, optimiser and draws of one process of a training run."""

    def __init__(
        self,
        data: TrainingViews,
        recipe: DiffusionRecipe,
        device: torch.device,
        processes: Processes,
        compiles: bool = False,
    ) -> None:
        self.data, self.recipe, self.device, self.processes = data, recipe, device, processes
        self.side, classes = data.pixels.shape[1], data.labels.classes if data.labels else None

        # The network, with one more label than classes, which means none, and the average of its weights.
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        unet = unet_of(recipe, self.side, None if classes is None else classes + 1)
        self.unet = unet.to(device, memory_format=self.layout).train()
        self.average = copy.deepcopy(self.unet).requires_grad_(False).eval()
        self.condition = None if classes is None else Condition(classes)
        self.checkpointed = ["unet", "average", "optimiser"]
        self.network: torch.nn.Module = self.unet
        if recipe.augment != "none":
            self.network = conditioned = AugmentationConditionedUNet(self.unet).to(device)
            self.label_projection = conditioned.label_projection
            self.checkpointed.append("label_projection")
        self.parameters, self.averaged = list(self.network.parameters()), list(self.average.parameters())

        # The optimiser and its arithmetic.
        self.optimiser = torch.optim.AdamW(self.parameters, lr=recipe.lr, weight_decay=0.0, fused=device.type == "cuda")
        self.precision = Precision(recipe.precision, device)

        # The diffusion process, one with few timesteps for samples during training, and what is reported.
        betas = schedule_betas(recipe.schedule, recipe.timesteps)
        self.process = GaussianProcess(betas, device=device)
        few = spaced_timesteps(len(betas), min(GRID_STEPS, len(betas)))
        self.short_process = GaussianProcess(betas, few, device)
        self.tally = Tally(recipe.timesteps, device)
        self.drawn = Ahead(self.draw, device, recipe.steps)

        # Compiled code, with the hybrid loss in one piece, and other processes.
        self.losses: Callable[..., tuple[torch.Tensor, torch.Tensor]] = self.process.losses
        if compiles:
            compile_forward(self.unet)
            self.losses = Compiled(self.losses, "the hybrid loss")
        if processes.count > 1:
            self.network = DistributedDataParallel(self.network)

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint holds."""
        state = {name: getattr(self, name).state_dict() for name in self.checkpointed}
        return {**state, "sums": self.tally.totals(self.processes), "scaler": self.precision.scaler.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        for name in self.checkpointed:
            getattr(self, name).load_state_dict(state[name])
        self.precision.scaler.load_state_dict(state["scaler"])
        self.tally.sums = state["sums"].to(self.device)
        if not self.processes.is_first:
            self.tally.clear_samples()  # the checkpoint's are the sums over all processes; the first one keeps them

    def step(self, number: int) -> None:
        """One optimisation step."""
        recipe = self.recipe

        # Gradients of this process's share of the batch, part by part; processes exchange them once, with the last part.
        self.optimiser.zero_grad(set_to_none=True)
        for part, drawn in enumerate(self.drawn(number)):
            exchanges = part == recipe.accumulate - 1 or self.processes.count == 1
            with nullcontext() if exchanges else self.network.no_sync():  # type: ignore[operator]
                self._add_gradient(number, self._places(part), drawn)

        # Step of the optimiser.
        scaler = self.precision.scaler
        scaler.unscale_(self.optimiser)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, number)
        scaler.step(self.optimiser)
        scaler.update()

        # Averaged weights and report.
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, list(self.unet.parameters()), 1 - ema_decay(recipe.ema, number))
            self.tally.add_step(norm.detach(), may_skip=scaler.is_enabled())

    def _places(self, part: int) -> range:
        """The places of the batch that make a part of this process's share."""
        parts = self.recipe.accumulate
        size = self.recipe.batch_size // (self.processes.count * parts)
        start = (self.processes.rank * parts + part) * size
        return range(start, start + size)

    def draw(self, number: int) -> list[dict[str, torch.Tensor]]:
        """What each part of this process's share of a step draws, on the CPU."""
        recipe, data, parts = self.recipe, self.data, []
        for part in range(recipe.accumulate):
            places = self._places(part)
            images, timesteps, noise = draw_batch(data.pixels, data.rows, recipe, number, places)
            drawn = {"images": images, "timesteps": timesteps, "noise": noise}
            if recipe.augment != "none":
                drawn["augmentation"] = draw_labels(recipe.seed, number, places)
            if data.labels is not None:
                rows = batch_rows(data.rows, recipe.seed, number, recipe.batch_size)
                drawn["classes"] = data.labels.draw(recipe, rows, number, places)
            parts.append(drawn)
        return parts

    def _add_gradient(self, number: int, places: range, drawn: Mapping[str, torch.Tensor]) -> None:
        """Add the gradient of some places of a step's batch, one of `accumulate` parts."""
        recipe = self.recipe

        # Images, timesteps and noise; with augmentation the network is also given its label.
        on_device = {name: to_device(tensor, self.device) for name, tensor in drawn.items()}
        x0, t, noise = (on_device[name] for name in ("images", "timesteps", "noise"))
        augmentation: tuple[torch.Tensor, ...] = ()
        if recipe.augment != "none":
            augmentation = (on_device["augmentation"],)
            x0 = transform(x0, drawn["augmentation"])

        # Dropout draws from torch's own generator, which is therefore seeded for every part of a step.
        torch.manual_seed(_torch_seed(recipe.seed, "dropout", number, places.start))
        xt = self.process.q_sample(x0, t, noise).contiguous(memory_format=self.layout)
        with self.precision.cast():
            output = self.network(xt, t, on_device.get("classes"), *augmentation).sample
        mse, vb = self.losses(output, x0, xt, t, noise)  # in float32
        self.precision.scaler.scale((mse + vb).mean() * (1 / recipe.accumulate)).backward()
        self.tally.add_samples(mse, vb, t)

    def means(self, done: int, whole_report: bool) -> dict[str, float | None]:
        """The tally's means; raises `UserError` where they show that training has failed."""
        values = self.tally.means(self.processes)
        advice = (
            f"lower the learning rate (now {self.recipe.lr}) or raise warmup_steps (now {self.recipe.warmup_steps})"
        )
        if not all(math.isfinite(value) for value in values.values() if value is not None):
            raise UserError(
                f"the loss or its gradient is no longer finite at step {done} (mean loss {values['loss']}, gradient "
                f"norm {values['grad_norm']}); {advice}"
            )
        if whole_report and values["mse"] is not None and values["mse"] > DIVERGED_MSE:
            raise UserError(
                f"the training has diverged: up to step {done} the mean squared error of the predicted noise is "
                f"{values['mse']:.3g}, and predicting no noise has 1; {advice}"
            )
        if whole_report and values.get("skipped_steps") == METRICS_EVERY:
            raise UserError(
                f"fp16 overflows at every step up to {done} at any loss scale; {advice}, or use precision float32"
            )
        return values

    def grid(self) -> np.ndarray:
        """uint8 (GRID_IMAGES, S, S): samples of the averaged weights, from the same noise whenever it is called."""
        images, seed = range(GRID_IMAGES), self.recipe.seed
        x = image_noise(seed, 0, images, self.side, self.device)
        for _, state in reverse_steps(
            self.average, self.short_process, x, 0, images, seed, "ancestral", self.condition
        ):
            x = state
        return to_grey(x)


def train(trainer: Trainer, run: Run, origin: str = "", snapshot_every: int = 0) -> UNet2DModel:
    """Train to the end and return the network with the averaged weights, on CPU.

    Continues from the work directory's checkpoint; on a CPU the result does not depend on where it was interrupted.
    `origin` is stamped on the contact sheets of samples; every `snapshot_every` steps (0: never) a copy of the averaged
    weights is kept in the work directory. Raises `Interrupted` when the clock is over (after a checkpoint) and `UserError`
    when training fails.
    """
    recipe, processes = trainer.recipe, trainer.processes

    # Continue from the last checkpoint, if there is one.
    done = 0
    checkpoint = run.work.load(CHECKPOINT)
    if checkpoint is not None:
        done = checkpoint["step"]
        trainer.load(checkpoint)

    def state() -> dict[str, Any]:
        trainer.means(done, whole_report=False)  # weights that are no longer finite must not replace the last good ones
        return trainer.state()

    board = run.board(done)
    started, timed = time.monotonic(), 0
    for step in run.steps(recipe.steps, state, start=done, every=recipe.checkpoint_every):
        try:
            trainer.step(step)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has too little memory for {recipe.batch_size // processes.count} views per step in "
                f"{recipe.accumulate} parts; raise diffusion.recipe.accumulate to a larger divisor"
            ) from error
        done, timed = step + 1, timed + 1

        # Metrics, means over the steps since the last report.
        if done % METRICS_EVERY == 0 or done == recipe.steps:
            values = trainer.means(done, done % METRICS_EVERY == 0)
            speed = timed * recipe.batch_size / (time.monotonic() - started)
            row = {"step": done, **values, "lr": learning_rate(recipe, step), "images_per_s": round(speed, 2)}
            if board is not None:
                board.report(row)
            trainer.tally.sums.zero_()
            started, timed = time.monotonic(), 0

        # A contact sheet of samples of the averaged weights.
        if board is not None and recipe.grid_every and (done % recipe.grid_every == 0 or done == recipe.steps):
            sheet = contact_sheet(trainer.grid(), origin)
            save_picture(sheet, run.work.path / GRIDS / f"step_{done:07d}.png")
            board.picture("samples", done, sheet)

        # A copy of the averaged weights, from which select_checkpoint may choose.
        if processes.is_first and snapshot_every and done % snapshot_every == 0 and done < recipe.steps:
            with atomic_path(run.work.path / SNAPSHOTS / f"step_{done:07d}.safetensors") as temporary:
                save_file(trainer.average.state_dict(), temporary, metadata={"format": "pt"})
    if board is not None:
        board.close()
    return trainer.average.cpu()


def _torch_seed(seed: int, stream: str, step: int, sample: int = 0) -> int:
    return int(philox(seed, stream, step, sample).integers(2**63))
