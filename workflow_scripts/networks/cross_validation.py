"""Training of a backbone with a linear head over cross-validation folds (paper, Sec. 3 and 4.3).

Fine-tuning and the noisy-label audit share it: they differ in labels, recipe and in what is kept of the result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.core.randomness import epoch_order, philox, uniforms
from workflow_scripts.networks.backbone import (
    Classifier,
    create_backbone,
    load_initialisation,
    normalise,
    standardise,
    to_unit,
)
from workflow_scripts.networks.geometry import affine_matrices, warp
from workflow_scripts.runtime.device import autocast
from workflow_scripts.runtime.work import Clock, Interrupted, WorkDir, append_metrics, trim_metrics
from workflow_scripts.study.config.finetuning import FinetuningAugmentation, FinetuningRecipe

# Draws per view for angle, flip and two shifts; those for markers follow.
GEOMETRY_UNIFORMS = 4
# A checkpoint costs up to a second for ResNet-18, as much as an epoch on a GPU: save by time, not by epochs.
CHECKPOINT_SECONDS = 60.0
PREDICTION_BATCH = 64


@dataclass(frozen=True)
class Fold:
    """What the training of one fold gives."""

    fold: int
    weights: dict[str, Tensor]
    """State of the classifier after the last epoch, on CPU."""
    training: np.ndarray
    """Rows it was trained on, int64 (n,)."""
    losses: np.ndarray
    """Losses of these rows, float64 (epochs, n): cross-entropy in nats, NaN where none was recorded."""
    test: np.ndarray
    """Rows of the fold, int64 (m,)."""
    probabilities: np.ndarray
    """Their probability of the positive class, float64 (m,) in [0, 1]."""


def initial_classifier(backbone: str, layout: str, path: Path | None, seed: int, fold: int) -> Classifier:
    """The classifier a fold starts from; whatever is random in its weights is a function of (seed, fold)."""
    fold_seed = int(philox(seed, f"fold{fold}/weights").integers(2**63))
    network = create_backbone(backbone, fold_seed)
    load_initialisation(network, layout, path, fold_seed)
    return Classifier(network, fold_seed)


def draw_order(labels: np.ndarray, sampler: str, seed: int, stream: str, epoch: int) -> np.ndarray:
    """The views of one epoch in order, as positions in `labels`, int64 (n,).

    `labels` (n,) are 0 and 1, both present. `shuffle`: each view once. `weighted`: each draw picks a class by a fair
    coin, then any of its views, with replacement. A function of (labels, seed, stream, epoch).
    """
    if sampler == "shuffle":
        return epoch_order(seed, f"{stream}/order", epoch, len(labels))
    coins, picks = philox(seed, f"{stream}/order", epoch).random((2, len(labels)))
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    choices = [members[(picks * len(members)).astype(np.int64)] for members in classes]
    return np.where(coins < 0.5, choices[1], choices[0])


def draw_samples(order: np.ndarray, rows: np.ndarray, total: int) -> np.ndarray:
    """A number per draw of an epoch that its augmentation depends on, int64 (n,).

    A view's row at its first draw in the epoch, then row + total, row + 2 total, … so that a view that the weighted
    sampler draws again is augmented afresh. `total` is the number of views in the store.
    """
    sorting = np.argsort(order, kind="stable")
    ordered = order[sorting]
    starts = np.searchsorted(ordered, ordered)
    repeats = np.empty(len(order), dtype=np.int64)
    repeats[sorting] = np.arange(len(order)) - starts
    return rows[order] + repeats * total


def mean_per_view(order: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Loss of each view in an epoch, float64 (n,), from the losses (n,) of the draws `order` (n,); NaN if none."""
    counts = np.bincount(order, minlength=len(order))
    sums = np.bincount(order, weights=losses, minlength=len(order))
    return np.divide(sums, counts, out=np.full(len(order), np.nan), where=counts > 0)


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and end of each batch; nothing is dropped.

    A last batch of one view joins the one before, since batch normalisation cannot train on a single view.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def augmentation_draws(settings: FinetuningAugmentation) -> int:
    """Number of uniform draws per view that `augment` takes."""
    if not settings.markers:
        return GEOMETRY_UNIFORMS
    from workflow_scripts.networks.markers import MARKER_UNIFORMS

    return GEOMETRY_UNIFORMS + MARKER_UNIFORMS


