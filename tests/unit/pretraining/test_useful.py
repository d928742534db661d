"""A useless pretraining shows: frozen features of PHANTOMS, with few labels, before and after.

Every view has a gain and a contrast of its own, as scanners and their settings differ. Features of random weights follow these
and tell little else; pretraining has to find texture behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from tests.shared import start_run
from workflow_scripts.data.phantom import draw_frame
from workflow_scripts.data.profiles import resize
from workflow_scripts.finetuning.baselines import linear_probability
from workflow_scripts.networks.backbone import create_backbone, normalise
from workflow_scripts.pretraining import contrastive_step, loop
from workflow_scripts.pretraining.mix import ViewUnion
from workflow_scripts.study.config.pretraining import PretrainingRecipe

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

SIDE, LABELLED, UNLABELLED = 32, 80, 60
# Patients of either class that a classifier learns from; the others are tested. Its draws of them.
FEW, DRAWS = 4, 30
RECIPE = PretrainingRecipe(
    batch_size=64, steps=300, lr=3e-3, optimiser="adamw", projection=[64, 64], temperature=0.2
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def views(seed: int, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two views each of so many drawn patients, uint8 (2 N, S, S); which are inhomogeneous, and whose they are, (2 N,)."""
    drawn, positive = [], np.arange(patients) % 3 == 0
    for number in range(patients):
        frame = draw_frame(
            seed, f"F{number}", f"P{number}", "testicle", inhomogeneous=bool(positive[number]), thyroid=False
        )
        drawn += [resize(frame[130:430, left : left + 300], SIDE).astype(float) for left in (185, 485)]
    random, grey = np.random.default_rng(seed), np.stack(drawn)
    contrast = 0.8 * np.exp(random.uniform(-0.8, 0.8, len(grey)))[:, None, None]
    mean = grey.mean(axis=(1, 2), keepdims=True)
    changed = mean + random.uniform(-60, 60, len(grey))[:, None, None] + contrast * (grey - mean)
    pixels = changed.clip(0, 255).round().astype(np.uint8)
    return pixels, np.repeat(positive, 2), np.repeat(np.arange(patients), 2)


@pytest.fixture(scope="module")
def phantoms() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labelled views, their labels and patients; views of others."""
    return *views(0, LABELLED), views(1, UNLABELLED)[0]


def auroc(network: torch.nn.Module, pixels: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> float:
    """Of a linear classifier on frozen features, fitted to a few patients and tested on the others; mean over draws."""
    with torch.inference_mode():
        features = network.eval()(normalise(torch.from_numpy(pixels))).double().numpy()
    positive = np.unique(patients[labels])
    found = []
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(np.unique(patients))
        is_positive = np.isin(order, positive)
        learnt = np.isin(patients, [*order[is_positive][:FEW], *order[~is_positive][:FEW]])
        probability = linear_probability(features[learnt], labels[learnt], features)
        found.append(roc_auc_score(labels[~learnt], probability[~learnt]))
    return float(np.mean(found))


def before_and_after(
    phantoms: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], seed: int, folder: Path
) -> tuple[float, float]:
    """`auroc` of random weights, and of what they have become in pretraining on all views without labels."""
    *labelled, others = phantoms
    network = create_backbone("test_resnet", seed)
    before = auroc(network, *labelled)
    stores = [labelled[0], others]
    union = ViewUnion(stores, [np.arange(len(store)) for store in stores], [np.zeros(len(store)) for store in stores])
    recipe = RECIPE.model_copy(update={"seed": seed})
    loop.pretrain(loop.make_encoder(network, 1, union, recipe), union, recipe, start_run(folder))
    return before, auroc(network, *labelled)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pretrained_features_beat_random_ones(phantoms, seed: int, tmp_path: Path) -> None:
    before, after = before_and_after(phantoms, seed, tmp_path)
    assert after > before + 0.1, (before, after)


def other_partners(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss takes another view for a view's partner."""
    plain = contrastive_step.nt_xent
    monkeypatch.setattr(contrastive_step, "nt_xent", lambda first, second, t: plain(first, second.roll(1, 0), t))


def noise_for_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """The augmentation leaves nothing of the view."""
    plain = loop.augment_pairs

    def noise(images: Tensor, *rest: object) -> Tensor:
        return torch.rand_like(plain(images, *rest))

    monkeypatch.setattr(loop, "augment_pairs", noise)


def one_view_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both views of a pair are one."""
    plain = loop.augment_pairs

    def twice(images: Tensor, *rest: object) -> Tensor:
        return plain(images, *rest)[:1].repeat(2, 1, 1, 1, 1)

    monkeypatch.setattr(loop, "augment_pairs", twice)


@pytest.mark.parametrize("broken", [other_partners, noise_for_views, one_view_twice])
def test_a_broken_loss_or_augmentation_teaches_nothing(
    phantoms, broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken(monkeypatch)
    before, after = before_and_after(phantoms, 1, tmp_path)
    assert after < before + 0.05, (before, after)
