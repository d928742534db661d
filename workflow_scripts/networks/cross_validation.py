"""Training of a backbone with a linear head over cross-validation folds (paper, Sec. 3 and 4.3).

Fine-tuning and the noisy-label audit share it: they differ in labels, recipe and in which results they keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.core.randomness import epoch_order, philox, uniforms
from workflow_scripts.networks.backbone import (
    Classifier,
    create_backbone,
    load_initialisation,
    normalise,
    standardise,
    to_unit,
)
from workflow_scripts.networks.fold_inputs import weights_by_fold
from workflow_scripts.networks.geometry import affine_matrices, warp
from workflow_scripts.runtime.device import Ahead, autocast, to_device, to_numpy
from workflow_scripts.runtime.run import Run
from workflow_scripts.study.config.finetuning import FinetuningAugmentation, FinetuningRecipe

# Draws per view for angle, flip and two shifts; those for markers follow.
GEOMETRY_UNIFORMS = 4
# A checkpoint costs up to a second for ResNet-18, as much as an epoch on a GPU: save by time, not by epochs.
CHECKPOINT_SECONDS = 60.0
PREDICTION_BATCH = 64
PADDING = {"black": "zeros", "reflected": "reflection"}


@dataclass(frozen=True)
class CrossValidation:
    """What is trained over the folds of one seed, and how."""

    views: Tensor
    """uint8 (N, H, W), on the device that trains."""
    targets: Mapping[int, np.ndarray]
    """What the model of each fold learns, int64 (N,): 0 or 1, -1 for views that are left out."""
    folds: np.ndarray
    """The fold of each view, int (N,)."""
    recipe: FinetuningRecipe
    seed: int
    """Every draw is a function of it, the fold and the epoch."""
    record: str = "training"
    """Which losses are recorded. "training": those of the views as they were augmented and in the batches they were in,
    before the step that the batch led to; a view that was drawn more than once in an epoch has the mean, one that was not
    drawn has none. "evaluation": those of the clean views in eval mode, after the last step of each epoch."""
    partners: np.ndarray | None = None
    """With `recipe.coupled`: for each view another one of its organ side, itself where there is none, int64 (N,)."""
    trial: str = ""
    """What tells the checkpoints from others of the fold in the work directory; a trial reports no metrics."""
    earlier: int = 0
    """Steps of other trainings in the same work directory before these."""

    def training(self, fold: int) -> np.ndarray:
        """The rows that the model of a fold trains on, int64 (n,)."""
        return np.flatnonzero((self.targets[fold] >= 0) & (self.folds != fold))

    def test(self, fold: int) -> np.ndarray:
        """The rows of a fold, int64 (m,)."""
        return np.flatnonzero(self.folds == fold)

    def steps(self, fold: int) -> int:
        """Optimisation steps of a fold."""
        return self.recipe.epochs * len(batch_bounds(len(self.training(fold)), self.recipe.batch_size))


@dataclass(frozen=True)
class Fold:
    """The result of training one fold."""

    fold: int
    weights: dict[str, Tensor]
    """State of the classifier after the last epoch, on CPU; batch norm's statistics as the recipe's `batch_norm` says."""
    training: np.ndarray
    """Rows it was trained on, int64 (n,)."""
    losses: np.ndarray
    """Losses of these rows, float64 (epochs, n): cross-entropy in nats, NaN where none was recorded."""
    test: np.ndarray
    """Rows of the fold, int64 (m,)."""
    probabilities: np.ndarray
    """Their probability of the positive class, float64 (m,) in [0, 1]."""


class Diverged(UserError):
    """A training loss is not finite."""


def initial_classifier(
    backbone: str,
    layout: str,
    path: Path | None,
    seed: int,
    fold: int,
    recipe: FinetuningRecipe | None = None,
    normalisation: Sequence[float] = (),
    side: int | None = None,
) -> Classifier:
    """The classifier a fold starts from; whatever is random in its weights is a function of (seed, fold).

    Of the seed alone where `recipe` has `shared_start`; `recipe.head` names the head's distribution, `normalisation` what
    the backbone expects and `side` the views' pixels (`create_backbone`).
    """
    recipe = recipe or FinetuningRecipe()
    stream = "weights" if recipe.shared_start else f"fold{fold}/weights"
    fold_seed = int(philox(seed, stream).integers(2**63))
    network = create_backbone(backbone, fold_seed, normalisation, side)
    load_initialisation(network, layout, path, fold_seed)
    return Classifier(network, fold_seed, recipe.head)


def initial_classifiers(
    backbone: str,
    layout: str,
    weights: Sequence[Path],
    seed: int,
    folds: Sequence[int],
    recipe: FinetuningRecipe | None = None,
    normalisation: Sequence[float] = (),
    side: int | None = None,
) -> dict[int, Classifier]:
    """`initial_classifier` of each fold; `weights` are none, one file for all folds, or one per fold in their order."""
    files = weights_by_fold(weights, folds, layout)
    return {
        fold: initial_classifier(backbone, layout, path, seed, fold, recipe, normalisation, side)
        for fold, path in files.items()
    }


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
    if settings.preset == "released":
        from workflow_scripts.networks.released_augmentation import UNIFORMS

        return UNIFORMS
    if not settings.markers:
        return GEOMETRY_UNIFORMS
    from workflow_scripts.networks.markers import MARKER_UNIFORMS

    return GEOMETRY_UNIFORMS + MARKER_UNIFORMS


def augment(images: Tensor, draws: np.ndarray, settings: FinetuningAugmentation) -> Tensor:
    """Markers, then rotation, flip and shift in one resampling (paper, Sec. 4.3); pixels from outside by `outside`.

    `images` float (N, 1, H, W) in [0, 1], `draws` float32 (N, augmentation_draws) in [0, 1). Image i depends on
    draws[i] alone. Rotation in degrees and shift as a share of the side are uniform, either way. `preset: released` has
    transforms of its own (`released_augmentation`).
    """
    if settings.preset == "released":
        from workflow_scripts.networks.released_augmentation import augment_as_released

        return augment_as_released(images, draws)
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
    return warp(images, theta, PADDING[settings.outside])


def partners(organ_side: np.ndarray) -> np.ndarray:
    """For each view the next one of its organ side, in turn, int64 (N,); itself where it is alone. `organ_side` (N,)."""
    result = np.arange(len(organ_side))
    for side in np.unique(organ_side):
        views = np.flatnonzero(organ_side == side)
        result[views] = np.roll(views, -1)
    return result


def symmetric_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler divergence of two predictions, in nats (N,): of p from q and of q from p. Logits (N, 2)."""
    p, q = F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)
    return ((p.exp() - q.exp()) * (p - q)).sum(dim=1)


