"""Small networks that know a view again after it was rotated, cropped, shifted, blurred or given other speckle.

Pixels find copies up to flips and small shifts; the copy encoder adds those that are rotated or cropped (SSCD, Pizzi et
al. 2022: InfoNCE at a low temperature, with augmentations of the kinds that copies show). The patient encoder learns from
pairs of views of a patient, too, as an attacker with other views of the patients would teach it: it finds who is shown.
Both learn from training and held-out views alike: an encoder that knew the training views alone would find everything
else far away from them, and the held-out views could not calibrate it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from workflow_scripts.core.errors import UserError
from workflow_scripts.privacy.copies import ENCODERS, shrink
from workflow_scripts.runtime.device import to_device, to_numpy

WIDTH = 128
TEMPERATURE = 0.07
# Weight of the term that spreads the features over the sphere (differential entropy, as SSCD's).
ENTROPY = 1.0
BATCH, CHUNK = 64, 256
# Crops of a training view that candidates are compared with: share of the side, and place of the window from top and left,
# 0 to 1. A copy that was cropped lies near the crop that is most like it (benchmarks/reidentification.py).
CORNERS, THIRDS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)), (0.0, 0.5, 1.0)
CROPS = (
    *((0.9, *place) for place in ((0.5, 0.5), *CORNERS)),
    *((zoom, row, column) for zoom in (0.8, 0.7) for row in THIRDS for column in THIRDS),
)


class CopyEncoder(nn.Module):
    """Images (B, 1, side, side) of mean 0 and deviation 1 to unit vectors (B, WIDTH)."""

    # Views are shrunk to this side at most: what distinguishes them shows there, and training takes seconds.
    side = 32
    layers: tuple[tuple[int, int, int], ...] = ((1, 32, 2), (32, 64, 2), (64, 128, 1))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in self.layers:
            layers += [
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                nn.GroupNorm(8, after),
                nn.ReLU(inplace=True),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * 128, WIDTH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.body(images)
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        return functional.normalize(self.head(pooled), dim=1)


class PatientEncoder(CopyEncoder):
    """The same of more pixels, with a layer more."""

    side = 64
    layers = ((1, 32, 2), (32, 64, 2), (64, 128, 2), (128, 128, 1))


class CopyTraining:
    """The training run of a `network` on real views, uint8 (N, side, side), whatever `patients` (N,) they come from.

    Steps 0 to `steps` - 1 are taken in order; each draws its batch by its number, so that `state` and `restore` continue
    a run as if it had never stopped. Raises `UserError` for fewer than 4 views.
    """

    encoder: type[CopyEncoder] = CopyEncoder

    def __init__(self, views: np.ndarray, patients: np.ndarray, steps: int, seed: int, device: torch.device) -> None:
        if len(views) < 4:
            raise UserError(
                f"the copy encoder learns from real views by contrast and needs at least 4, there are {len(views)}"
            )
        self.images = to_device(shrink(views, min(self.encoder.side, views.shape[1])), device)[:, None] / 255
        self.seed, self.device = seed, device
        torch.manual_seed(seed)
        self.network = self.encoder().to(device).train()
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=2e-3, weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, max_lr=2e-3, total_steps=steps)

    def step(self, number: int) -> None:
        """Learn from one batch, two alterations of each view."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        first, second = (
            self.network(standardised(altered(self.images[to_device(rows, self.device)], generator)))
            for rows in self.pairs(generator)
        )
        loss = info_nce(first, second) - ENTROPY * spread(first)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.schedule.step()

    def pairs(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (B,) of the views that belong together: each view with itself."""
        drawn = torch.randperm(len(self.images), generator=generator)[: min(BATCH, len(self.images))]
        return drawn, drawn

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])


class PatientTraining(CopyTraining):
    """The same for the patient encoder: one pair of views of each drawn patient.

    Half of the pairs are two views of the patient, where there are two, and the others one view twice.
    Raises `UserError` for fewer than 4 patients.
    """

    encoder = PatientEncoder

    def __init__(self, views: np.ndarray, patients: np.ndarray, steps: int, seed: int, device: torch.device) -> None:
        super().__init__(views, patients, steps, seed, device)
        # Rows sorted by patient: a patient's are `order[start : start + count]`.
        _, member, counts = np.unique(patients, return_inverse=True, return_counts=True)
        if len(counts) < 4:
            raise UserError(
                f"the patient encoder learns by contrast and needs at least 4 patients, there are {len(counts)}"
            )
        self.order = torch.from_numpy(np.argsort(member, kind="stable"))
        self.counts = torch.from_numpy(counts)
        self.starts = torch.from_numpy(np.cumsum(counts) - counts)

    def pairs(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (B,) and (B,) of two views of each drawn patient."""
        drawn = torch.randperm(len(self.counts), generator=generator)[: min(BATCH, len(self.counts))]
        counts, starts = self.counts[drawn], self.starts[drawn]
        first, step, same = torch.rand((3, len(drawn)), generator=generator)
        place = (first * counts).long()
        # Another view of the patient: 1 to count - 1 places on, round and round.
        other = (place + 1 + (step * (counts - 1)).long()) % counts
        return self.order[starts + place], self.order[starts + torch.where(same < 0.5, place, other)]


# The training runs of the audit's networks.
TRAININGS = dict(zip(ENCODERS, (CopyTraining, PatientTraining), strict=True))


@torch.inference_mode()
def copy_features(network: CopyEncoder, views: np.ndarray, device: torch.device, crops: bool = False) -> np.ndarray:
    """float32 unit vectors (N, crops, WIDTH) of views (N, size, size): of the whole view, and of its crops if asked for.

    Each is the mean of a picture's and its mirror image's.
    """
    network.eval()
    size = views.shape[1]
    side = min(network.side, size)
    parts = []
    for start in range(0, len(views), CHUNK):
        block, features = np.array(views[start : start + CHUNK]), []
        for rows, columns in windows(size) if crops else windows(size)[:1]:
            images = standardised(to_device(shrink(block[:, rows, columns], side), device)[:, None] / 255)
            both = network(images) + network(images.flip(3))
            features.append(to_numpy(functional.normalize(both, dim=1).float()))
        parts.append(np.stack(features, axis=1))
    return np.concatenate(parts)


def windows(size: int) -> list[tuple[slice, slice]]:
    """Rows and columns of a view of `size` pixels, whole first, that a copy may be cropped to (CROPS)."""
    found = []
    for zoom, row, column in ((1.0, 0.5, 0.5), *CROPS):
        window = max(1, round(zoom * size))
        top, left = (round(place * (size - window)) for place in (row, column))
        found.append((slice(top, top + window), slice(left, left + window)))
    return found


def standardised(images: torch.Tensor) -> torch.Tensor:
    """Images (B, 1, H, W) with mean 0 and deviation 1 each, so that gain and brightness say nothing."""
    mean, deviation = images.mean(dim=(2, 3), keepdim=True), images.std(dim=(2, 3), keepdim=True)
    return (images - mean) / (deviation + 1e-3)


def info_nce(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """NT-Xent of unit vectors (B, D): each view's partner against all other views of the batch."""
    both = torch.cat([first, second])
    similar = both @ both.T / TEMPERATURE
    similar = similar.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), float("-inf"))
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return functional.cross_entropy(similar, partner)


