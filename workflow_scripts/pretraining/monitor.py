"""Monitors of pretraining: nearest-neighbour accuracies of its features, and a sheet of the views that it draws."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from workflow_scripts.core.randomness import epoch_order, philox
from workflow_scripts.networks.backbone import normalise
from workflow_scripts.networks.contrastive import Encoder
from workflow_scripts.pretraining.augmentation import augment_pairs, pair_draws
from workflow_scripts.pretraining.mix import ViewUnion
from workflow_scripts.runtime.device import autocast, to_device, to_numpy
from workflow_scripts.study.config.pretraining import PretrainingAugmentation

# Views at most that are looked at, in equal parts of each class; neighbours that vote; images and pairs on a sheet.
LARGEST = 512
NEIGHBOURS = 10
SHEET_IMAGES, SHEET_PAIRS = 8, 3
ENCODED_TOGETHER = 64


class Neighbours:
    """Balanced k-NN accuracies of clean views in the backbone's features: of the organ, and of the label where there is one.

    The label's accuracy is a monitor only: no choice depends on it, and pretraining never sees a label. Chance is one over
    the number of classes.
    """

    def __init__(self, views: ViewUnion, seed: int, largest: int = LARGEST) -> None:
        self.views = views
        self.picked = {
            name: rows
            for name, classes in (("knn_organ", views.organs), ("knn_label", views.labels))
            if (rows := _pick(classes, seed, largest)) is not None
        }

    def accuracies(self, encoder: Encoder, device: torch.device) -> dict[str, float]:
        """Accuracies of the present weights; the encoder is left in the mode it was in."""
        found = {}
        training = encoder.training
        encoder.eval()
        for name, rows in self.picked.items():
            classes = self.views.organs if name == "knn_organ" else self.views.labels
            parts = []
            for part in np.array_split(rows, -(-len(rows) // ENCODED_TOGETHER)):
                with torch.no_grad(), autocast(device):
                    parts.append(encoder.backbone(normalise(to_device(self.views.take(part), device))).float())
            features = to_numpy(torch.cat(parts))
            accuracy = knn_accuracy(features, classes[rows], self.views.patients[rows])
            if accuracy is not None:
                found[name] = accuracy
        encoder.train(training)
        return found


def knn_accuracy(features: np.ndarray, classes: np.ndarray, patients: np.ndarray) -> float | None:
    """Mean over the classes of the share that the nearest other patients' views, by cosine, vote for correctly.

    `features` (N, D), `classes` and `patients` (N,); views of an empty patient are patients of their own. A tie goes to
    the class that comes first. None where a view has no other patient's view.
    """
    unit = F.normalize(torch.from_numpy(features), dim=1)
    near = (unit @ unit.T).numpy()
    names = np.array([name or f"/{i}" for i, name in enumerate(patients)], dtype=object)
    near[names[:, None] == names[None, :]] = -np.inf
    count = min(NEIGHBOURS, int(np.isfinite(near).sum(axis=1).min()))
    if not count:
        return None
    voters = np.argsort(-near, axis=1, kind="stable")[:, :count]
    kinds = np.unique(classes)
    votes = (classes[voters][:, :, None] == kinds).sum(axis=1)
    right = kinds[votes.argmax(axis=1)] == classes
    return float(np.mean([right[classes == kind].mean() for kind in kinds]))


def sheet(
    views: ViewUnion,
    recipes: tuple[PretrainingAugmentation, PretrainingAugmentation],
    seed: int,
    of_frames: bool = False,
) -> np.ndarray:
    """Images beside pairs of their views as pretraining draws them, uint8 (images, 1 + 2 pairs, H, W).

    `of_frames`: the second view of a pair is of another view of the frame.
    """
    indices = np.sort(epoch_order(seed, "sheet", 0, len(views))[:SHEET_IMAGES])
    images = views.take(indices)
    partners = torch.from_numpy(views.take(views.partners[indices])) if of_frames else None
    # Steps beyond those of any run, so that the sheet does not repeat one of its batches.
    pairs = [
        augment_pairs(torch.from_numpy(images), recipes, pair_draws(seed, 2**40 + pair, indices), partners)
        for pair in range(SHEET_PAIRS)
    ]
    drawn = (torch.cat(pairs)[:, :, 0] * 255).round().to(torch.uint8).numpy()
    return np.concatenate([images[:, None], drawn.swapaxes(0, 1)], axis=1)


def _pick(classes: np.ndarray, seed: int, largest: int) -> np.ndarray | None:
    """Rows in equal parts of each class (or all of a small one); None for fewer than two classes."""
    kinds = np.unique(classes[classes >= 0])
    if len(kinds) < 2:
        return None
    parts = [np.flatnonzero(classes == kind) for kind in kinds]
    chosen = [philox(seed, "monitor", int(kind)).permutation(part) for kind, part in zip(kinds, parts, strict=True)]
    return np.sort(np.concatenate([part[: max(1, largest // len(kinds))] for part in chosen]))
