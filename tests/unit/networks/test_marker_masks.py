"""Calliper markers are found in speckle and blacked out, and little else is."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from workflow_scripts.data.phantom import draw_frame
from workflow_scripts.networks.markers import (
    DRAWS,
    KINDS,
    MARKER_UNIFORMS,
    REPEATS,
    SHAPES,
    closest_to_markers,
    draw_markers,
    mask_markers,
)


def speckle(count: int) -> torch.Tensor:
    """Views of phantoms (count, 1, 256, 256) in [0, 1]."""
    frames = [draw_frame(0, f"F{i}", f"P{i}", "testicle", i % 2 == 0, False)[150:406, 200:456] for i in range(count)]
    return torch.from_numpy(np.stack(frames)).float()[:, None] / 255


def markers(images: torch.Tensor, kind: int) -> torch.Tensor:
    """Two markers of a kind on every image."""
    uniforms = np.random.default_rng(0).random((len(images), KINDS, REPEATS, DRAWS), dtype=np.float32)
    uniforms[..., 0] = 1
    uniforms[:, kind, :, 0] = 0
    return draw_markers(images, uniforms.reshape(len(images), MARKER_UNIFORMS), 0.5)


@pytest.mark.parametrize(("kind", "found"), [(0, 0.6), (1, 0.75)])
def test_circles_and_plus_signs_are_found(kind: int, found: float) -> None:
    clean = speckle(6)
    marked = markers(clean, kind)
    ink, masked = marked != clean, mask_markers(marked)
    assert (masked[ink] == 0).float().mean() > found
    assert ((masked != marked) & ~ink).float().mean() < 0.03
    torch.testing.assert_close(mask_markers(marked[2:3]), masked[2:3])


def test_most_markers_are_closer_to_their_template_than_text_is() -> None:
    written = speckle(4)
    for number, view in enumerate(written):
        picture = Image.fromarray((255 * view[0]).byte().numpy())
        ImageDraw.Draw(picture).text((20, 40 + 30 * number), "LEFT BREAST 3", fill=255, font_size=18)
        view[0] = torch.from_numpy(np.array(picture)).float() / 255
    plain = closest_to_markers(written)
    assert plain.shape == (4, len(SHAPES))
    for column, kind in enumerate(SHAPES):
        marked = closest_to_markers(markers(written, kind))
        assert marked[:, column].median() > plain[:, column].max()
        assert marked.max() <= 1
    torch.testing.assert_close(closest_to_markers(written[1:2]), plain[1:2])
    assert closest_to_markers(written[..., :64, :64]).count_nonzero() == 0


def test_speckle_and_blank_views_stay_as_they_are() -> None:
    clean = speckle(6)
    assert (mask_markers(clean) != clean).float().mean() < 0.01
    for level in (0.0, 0.5, 1.0):
        blank = torch.full((2, 1, 128, 128), level)
        assert torch.equal(mask_markers(blank), blank)


def test_small_views_are_left_alone() -> None:
    small = markers(torch.rand(2, 1, 64, 64), 1)
    assert mask_markers(small) is small
