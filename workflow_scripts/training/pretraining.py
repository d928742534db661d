"""The training loop of contrastive pretraining (paper, Sec. 4.1).

One process; an optimisation step first names its images by global index and only then takes them, so that several
processes could each take their part of the same batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from workflow_scripts.cli import progress, say
from workflow_scripts.errors import UserError
from workflow_scripts.training.augmentation import Augmentation, augment
from workflow_scripts.training.backbone import feature_count, standardise
from workflow_scripts.training.contrastive import Encoder, alignment, nt_xent, organ_loss, spread, uniformity
from workflow_scripts.training.device import autocast, to_device
from workflow_scripts.training.optimisers import learning_rate, make_optimiser
from workflow_scripts.training.randomness import epoch_order
from workflow_scripts.training.work import Clock, Interrupted, WorkDir, append_metrics, trim_metrics

CHECKPOINT = "checkpoint.pt"
METRICS_EVERY = 10
# Embeddings that spread less than this over the unit sphere (1 is even) are all but one point.
COLLAPSED = 0.01


@dataclass(frozen=True)
class Recipe:
    """The settings of a pretraining run; meaning and defaults: `pretraining_recipe` in schemas/config.schema.yaml."""

    seed: int
    steps: int
    batch_size: int
    loss_con: bool
    organ_weight: float
    temperature: float
    projection: tuple[int, ...]
    optimiser: str
    lr: float
    weight_decay: float
    warmup: float
    checkpoint_every: int
    augmentation: Augmentation

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Recipe:
        """The recipe in a nested mapping, as the config and `cli.settings` give it."""
        values = dict(settings)
        values["projection"] = tuple(values["projection"])
        values["augmentation"] = Augmentation(**values["augmentation"])
        return cls(**values)


class ViewUnion:
    """Several view stores seen as one: global index i is row `rows[i]` of store `sets[i]`, and shows `organs[i]`.

    `stores` are uint8 (N_s, H, W), usually memory maps, and are never copied as a whole; `rows` and `organs` give for
    each store the rows that take part (n_s,) and their organ labels (n_s,), integers from 0.
    """

    def __init__(self, stores: Sequence[np.ndarray], rows: Sequence[np.ndarray], organs: Sequence[np.ndarray]) -> None:
        self.stores = list(stores)
        self.sets = np.repeat(np.arange(len(stores)), [len(part) for part in rows])
        self.rows = np.concatenate(rows).astype(np.int64)
        self.organs = np.concatenate(organs).astype(np.int64)
        assert len(self.rows) == len(self.organs)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images uint8 (n, H, W) and organs int64 (n,) of global indices (n,), in their order."""
        images = np.empty((len(indices), *self.stores[0].shape[1:]), dtype=np.uint8)
        for number, store in enumerate(self.stores):
            here = np.flatnonzero(self.sets[indices] == number)
            images[here] = store[self.rows[indices[here]]]
        return images, self.organs[indices]