def augment(images: Tensor, draws: np.ndarray, settings: FinetuningAugmentation) -> Tensor:
    """Markers, then rotation, flip and shift in one resampling (paper, Sec. 4.3); what is moved in from outside is black.

    `images` float (N, 1, H, W) in [0, 1], `draws` float32 (N, augmentation_draws) in [0, 1). Image i depends on
    draws[i] alone. Rotation in degrees and shift as a share of the side are uniform, either way.
    """
    if settings.markers:
        from workflow_scripts.networks.markers import draw_markers

        images = draw_markers(images, draws[:, GEOMETRY_UNIFORMS:], settings.markers)
    if not (settings.rotation or settings.flip or settings.shift):
        return images
    angle, flip, shift_x, shift_y = draws[:, :GEOMETRY_UNIFORMS].T
    scale = np.ones_like(angle)
    theta = affine_matrices(
        (2 * angle - 1) * settings.rotation,
        scale,
        scale,
        # The side is 2 long in the coordinates of affine_matrices.
        (2 * shift_x - 1) * 2 * settings.shift,
        (2 * shift_y - 1) * 2 * settings.shift,
        flip < settings.flip,
    )
    return warp(images, theta)


def count_steps(views: int, recipe: FinetuningRecipe) -> int:
    """Optimisation steps of a fold that trains on `views` views."""
    return recipe.epochs * len(batch_bounds(views, recipe.batch_size))


def train_fold(
    model: Classifier, views: Tensor, labels: np.ndarray, training: np.ndarray, recipe: FinetuningRecipe, seed: int, fold: int,
    work: WorkDir, clock: Clock, steps_before: int = 0, record: str = "training",
) -> np.ndarray:  # fmt: skip
    """Train `model` in place and return its losses on the training views, float64 (epochs, n) as in `Fold`.

    `views` uint8 (N, H, W) on the model's device, `labels` (N,) 0 or 1, `training` (n,) the rows to train on. With
    `record` "training" a loss is that of the view as it was augmented and in the batch it was in, before the step
    it led to, averaged where it was drawn more than once in the epoch and NaN where it was not drawn. With
    "evaluation" it is that of the clean view after the epoch's last step, in eval mode. Checkpoints go to
    `fold<f>.pt` of `work`; `steps_before` are the steps of the folds before. Raises `Interrupted` after a
    checkpoint when the clock is over, `UserError` when a loss is no number.
    """
    device = views.device
    model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = _optimiser(model, recipe)
    stream, bounds = f"fold{fold}", batch_bounds(len(training), recipe.batch_size)
    targets = torch.as_tensor(labels, device=device)
    losses = np.full((recipe.epochs, len(training)), np.nan)
    drawn: list[Tensor] = []
    first, steps = 0, recipe.epochs * len(bounds)
    state = work.load(f"{stream}.pt")
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, losses = state["step"], state["losses"].numpy()
        drawn = [state["drawn"].to(device)]
    trim_metrics(work.metrics_file(), steps_before + first)

    saved = time.monotonic()
    for step in progress(range(first, steps), f"seed {seed} {stream}", "step", total=steps, initial=first):
        epoch, batch = divmod(step, len(bounds))
        if batch == 0 or step == first:
            order = draw_order(labels[training], recipe.sampler, seed, stream, epoch)
            samples = draw_samples(order, training, len(views))
            draws = uniforms(seed, f"{stream}/augmentation", epoch, samples, augmentation_draws(recipe.augmentation))
            rows = torch.as_tensor(training[order], device=device)
        start, end = bounds[batch]
        with torch.no_grad():
            images = standardise(augment(to_unit(views[rows[start:end]]), draws[start:end], recipe.augmentation))
        with autocast(device):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), targets[rows[start:end]], reduction="none")
        optimiser.zero_grad(set_to_none=True)
        loss.mean().backward()
        optimiser.step()
        drawn.append(loss.detach())

        if batch == len(bounds) - 1:
            # One transfer back per epoch: each makes the CPU wait for the GPU.
            epoch_losses = torch.cat(drawn).double().cpu().numpy()
            drawn = []
            if not np.isfinite(epoch_losses).all():
                raise UserError(
                    f"seed {seed}, fold {fold}, epoch {epoch + 1}: the training loss is no number any more. "
                    f"Lower head_lr ({recipe.head_lr}) or backbone_lr ({recipe.backbone_lr})"
                )
            if record == "evaluation":
                losses[epoch] = evaluate(model, views, targets, torch.as_tensor(training, device=device))
                model.train()
            else:
                losses[epoch] = mean_per_view(order, epoch_losses)
            row = {"step": steps_before + step + 1, "fold": fold, "epoch": epoch + 1, "loss": epoch_losses.mean()}
            append_metrics(work.metrics_file(), row)
        is_over = clock.is_over() and step + 1 < steps
        if is_over or time.monotonic() - saved >= CHECKPOINT_SECONDS:
            part = torch.cat(drawn) if drawn else torch.empty(0)
            work.save(
                f"{stream}.pt",
                {
                    "model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1,
                    "losses": torch.from_numpy(losses), "drawn": part,
                },
                steps_before + step + 1,
            )  # fmt: skip
            saved = time.monotonic()
        if is_over:
            raise Interrupted(
                f"the time of this job is over at step {step + 1} of {steps} of seed {seed}, fold {fold}; "
                f"it is saved in {work.path} and the next try continues it"
            )
    return losses