def spread(features: torch.Tensor) -> torch.Tensor:
    """Mean log distance to the nearest other feature (Kozachenko-Leonenko, up to constants)."""
    distance = torch.cdist(features, features) + 2 * torch.eye(len(features), device=features.device)
    return distance.amin(dim=1).clamp(min=1e-4).log().mean()


def altered(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One random alteration per image (B, 1, H, W) in [0, 1]: crop, rotation, shift, flip, blur, gamma, noise, speckle."""
    count, device = len(images), images.device

    def draw(low: float, high: float, *shape: int) -> torch.Tensor:
        return to_device(low + (high - low) * torch.rand(shape or (count, 1, 1, 1), generator=generator), device)

    angle, zoom = draw(-0.35, 0.35, count), draw(0.65, 1.05, count)
    mirror = torch.where(draw(0, 1, count) < 0.5, -1.0, 1.0)
    # What a crop leaves over is where its centre may lie.
    room = (1 - zoom).clamp(min=0.12)
    matrix = torch.stack([
        torch.stack([mirror * zoom * angle.cos(), -zoom * angle.sin(), room * draw(-1, 1, count)], dim=1),
        torch.stack([mirror * zoom * angle.sin(), zoom * angle.cos(), room * draw(-1, 1, count)], dim=1),
    ], dim=1)  # fmt: skip
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    smooth = functional.avg_pool2d(moved, 3, stride=1, padding=1, count_include_pad=False)
    moved = moved + draw(0, 1) * (smooth - moved)
    moved = moved.clamp(1e-3, 1) ** draw(0.6, 1.6)

    def noise() -> torch.Tensor:
        return to_device(torch.randn(images.shape, generator=generator), device)

    return moved * (1 + draw(0, 0.4) * noise()) + draw(0, 0.12) * noise()