def batch_indices(seed: int, size: int, batch_size: int, step: int) -> np.ndarray:
    """Global indices (batch_size,) of a step: each epoch has an order of its own, its last odd batch is dropped."""
    epoch, position = divmod(step, size // batch_size)
    order = epoch_order(seed, "order", epoch, size)
    return order[position * batch_size : (position + 1) * batch_size]


def make_encoder(backbone: nn.Module, organs: int, views: ViewUnion, recipe: Recipe) -> Encoder:
    """The backbone with the heads that the run's losses need.

    A mix of one organ uses L_con alone and has no organ head; `loss_con: false` uses L_sup alone and has no projection
    head. `organs` is the number of organs of the study. Raises `UserError` if the mix is smaller than a batch, or if no
    loss is left.
    """
    if len(views) < recipe.batch_size:
        raise UserError(
            f"the mix has {len(views)} views, fewer than one batch of {recipe.batch_size}: "
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


def pretrain(
    encoder: Encoder, views: ViewUnion, recipe: Recipe, device: torch.device, work: WorkDir, clock: Clock
) -> None:
    """Train `encoder` in place for `recipe.steps` steps of L = L_con + lambda L_sup (Eq. 4), or what is left of them.

    Metrics go to `work.metrics_file()`, checkpoints to `work`. A run that was stopped anywhere and started again ends
    with the weights of an undisturbed one, bit for bit on the CPU. Raises `Interrupted` when the clock is over, and
    `UserError` when the loss is no longer finite.
    """
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    encoder.to(device).to(memory_format=layout).train()
    optimiser = make_optimiser([encoder], recipe.optimiser, recipe.lr, recipe.weight_decay)
    start = _resume(encoder, optimiser, work)
    reported, since, collapsed = start, time.perf_counter(), False

    for step in progress(range(start, recipe.steps), "pretraining", "step", recipe.steps, start):
        rate = learning_rate(step, recipe.steps, recipe.lr, recipe.warmup)
        for group in optimiser.param_groups:
            group["lr"] = rate

        indices = batch_indices(recipe.seed, len(views), recipe.batch_size, step)
        images, organs = (to_device(part, device) for part in views.take(indices))
        two_views = [augment(images, recipe.augmentation, recipe.seed, f"view{i}", step, indices) for i in (0, 1)]
        with autocast(device):
            embeddings, logits = encoder(standardise(torch.cat(two_views)).contiguous(memory_format=layout))
        first, second = embeddings.chunk(2)
        loss_con = nt_xent(first, second, recipe.temperature) if recipe.loss_con else None
        loss_sup = None if logits is None else organ_loss(logits, organs.repeat(2))
        loss = total_loss(loss_con, loss_sup, recipe.organ_weight)

        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

        # Reading a value waits for the GPU, which otherwise works while the next batch is prepared: so not every step.
        done = step + 1
        leaving = done < recipe.steps and clock.is_over()
        saving = leaving or done % recipe.checkpoint_every == 0 or done == recipe.steps
        reporting = done == 1 or done % METRICS_EVERY == 0 or done == recipe.steps
        if (saving or reporting) and not torch.isfinite(loss):
            raise UserError(
                f"the loss is {loss.item()} at step {done} of {recipe.steps} (learning rate {rate:.4g}): "
                "lower lr or lengthen warmup"
            )
        if reporting:
            now = time.perf_counter()
            width = spread(embeddings.detach()).item()
            row = {
                "step": done,
                "loss": loss.item(),
                "loss_con": None if loss_con is None else loss_con.item(),
                "loss_sup": None if loss_sup is None else loss_sup.item(),
                "lr": rate,
                "images_per_s": (done - reported) * recipe.batch_size / (now - since),
                "alignment": alignment(first.detach(), second.detach()).item(),
                "uniformity": uniformity(first.detach()).item(),
                "embedding_std": width,
            }
            append_metrics(work.metrics_file(), row)
            reported, since = done, now
            if width < COLLAPSED and not collapsed:
                collapsed = True
                say(f"warning: the embeddings have collapsed to a point at step {done} (std {width:.2g}; 1 is even)")
        if saving:
            state = {"step": done, "encoder": encoder.state_dict(), "optimiser": optimiser.state_dict()}
            work.save(CHECKPOINT, state, progress=done)
        if leaving:
            raise Interrupted(f"pretraining ended itself after {done} of {recipe.steps} steps; the next try continues")


def total_loss(loss_con: Tensor | None, loss_sup: Tensor | None, organ_weight: float) -> Tensor:
    """L = L_con + lambda L_sup (Eq. 4); a loss that is not used is None, and what is left stands alone, unweighted."""
    if loss_con is None:
        assert loss_sup is not None
        return loss_sup
    return loss_con if loss_sup is None else loss_con + organ_weight * loss_sup


def _resume(encoder: Encoder, optimiser: Optimizer, work: WorkDir) -> int:
    """Load the last checkpoint, if there is one; the number of steps that are done."""
    state = work.load(CHECKPOINT)
    if state is not None:
        encoder.load_state_dict(state["encoder"])
        optimiser.load_state_dict(state["optimiser"])
    done = 0 if state is None else int(state["step"])
    trim_metrics(work.metrics_file(), done)
    return done