def coupled_loss(logits: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Loss of N pairs of views, (N,): the mean cross-entropy of both, and `weight` times their symmetric divergence.

    `logits` (2 N, 2) and `targets` int64 (2 N,) hold the first views, then their partners in the same order.
    """
    first, second = logits.chunk(2)
    entropy = torch.stack(F.cross_entropy(logits, targets, reduction="none").chunk(2)).mean(dim=0)
    return entropy + weight * symmetric_divergence(first, second)


def train_fold(model: Classifier, task: CrossValidation, fold: int, run: Run) -> np.ndarray:
    """Train `model` in place and return its losses on the fold's training views, float64 (epochs, n) as in `Fold`.

    Checkpoints go to `fold<f>.pt` of the run's work directory, and one that is there is continued. Raises `Interrupted`
    after a checkpoint when the time of the job is over, `Diverged` when a loss is not finite.
    """
    recipe, device, stream = task.recipe, task.views.device, f"fold{fold}"
    training, labels = task.training(fold), task.targets[fold]
    bounds = batch_bounds(len(training), recipe.batch_size)
    targets = to_device(labels, device)
    if recipe.coupled:
        assert task.partners is not None, "coupled training needs the partners of the views"
        # A partner that is left out of training teaches nothing; the view is then coupled with itself, augmented anew.
        is_learnt = np.isin(task.partners, training)
        partner = to_device(np.where(is_learnt, task.partners, np.arange(len(labels))), device)
    before = task.earlier + sum(task.steps(other) for other in task.targets if other < fold)
    checkpoint = f"{stream}{task.trial}.pt"

    # The network and its optimiser; the losses to return, and those of the current epoch's batches.
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    _training_mode(model, recipe)
    optimiser = _optimiser(model, recipe)
    losses = np.full((recipe.epochs, len(training)), np.nan)
    drawn: list[Tensor] = []

    # Where an earlier attempt stopped.
    first = 0
    if (saved := run.work.load(checkpoint)) is not None:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        first, losses, drawn = saved["step"], saved["losses"].numpy(), [saved["drawn"].to(device)]
    # A finished fold writes no metrics, and must not drop those of the folds after it.
    board = run.board(before + first) if first < task.steps(fold) and not task.trial else None

    def state() -> dict[str, Any]:
        return {
            "model": model.state_dict(), "optimiser": optimiser.state_dict(), "losses": torch.from_numpy(losses),
            "drawn": torch.cat(drawn) if drawn else torch.empty(0),
        }  # fmt: skip

    # Of an epoch: the order of its views, the random numbers of their augmentation, and those of their partners'.
    def draw(epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = draw_order(labels[training], recipe.sampler, task.seed, stream, epoch)
        samples = draw_samples(order, training, len(task.views))
        count = augmentation_draws(recipe.augmentation)
        numbers = uniforms(task.seed, f"{stream}/augmentation", epoch, samples, count)
        if not recipe.coupled:
            return order, numbers, numbers[:, :0]
        return order, numbers, uniforms(task.seed, f"{stream}/partner", epoch, samples, count)

    drawn_epochs = Ahead(draw, device, recipe.epochs)

    for step in run.steps(
        task.steps(fold), state, start=first, seconds=CHECKPOINT_SECONDS, checkpoint=checkpoint, before=before,
        label=f"seed {task.seed}, fold {fold}",
    ):  # fmt: skip
        epoch, batch = divmod(step, len(bounds))

        if batch == 0 or step == first:
            order, draws, partner_draws = drawn_epochs(epoch)
            rows = to_device(training[order], device)

        # The batch, augmented on the device.
        part = slice(*bounds[batch])
        with torch.no_grad():
            images = standardise(augment(to_unit(task.views[rows[part]]), draws[part], recipe.augmentation))

        shown = rows[part]
        if recipe.coupled:
            with torch.no_grad():
                others = augment(to_unit(task.views[partner[shown]]), partner_draws[part], recipe.augmentation)
                images, shown = torch.cat([images, standardise(others)]), torch.cat([shown, partner[shown]])

        # Forward, backward, step.
        with autocast(device):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        if recipe.coupled:
            loss = coupled_loss(logits.float(), targets[shown], recipe.coupled)
        else:
            loss = F.cross_entropy(logits.float(), targets[shown], reduction="none")
        optimiser.zero_grad(set_to_none=True)
        loss.mean().backward()
        optimiser.step()
        drawn.append(loss.detach())

        # At the end of an epoch: its losses, in one transfer, since each makes the CPU wait for the GPU.
        if batch == len(bounds) - 1:
            epoch_losses = to_numpy(torch.cat(drawn).double())
            drawn.clear()
            if not np.isfinite(epoch_losses).all():
                raise Diverged(
                    f"seed {task.seed}, fold {fold}, epoch {epoch + 1}: the training loss is not finite. "
                    f"Lower head_lr ({recipe.head_lr}) or backbone_lr ({recipe.backbone_lr})"
                )
            if task.record == "evaluation":
                losses[epoch] = evaluate(model, task.views, targets, to_device(training, device))
                _training_mode(model, recipe)
            else:
                losses[epoch] = mean_per_view(order, epoch_losses)
            if board is not None:
                row = {"step": before + step + 1, "fold": fold, "epoch": epoch + 1, "loss": epoch_losses.mean()}
                board.report(row)
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
            parts.append(F.cross_entropy(logits.double(), targets[part], reduction="none"))
    return to_numpy(torch.cat(parts))


def predict(model: nn.Module, views: Tensor) -> np.ndarray:
    """Probability of the positive class in eval mode without augmentation, float64 (N,); `views` uint8 (N, H, W).

    float32 whatever the training's arithmetic; a view's probability depends on its batch by no more than rounding.
    """
    model.eval()
    parts = []
    with torch.inference_mode():
        for part in views.split(PREDICTION_BATCH):
            logits = model(normalise(part).contiguous(memory_format=torch.channels_last))
            parts.append(logits.double().softmax(dim=1)[:, 1])
    return to_numpy(torch.cat(parts))


def re_estimate_batch_norm(model: nn.Module, views: Tensor) -> None:
    """Set batch norm's running mean and variance to the means of those of batches of `views`, uint8 (N, H, W), in eval mode.

    Rotation and shift bring black corners into the training views, and test views have none; statistics that ran along are
    thus of other views than those that are predicted. Leaves the model in eval mode; changes no weight.
    """
    model.eval()
    bounds = batch_bounds(len(views), PREDICTION_BATCH)
    batches = (normalise(views[slice(*part)]).contiguous(memory_format=torch.channels_last) for part in bounds)
    update_bn(batches, model)


def cross_validate(models: Mapping[int, Classifier], task: CrossValidation, run: Run) -> list[Fold]:
    """Train one model per fold on views of the other folds and predict every view of its own.

    `models` by fold as they start. What the work directory of `run` holds is not trained again. Raises as `train_fold`
    does.
    """
    results = []
    for fold, model in sorted(models.items()):
        training, test = task.training(fold), task.test(fold)
        losses = train_fold(model, task, fold, run)
        if task.recipe.batch_norm == "re_estimated" and not task.recipe.freeze_backbone:
            re_estimate_batch_norm(model, task.views[to_device(training, task.views.device)])
        probabilities = predict(model, task.views[to_device(test, task.views.device)])
        weights = {name: value.cpu() for name, value in model.state_dict().items()}
        results.append(Fold(fold, weights, training, losses, test, probabilities))
        say(
            f"seed {task.seed}, fold {fold}: trained on {len(training)} views, mean loss {np.nanmean(losses[0]):.3f} "
            f"in the first epoch, {np.nanmean(losses[-1]):.3f} in the last"
        )
    return results


def _training_mode(model: Classifier, recipe: FinetuningRecipe) -> None:
    model.train()
    if recipe.freeze_backbone:
        model.backbone.requires_grad_(False).eval()


def _optimiser(model: Classifier, recipe: FinetuningRecipe) -> torch.optim.Optimizer:
    groups = [
        *([] if recipe.freeze_backbone else [{"params": list(model.backbone.parameters()), "lr": recipe.backbone_lr}]),
        {"params": list(model.head.parameters()), "lr": recipe.head_lr},
    ]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
