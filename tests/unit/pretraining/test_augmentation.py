"""The two views of an image: each transform by itself, and independence from the batch."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from tests.shared import replace
from tests.textures import textures
from workflow_scripts.networks.geometry import warp
from workflow_scripts.pretraining.augmentation import (
    BLUR_RADIUS,
    DRAWS,
    NOTHING,
    RELEASED,
    augment,
    augment_pairs,
    black_out,
    crop_matrices,
    gaussian_blur,
    jitter,
    pair_draws,
    sharpen,
    view_recipes,
)
from workflow_scripts.study.config.pretraining import PretrainingAugmentation

DEFAULTS = PretrainingAugmentation()
N = 24
INDICES = np.arange(100, 100 + N)


def views(count: int = N, size: int = 32) -> Tensor:
    return torch.from_numpy(textures(count, size))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_views_are_unit_images_that_differ_by_image_view_and_step() -> None:
    same = views(1).repeat(N, 1, 1)
    first = augment(same, DEFAULTS, 0, "view0", 7, INDICES)
    assert first.shape == (N, 1, 32, 32)
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, augment(same, DEFAULTS, 0, "view0", 7, INDICES))
    for other in (
        first.roll(1, dims=0),
        augment(same, DEFAULTS, 0, "view1", 7, INDICES),
        augment(same, DEFAULTS, 0, "view0", 8, INDICES),
        augment(same, DEFAULTS, 1, "view0", 7, INDICES),
    ):
        assert ((first - other).abs().amax(dim=(1, 2, 3)) > 0.05).all()


@pytest.mark.parametrize("blur", [0.2, 1.0])
def test_a_view_does_not_depend_on_the_rest_of_the_batch(blur: float) -> None:
    images, settings = views(), replace(DEFAULTS, blur=blur)
    together = augment(images, settings, 0, "view0", 3, INDICES)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    shuffled = augment(images[order], settings, 0, "view0", 3, INDICES[order.numpy()])
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-6)
    for i in range(0, N, 5):
        alone = augment(images[i : i + 1], settings, 0, "view0", 3, INDICES[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-6)


def test_without_magnitudes_nothing_changes() -> None:
    torch.testing.assert_close(
        augment(views(), NOTHING, 0, "view0", 0, INDICES), views()[:, None] / 255, rtol=0, atol=1e-5
    )


def test_flip_mirrors_left_and_right() -> None:
    flipped = augment(views(), replace(NOTHING, flip=1), 0, "view0", 0, INDICES)
    torch.testing.assert_close(flipped, views()[:, None].flip(-1) / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"crop_scale": 0.5}, 1.0),
        ({"crop_ratio": 1.25}, 1.0),
        ({"flip": 0.5}, 0.5),
        ({"flip_vertical": 0.5}, 0.5),
        ({"rotation": 30}, 1.0),
        ({"brightness": 0.4, "jitter": 1}, 1.0),
        ({"contrast": 0.4, "jitter": 1}, 1.0),
        ({"contrast": 0.4, "brightness": 0.4, "jitter": 0.5}, 0.5),
        ({"blur": 0.2}, 0.2),
        ({"sharpness": 0.3}, 0.3),
        ({"black_square": 0.25}, 1.0),
        ({"black_square": 0.25, "black_square_smallest": 0.25}, 1.0),
    ],
)
def test_every_setting_has_an_effect(settings: dict[str, float], expected: float) -> None:
    plain = views()[:, None] / 255
    changed = augment(views(), replace(NOTHING, **settings), 0, "view0", 0, INDICES)
    share = ((changed - plain).abs().amax(dim=(1, 2, 3)) > 1e-3).float().mean()
    assert share == pytest.approx(expected, abs=0.25 if expected < 1 else 0.1)


def test_vertical_flip_mirrors_top_and_bottom() -> None:
    flipped = augment(views(), replace(NOTHING, flip_vertical=1), 0, "view0", 0, INDICES)
    torch.testing.assert_close(flipped, views()[:, None].flip(-2) / 255, rtol=0, atol=1e-5)


def test_sharpening_is_torchvisions() -> None:
    images = views()[:, None] / 255
    torch.testing.assert_close(sharpen(images), transforms.adjust_sharpness(images, 2), rtol=0, atol=1e-5)


def test_symmetric_views_share_a_recipe_and_the_released_ones_do_not() -> None:
    one, other = view_recipes(DEFAULTS)
    assert one == other == DEFAULTS
    assert view_recipes(replace(DEFAULTS, views="released")) == RELEASED


def test_the_released_second_view_alone_has_a_square_of_96_pixels() -> None:
    white = torch.full((6, 64, 64), 255, dtype=torch.uint8)
    first, second = augment_pairs(white, RELEASED, pair_draws(0, 0, np.arange(6)))
    assert first.min() > 0.9, "no square, no corner"
    upright = replace(RELEASED[1], rotation=0, jitter=0)
    black = augment(white, upright, 0, "view1", 0, np.arange(6))[:, 0] == 0
    assert set(black.sum(dim=(1, 2)).tolist()) == {24**2}
    assert not torch.equal(*second[:2]), "each image has a draw of its own"


def test_crops_lie_inside_and_have_the_promised_area_and_ratio() -> None:
    draw = dict(zip(DRAWS, uniform(len(DRAWS), 5000), strict=True))
    theta = crop_matrices(draw, replace(DEFAULTS, rotation=0, flip=0))
    width, height, shift = theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2]
    assert theta[:, 0, 1].abs().max() == theta[:, 1, 0].abs().max() == 0
    sides = torch.stack([width, height], dim=1)
    assert (shift.abs() + sides).max() <= 1 + 1e-6
    assert (shift.abs() + sides).amax(dim=0).min() > 0.99, "crops reach every edge"
    area = width * height
    assert 0.5 - 1e-6 <= area.min() < 0.51
    assert 0.98 < area.max() <= 1 + 1e-6
    ratio = width / height
    assert ratio.max() == pytest.approx(1.25, abs=0.02)
    assert ratio.min() == pytest.approx(0.8, abs=0.02)


def test_a_crop_magnifies_its_part_of_the_image() -> None:
    draw = {name: torch.zeros(1) for name in DRAWS}
    draw |= {"ratio": torch.full((1,), 0.5), "rotation": torch.full((1,), 0.5), "left": torch.ones(1)}
    draw["flip"] = torch.ones(1)
    image = uniform(1, 1, 16, 16)
    crop = warp(image, crop_matrices(draw, replace(NOTHING, crop_scale=0.25)))
    top_right = F.interpolate(image[:, :, :8, 8:], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(crop[:, :, 1:-1, 1:-1], top_right[:, :, 1:-1, 1:-1], rtol=0, atol=1e-5)


def test_rotation_stays_within_its_limit() -> None:
    draw = dict(zip(DRAWS, uniform(len(DRAWS), 5000), strict=True))
    theta = crop_matrices(draw, replace(NOTHING, rotation=30))
    angles = torch.rad2deg(torch.atan2(theta[:, 1, 0], theta[:, 0, 0]))
    assert angles.max() == pytest.approx(30, abs=0.1)
    assert angles.min() == pytest.approx(-30, abs=0.1)


def test_jitter_is_torchvisions_brightness_then_contrast_for_each_image() -> None:
    images, (brightness, contrast) = views()[:, None] / 255, 0.8 * uniform(2, N, seed=1) - 0.4
    ours = jitter(images, brightness, contrast)
    for i in range(N):
        expected = transforms.adjust_brightness(images[i], 1 + brightness[i].item())
        expected = transforms.adjust_contrast(expected, 1 + contrast[i].item())
        torch.testing.assert_close(ours[i], expected, rtol=0, atol=1e-5)


def test_blur_is_torchvisions_gaussian_with_a_width_per_image() -> None:
    images, sigmas = uniform(6, 1, 16, 20, seed=2), torch.linspace(0.3, 1.2, 6)
    ours = gaussian_blur(images, sigmas)
    inner = (..., slice(BLUR_RADIUS, -BLUR_RADIUS), slice(BLUR_RADIUS, -BLUR_RADIUS))  # torchvision reflects at edges
    for image, sigma, blurred in zip(images, sigmas.tolist(), ours, strict=True):
        expected = transforms.gaussian_blur(image, [2 * BLUR_RADIUS + 1] * 2, [sigma, sigma])
        torch.testing.assert_close(blurred[inner], expected[inner], rtol=0, atol=1e-5)
    constant = torch.full((6, 1, 9, 9), 0.7)
    torch.testing.assert_close(gaussian_blur(constant, sigmas), constant)


def test_black_squares_have_their_size_and_place() -> None:
    images = torch.ones(4, 1, 8, 8)
    sides, across, down = torch.tensor([[0.0, 0.25, 0.25, 0.5], [0.3, 0, 1, 1], [0.3, 0, 0, 0.5]])
    black = black_out(images, sides, across, down)[:, 0] == 0
    assert black.sum(dim=(1, 2)).tolist() == [0, 4, 4, 16]
    assert black[1, :2, :2].all()
    assert black[2, :2, 6:].all()
    assert black[3, 2:6, 4:].all()


def test_squares_of_the_whole_pipeline_are_random_in_size_and_place() -> None:
    white = torch.full((300, 32, 32), 255, dtype=torch.uint8)
    black = augment(white, replace(NOTHING, black_square=0.5), 0, "view0", 0, np.arange(300))[:, 0] == 0
    heights, widths = black.any(dim=2).sum(dim=1), black.any(dim=1).sum(dim=1)
    assert (heights - widths).abs().max() <= 1, "square but for the pixel grid"
    assert heights.min() <= 1
    assert 15 <= heights.max() <= 16
    covered = black.any(dim=0)
    assert covered.any(dim=0).all(), "squares reach every column"
    assert covered.any(dim=1).all(), "squares reach every row"
    assert covered[4:-4, 4:-4].all()
