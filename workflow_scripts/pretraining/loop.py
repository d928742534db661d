"""The training loop of contrastive pretraining (paper, Sec. 4.1).

A step first chooses its images by global index and only then reads them, so that each of several processes reads its part of
the same batch, and they train the same network whatever their number.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.networks.backbone import feature_count
from workflow_scripts.networks.contrastive import Encoder, alignment, spread, uniformity
from workflow_scripts.pretraining.augmentation import augment_pairs, pair_draws, view_recipes
from workflow_scripts.pretraining.contrastive_step import Losses, check_batch, compute_gradients
from workflow_scripts.pretraining.mix import ViewUnion, batch_indices
from workflow_scripts.pretraining.monitor import LARGEST, Neighbours
from workflow_scripts.pretraining.optimisers import learning_rate, make_optimiser
from workflow_scripts.pretraining.shared_norms import share_batch_norm
from workflow_scripts.runtime.compilation import compile_forward
from workflow_scripts.runtime.device import Ahead, to_device
from workflow_scripts.runtime.run import CHECKPOINT, Run
from workflow_scripts.study.config.pretraining import PretrainingRecipe

METRICS_EVERY = 10
# Evaluations of the nearest neighbours per run.
MONITORS = 10
# Embeddings whose spread over the unit sphere (1 is even) is smaller have collapsed to a point.
COLLAPSED = 0.01


def make_encoder(backbone: nn.Module, organs: int, views: ViewUnion, recipe: PretrainingRecipe) -> Encoder:
    """The backbone with the heads that the run's losses need.

    A mix of one organ uses L_con alone and has no organ head; `loss_con: false` uses L_sup alone and has no projection
    head. `organs` is the number of organs of the study. Raises `UserError` if the mix is smaller than a batch, or if no
    loss is left.
    """
    if views.epoch_size < recipe.batch_size:
        raise UserError(
            f"the mix has {views.epoch_size} views an epoch, fewer than one batch of {recipe.batch_size}: "
            "add sets to the run or lower batch_size (and lr with it: 0.075 sqrt(batch) for lars)"
        )
    several = len(np.unique(views.organs)) > 1
    if not recipe.loss_con and not several:
        raise UserError(
            "loss_con is false, but every view of the mix shows the same organ, so that no loss is left: "
            "set loss_con to true or add a set of another organ"
        )
    supervised = several and (not recipe.loss_con or recipe.organ_weight > 0)
    widths = recipe.projection if recipe.loss_con else None
    return Encoder(backbone, feature_count(backbone), widths, organs if supervised else None, recipe.seed)


def pretrain(encoder: Encoder, views: ViewUnion, recipe: PretrainingRecipe, run: Run) -> None:
    """Train `encoder` in place for `recipe.steps` steps of L = L_con + lambda L_sup (Eq. 4), or what is left of them.

    A run that was stopped anywhere and started again ends with the weights of an uninterrupted one, bit for bit on a CPU; it
    may continue with another number of processes. Raises `Interrupted` when the clock is over in any process, and
    `UserError` when the loss is no longer finite.
    """
    device, processes = run.device, run.processes
    check_batch(recipe.batch_size, recipe.chunk, processes.count)

    # Network and optimiser.
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    if recipe.activation_checkpointing:
        _checkpoint_activations(encoder.backbone)
    if processes.count > 1 and not recipe.chunk:
        encoder.backbone = share_batch_norm(encoder.backbone, device)
    encoder.to(device).to(memory_format=layout).train()
    if run.compiles(recipe.steps * (recipe.batch_size // recipe.chunk if recipe.chunk else 1)):
        compile_forward(encoder)
    optimiser = make_optimiser([encoder], recipe.optimiser, recipe.lr, recipe.weight_decay)

    # Continue from the last checkpoint, if there is one.
    done, rate, losses = 0, 0.0, None
    checkpoint = run.work.load(CHECKPOINT)
    if checkpoint is not None:
        done = checkpoint["step"]
        encoder.load_state_dict(checkpoint["encoder"])
        optimiser.load_state_dict(checkpoint["optimiser"])

    def state() -> dict[str, Any]:
        require_finite()  # weights of a failed run must not replace the last good ones
        return {"encoder": encoder.state_dict(), "optimiser": optimiser.state_dict()}

    def require_finite() -> None:
        if losses is not None and not torch.isfinite(losses.total):
            raise UserError(
                f"the loss is {losses.total.item()} at step {done} of {recipe.steps} (learning rate {rate:.4g}): "
                "lower lr or lengthen warmup"
            )

    # What is drawn and reported. With small batches, as on a laptop, the monitor must not cost more than the training.
    board = run.board(done)
    augmentation = view_recipes(recipe.augmentation)
    part = processes.part(recipe.batch_size)
    neighbours = Neighbours(views, recipe.seed, min(LARGEST, 2 * recipe.batch_size))
    reported, since, collapsed = done, time.perf_counter(), False
    drawn = Ahead(partial(draw_step, views, recipe, part), device, recipe.steps)

    for step in run.steps(recipe.steps, state, start=done, every=recipe.checkpoint_every, label="pretraining"):
        # Learning rate of the step.
        rate = learning_rate(step, recipe.steps, recipe.lr, recipe.warmup)
        for group in optimiser.param_groups:
            group["lr"] = rate

        # Two views of each of this process's images.
        batch = drawn(step)
        images = to_device(batch["images"], device)
        partners = to_device(batch["partners"], device) if recipe.pairs == "frame" else None
        pairs = augment_pairs(images, augmentation, batch["numbers"], partners)

        # Gradients of the whole batch, and one step.
        optimiser.zero_grad()
        losses = compute_gradients(encoder, pairs, to_device(batch["organs"], device), recipe, processes)
        optimiser.step()
        done = step + 1

        # Metrics. Reading a value waits for the GPU, which otherwise works while the next batch is prepared: not every step.
        monitoring = done % max(1, recipe.steps // MONITORS) == 0 or done == recipe.steps
        if not (monitoring or done == 1 or done % METRICS_EVERY == 0):
            continue
        require_finite()
        if board is None:
            continue
        now = time.perf_counter()
        row = {"step": done, **_metrics(losses), "lr": rate}
        row["images_per_s"] = (done - reported) * recipe.batch_size / (now - since)
        if monitoring:
            row |= neighbours.accuracies(encoder, device)
        board.report(row)
        reported, since = done, time.perf_counter()
        if row["embedding_std"] < COLLAPSED and not collapsed:
            collapsed = True
            width = row["embedding_std"]
            say(f"warning: the embeddings have collapsed to a point at step {done} (std {width:.2g}; 1 is even)")
    if board is not None:
        board.close()


def draw_step(views: ViewUnion, recipe: PretrainingRecipe, part: slice, step: int) -> dict[str, Any]:
    """What a step draws, on the CPU: `images` (n, H, W) of this process's `part` of the batch, the `numbers` that choose
    both views of each, and the `organs` (N,) of the whole batch; with `pairs: frame` also the `partners` (n, H, W)."""
    indices = batch_indices(views, recipe.seed, recipe.batch_size, step)
    partners = (
        {"partners": torch.from_numpy(views.take(views.partners[indices[part]]))} if recipe.pairs == "frame" else {}
    )
    return {
        **partners,
        "images": torch.from_numpy(views.take(indices[part])),
        "organs": torch.from_numpy(views.organs[indices]),
        "numbers": pair_draws(recipe.seed, step, indices[part]),
    }


def _metrics(losses: Losses) -> dict[str, Any]:
    first, second = losses.embeddings
    return {
        "loss": losses.total.item(),
        "loss_con": None if losses.contrastive is None else losses.contrastive.item(),
        "loss_sup": None if losses.organ is None else losses.organ.item(),
        "alignment": alignment(first, second).item(),
        "uniformity": uniformity(first).item(),
        "embedding_std": spread(losses.embeddings.flatten(0, 1)).item(),
    }


def _checkpoint_activations(backbone: nn.Module) -> None:
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        raise UserError(
            f"timm's {type(backbone).__name__} does not support activation checkpointing: set activation_checkpointing to false "
            "and limit the memory with chunk"
        ) from None
