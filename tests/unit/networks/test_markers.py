"""Calliper markers: drawn or not by their draws alone, image by image."""

import numpy as np
import pytest
import torch

from workflow_scripts.networks import markers
from workflow_scripts.networks.markers import DRAWS, KINDS, MARKER_UNIFORMS, REPEATS, draw_markers


def uniforms(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, MARKER_UNIFORMS), dtype=np.float32)


def test_probability_zero_changes_nothing():
    images = torch.rand(3, 1, 32, 32)
    assert draw_markers(images, uniforms(3), 0.0) is images


def test_markers_are_bright_small_and_on_every_image_at_probability_one():
    images = torch.zeros(8, 1, 64, 64)
    drawn = draw_markers(images, uniforms(8), 1.0)
    inked = drawn > 0
    assert drawn[inked].min() >= 0.85
    assert drawn.max() <= 1
    share = inked.float().mean(dim=(1, 2, 3))
    assert (share > 0.01).all()
    assert (share < 0.3).all()
    assert images.max() == 0


def test_each_kind_leaves_ink_of_its_own():
    pictures = []
    for kind in range(KINDS):
        draws = np.full((1, KINDS, REPEATS, DRAWS), 0.5, np.float32)
        draws[..., 0] = 0.99
        draws[:, kind, 0, 0] = 0.0
        draws[:, :, :, 3] = 0.9
        picture = draw_markers(torch.zeros(1, 1, 64, 64), draws.reshape(1, -1), 0.5)
        assert (picture > 0).sum() >= 3
        pictures.append(picture)
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


def test_an_image_does_not_depend_on_its_batch():
    images, draws = torch.rand(5, 1, 48, 48), uniforms(5)
    together = draw_markers(images, draws, 0.5)
    for i in range(5):
        assert torch.equal(together[i : i + 1], draw_markers(images[i : i + 1], draws[i : i + 1], 0.5))


@pytest.mark.parametrize("side", [32, 41, 128])
def test_a_window_around_a_marker_holds_all_its_ink(side, monkeypatch):
    images, draws = torch.rand(8, 1, side, side), uniforms(8)
    within = draw_markers(images, draws, 0.7)
    monkeypatch.setattr(markers, "LARGEST", 2.0)  # windows are whole images now
    assert torch.equal(within, draw_markers(images, draws, 0.7))
