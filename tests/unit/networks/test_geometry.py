"""Affine warps: directions, composition, independence of the batch."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from workflow_scripts.networks.geometry import affine_matrices, warp


def theta(count=1, angle=0.0, scale_x=1.0, scale_y=1.0, shift_x=0.0, shift_y=0.0, flip=False):
    values = (angle, scale_x, scale_y, shift_x, shift_y, flip)
    return affine_matrices(*(torch.full((count,), float(value)) for value in values))


@pytest.fixture
def image():
    return torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))


def test_identity(image):
    torch.testing.assert_close(warp(image, theta()), image)


def test_flip_mirrors_columns(image):
    torch.testing.assert_close(warp(image, theta(flip=True)), image.flip(-1))


def test_positive_angle_turns_counter_clockwise(image):
    torch.testing.assert_close(warp(image, theta(angle=90)), torch.rot90(image, 1, (-2, -1)))


def test_flip_comes_before_the_turn_of_the_window(image):
    turned = warp(image, theta(angle=90))
    torch.testing.assert_close(warp(image, theta(angle=90, flip=True)), turned.flip(-1))


def test_positive_shift_moves_left_and_up_and_brings_in_black(image):
    moved = warp(image, theta(shift_x=2 * 2 / 9, shift_y=2 * 1 / 9))
    expected = F.pad(image[..., 1:, 2:], (0, 2, 0, 1))
    torch.testing.assert_close(moved, expected)


def test_scale_magnifies_a_window(image):
    # A third of the width and height around the centre: each output pixel triples in size.
    window = warp(image, theta(scale_x=1 / 3, scale_y=1 / 3), padding="border")
    torch.testing.assert_close(window[0, 0, 1::3, 1::3], image[0, 0, 3:6, 3:6])


def test_window_of_other_proportions_is_not_sheared():
    rows = torch.linspace(-1, 1, 33).view(1, 1, 33, 1).expand(1, 1, 33, 33).contiguous()
    turned = warp(rows, theta(angle=30, scale_x=0.4, scale_y=0.2))
    # Of a ramp along y, the window's two axes show sin and cos of the angle times their own scale.
    across, down = turned[0, 0, 16, 17] - turned[0, 0, 16, 16], turned[0, 0, 17, 16] - turned[0, 0, 16, 16]
    assert float(across / down) == pytest.approx(np.tan(np.pi / 6) * 2, rel=1e-3)


def test_agrees_with_torch_and_not_with_the_batch():
    random = torch.Generator().manual_seed(1)
    images, draws = torch.rand(13, 1, 24, 24, generator=random), torch.rand(6, 13, generator=random)
    angle, width, height, right, down, flip = draws
    matrices = affine_matrices(60 * angle - 30, 0.5 + width, 0.5 + height, right - 0.5, down - 0.5, flip < 0.5)
    warped = warp(images, matrices)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    torch.testing.assert_close(warped, F.grid_sample(images, grid, align_corners=False), rtol=0, atol=1e-5)
    for part in (slice(0, 1), slice(3, 10), slice(12, 13)):
        assert torch.equal(warp(images[part], matrices[part]), warped[part])


def test_takes_arrays():
    columns = [np.zeros(2, np.float32), *np.ones((2, 2), np.float32), *np.zeros((2, 2), np.float32)]
    matrices = affine_matrices(*columns, np.array([False, True]))
    torch.testing.assert_close(matrices[:, 0, 0], torch.tensor([1.0, -1.0]))
