"""The monitors of pretraining: neighbours that vote, and sheets of views."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.textures import textures
from workflow_scripts.networks.contrastive import Encoder
from workflow_scripts.pretraining.augmentation import NOTHING, view_recipes
from workflow_scripts.pretraining.mix import ViewUnion
from workflow_scripts.pretraining.monitor import Neighbours, knn_accuracy, sheet
from workflow_scripts.study.config.pretraining import PretrainingAugmentation

RECIPES = view_recipes(PretrainingAugmentation())


def test_neighbours_of_the_same_patient_do_not_vote() -> None:
    """Two views of each patient are alike, and patients of a class are not: only the patients' twins would be right."""
    features = np.repeat(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32), 2, axis=0)
    classes, patients = np.repeat(np.arange(40) % 2, 2), np.repeat([f"p{i}" for i in range(40)], 2)
    with_twins = knn_accuracy(features, classes, np.array([""] * 80, dtype=object))
    without = knn_accuracy(features, classes, patients)
    assert with_twins is not None
    assert without is not None
    assert without < 0.65
    assert with_twins > without


def test_classes_apart_are_told_apart_and_a_small_class_counts_as_much() -> None:
    features = np.eye(2, dtype=np.float32)[np.array([0] * 30 + [1] * 6)]
    classes = np.array([0] * 30 + [1] * 6)
    nobody = np.array([""] * 36, dtype=object)
    # Five other views of the small class vote among ten neighbours: a tie, which the first class wins.
    assert knn_accuracy(features, classes, nobody) == pytest.approx(0.5)
    assert knn_accuracy(features[:24], np.repeat([0, 1], 12), nobody[:24]) == pytest.approx(0.5)
    apart = np.eye(2, dtype=np.float32)[np.repeat([0, 1], 12)]
    assert knn_accuracy(apart, np.repeat([0, 1], 12), nobody[:24]) == 1.0


def test_one_patient_has_no_neighbours() -> None:
    assert knn_accuracy(np.ones((4, 2), np.float32), np.array([0, 1, 0, 1]), np.array(["p"] * 4)) is None


class Mean(nn.Module):
    """The mean grey and its contrast as features."""

    def forward(self, views: Tensor) -> Tensor:
        means = views.mean(dim=(1, 2, 3))
        return torch.stack([means, torch.ones_like(means)], dim=1)


def mix() -> ViewUnion:
    dark, bright = np.full((20, 8, 8), 40, np.uint8), np.full((20, 8, 8), 200, np.uint8)
    labels = [i % 2 for i in range(20)] + [-1] * 20
    return ViewUnion([dark, bright], [np.arange(20)] * 2, [np.zeros(20), np.ones(20)], labels=labels)


def test_the_organ_is_seen_in_the_features_and_labels_only_where_there_are_some() -> None:
    encoder = Encoder(Mean(), 2, None, 2, seed=0).train()
    found = Neighbours(mix(), 0).accuracies(encoder, torch.device("cpu"))
    assert found["knn_organ"] == 1.0
    assert found["knn_label"] < 0.9, "labels that the pixels do not show"
    assert encoder.training
    one = ViewUnion([mix().stores[0]], [np.arange(20)], [np.zeros(20)])
    assert Neighbours(one, 0).accuracies(encoder, torch.device("cpu")) == {}


def test_views_are_picked_in_equal_parts() -> None:
    picked = Neighbours(mix(), 0, largest=10).picked
    assert np.bincount(mix().organs[picked["knn_organ"]]).tolist() == [5, 5]
    assert set(mix().labels[picked["knn_label"]]) == {0, 1}


def test_a_sheet_shows_images_and_pairs_of_their_views() -> None:
    views = ViewUnion([textures(12, 32)], [np.arange(12)], [np.zeros(12)])
    drawn = sheet(views, RECIPES, 0)
    assert drawn.shape == (8, 7, 32, 32)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, sheet(views, RECIPES, 0))
    for image in drawn:
        assert len({view.tobytes() for view in image}) == 7
    still = sheet(views, (NOTHING, NOTHING), 0)
    assert np.abs(still.astype(int) - still[:, :1]).max() <= 1