def evaluate(model: nn.Module, views: Tensor, targets: Tensor, rows: Tensor) -> np.ndarray:
    """Losses of the given rows in eval mode without augmentation, float64 (n,): cross-entropy in nats.

    `views` uint8 (N, H, W), `targets` int64 (N,). Leaves the model in eval mode.
    """
    model.eval()
    parts = []
    with torch.inference_mode():
        for part in rows.split(PREDICTION_BATCH):
            logits = model(normalise(views[part]).contiguous(memory_format=torch.channels_last))
            parts.append(F.cross_entropy(logits.double(), targets[part], reduction="none").cpu())
    return torch.cat(parts).numpy()


def predict(model: nn.Module, views: Tensor) -> np.ndarray:
    """Probability of the positive class in eval mode without augmentation, float64 (N,); `views` uint8 (N, H, W).

    float32 whatever the training's arithmetic; a view's probability depends on its batch by no more than rounding.
    """
    model.eval()
    parts = []
    with torch.inference_mode():
        for part in views.split(PREDICTION_BATCH):
            logits = model(normalise(part).contiguous(memory_format=torch.channels_last))
            parts.append(logits.double().softmax(dim=1)[:, 1].cpu())
    return torch.cat(parts).numpy()


def cross_validate(
    models: Mapping[int, Classifier], views: np.ndarray, targets: Mapping[int, np.ndarray], folds: np.ndarray,
    recipe: FinetuningRecipe, seed: int, device: torch.device, work: WorkDir, clock: Clock, record: str = "training",
) -> list[Fold]:  # fmt: skip
    """Train one model per fold on views of the other folds and predict every view of its own.

    `models` by fold as they start, `views` uint8 (N, H, W), `targets` by fold what its model learns, int64 (N,): 0
    or 1, -1 for views that are left out, `folds` (N,) int. `record`: see `train_fold`. Folds that `work` holds are
    not trained again. Raises as `train_fold` does.
    """
    resident = torch.from_numpy(np.array(views)).to(device)
    results = []
    steps = 0
    for fold, model in sorted(models.items()):
        labels = targets[fold]
        training, test = np.flatnonzero((labels >= 0) & (folds != fold)), np.flatnonzero(folds == fold)
        done = work.load(f"fold{fold}_done.pt")
        if done is None:
            losses = train_fold(model, resident, labels, training, recipe, seed, fold, work, clock, steps, record)
            probabilities = predict(model, resident[torch.from_numpy(test).to(device)])
            done = {
                "weights": {name: value.cpu() for name, value in model.state_dict().items()},
                "losses": torch.from_numpy(losses),
                "probabilities": torch.from_numpy(probabilities),
            }
            work.save(f"fold{fold}_done.pt", done, steps + count_steps(len(training), recipe))
            (work.path / f"fold{fold}.pt").unlink(missing_ok=True)
        steps += count_steps(len(training), recipe)
        losses, probabilities = done["losses"].numpy(), done["probabilities"].numpy()
        results.append(Fold(fold, done["weights"], training, losses, test, probabilities))
        say(f"seed {seed}, fold {fold}: {len(training)} views trained on, mean loss {_trend(losses)}")
    return results


def _optimiser(model: Classifier, recipe: FinetuningRecipe) -> torch.optim.Optimizer:
    groups = [
        {"params": list(model.backbone.parameters()), "lr": recipe.backbone_lr},
        {"params": list(model.head.parameters()), "lr": recipe.head_lr},
    ]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)


def _trend(losses: np.ndarray) -> str:
    return f"{np.nanmean(losses[0]):.3f} in the first epoch, {np.nanmean(losses[-1]):.3f} in the last"
