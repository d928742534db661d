"""Profiles cut the right pixels, whole; resizing neither stretches nor aliases."""

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.core.errors import UserError
from workflow_scripts.data import profiles as crop
from workflow_scripts.data.pixels import Box, Frame
from workflow_scripts.data.profiles import View, letterbox, resize

WHOLE = {"kind": "none"}


def boxes(*boxes: list[int]) -> dict[str, object]:
    return {"kind": "boxes", "boxes": list(boxes), "views": [f"view{i}" for i in range(len(boxes))]}


def cut_views(
    pixels: np.ndarray, profile: dict[str, object], size: int, image_id: str, tissue: tuple[Box, ...] = ()
) -> list[View]:
    return crop.cut_views(Frame(Image.fromarray(pixels), tissue=tissue), profile, size, image_id)


def test_boxes_are_top_left_height_width_in_the_profiles_order():
    frame = np.arange(60 * 100, dtype=np.uint32).reshape(60, 100).astype(np.uint8)
    views = cut_views(frame, boxes([10, 70, 20, 20], [5, 3, 20, 20]), 20, "P1")
    assert [view.name for view in views] == ["view0", "view1"]
    np.testing.assert_array_equal(views[0][1], frame[10:30, 70:90])
    np.testing.assert_array_equal(views[1][1], frame[5:25, 3:23])


def test_nothing_outside_a_box_bleeds_in():
    frame = np.full((90, 90), 255, np.uint8)
    frame[30:60, 30:60] = 0
    ((_, view, *_),) = cut_views(frame, boxes([30, 30, 30, 30]), 16, "P1")
    assert view.max() == 0


def test_a_box_may_reach_the_edges():
    frame = np.arange(400, dtype=np.uint32).reshape(20, 20).astype(np.uint8)
    np.testing.assert_array_equal(cut_views(frame, boxes([0, 0, 20, 20]), 20, "P1")[0][1], frame)


@pytest.mark.parametrize("box", [[1, 0, 40, 20], [0, 31, 20, 20], [-1, 0, 20, 20], [0, -5, 20, 20], [500, 500, 1, 1]])
def test_a_box_beyond_the_frame_names_frame_size_and_box(box: list[int]):
    top, left, height, width = box
    with pytest.raises(UserError) as caught:
        cut_views(np.zeros((40, 50), np.uint8), boxes(box), 16, "P1")
    text = str(caught.value)
    assert text.startswith("P1: ")
    assert f"(top {top}, left {left}, height {height}, width {width})" in text
    assert "40 rows and 50 columns" in text


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [0, 0, 5, 0]])
def test_an_empty_box_is_refused(box: list[int]):
    with pytest.raises(UserError, match=r"^P1: the box of view 'view0' .* holds no pixel"):
        cut_views(np.zeros((40, 50), np.uint8), boxes(box), 16, "P1")


@pytest.mark.parametrize(("height", "width"), [(20, 40), (40, 20), (21, 40)])
def test_a_whole_frame_is_letterboxed_with_black(height: int, width: int):
    ((name, view, _, shape),) = cut_views(np.full((height, width), 200, np.uint8), WHOLE, 40, "P1")
    assert name == "full"
    assert shape == (height, width)
    assert view.shape == (40, 40)
    rows, columns = np.nonzero(view)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (height, width)
    assert abs(rows.min() - (39 - rows.max())) <= 1
    assert set(np.unique(view)) == {0, 200}


def test_letterbox_keeps_every_pixel():
    image = np.random.default_rng(0).integers(1, 256, (7, 12), dtype=np.uint8)
    np.testing.assert_array_equal(letterbox(image)[2:9], image)
    assert letterbox(image[:, :7]) is not None
    np.testing.assert_array_equal(letterbox(image[:, :7]), image[:, :7])


def test_a_circle_stays_a_circle():
    y, x = np.mgrid[:120, :200]
    disc = (255 * ((y - 60) ** 2 + (x - 100) ** 2 < 50**2)).astype(np.uint8)
    ((_, view, *_),) = cut_views(disc, boxes([0, 0, 120, 200]), 100, "P1")
    rows, columns = np.nonzero(view > 127)
    assert abs(int(np.ptp(rows)) - int(np.ptp(columns))) <= 1


def test_shrinking_does_not_alias():
    """A pattern finer than the small grid can show must become its mean, where sampling would show a coarse pattern."""
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    small = resize(stripes, 96)
    assert np.abs(small[:, 4:-4].astype(int) - 127).max() <= 4
    assert stripes[:, np.round(np.linspace(0, 255, 96)).astype(int)].std() > 100


def test_resizing_keeps_type_extremes_and_mean_and_is_the_identity_at_size():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    small = resize(noise, 256)
    assert small.dtype == np.uint8
    assert small.shape == (256, 256)
    assert abs(small.mean() - noise.mean()) < 1
    np.testing.assert_array_equal(resize(noise, 300), noise)
    assert (resize(np.full((300, 300), 255, np.uint8), 256) == 255).all()


REGIONS = {"kind": "dicom_regions"}


def test_one_view_per_tissue_region():
    frame = np.arange(60 * 100, dtype=np.uint32).reshape(60, 100).astype(np.uint8)
    views = cut_views(frame, REGIONS, 20, "P1", tissue=((10, 70, 20, 20), (5, 3, 20, 20)))
    assert [view.name for view in views] == ["region1", "region2"]
    np.testing.assert_array_equal(views[1].pixels, frame[5:25, 3:23])
    with pytest.raises(UserError, match=r"^P1: the box of view 'region1' .* reaches beyond the frame"):
        cut_views(frame, REGIONS, 20, "P1", tissue=((50, 0, 20, 20),))
    with pytest.raises(UserError, match=r"^P1: the file marks no region as a tissue image"):
        cut_views(frame, REGIONS, 20, "P1")


def test_colour_counts_and_a_tint_does_not():
    grey = np.random.default_rng(0).integers(0, 200, (30, 40), dtype=np.uint8)
    rgb = np.stack([grey, grey, grey], -1)
    assert Frame(Image.fromarray(rgb)).coloured_share() == 0
    sepia = np.stack([grey + 25, grey, grey // 2 + 10], -1).astype(np.uint8)
    assert Frame(Image.fromarray(np.where((grey < 80)[..., None], sepia, np.uint8(0)))).coloured_share() == 0
    rgb[:15, :, 0], rgb[:15, :, 2] = 220, 20
    assert Frame(Image.fromarray(rgb)).coloured_share() == 0.5
    frame = Frame(Image.fromarray(rgb))
    views = crop.cut_views(frame, boxes([0, 0, 15, 15], [15, 0, 15, 15]), 16, "P1")
    assert [view.coloured for view in views] == [1, 0]


def test_a_strip_whose_square_would_fill_the_memory_is_refused():
    """138 bytes of PNG can hold 30 000 pixels in one row, whose square has 900 million."""
    strip = np.zeros((1, 30_000), np.uint8)
    for profile in (WHOLE, boxes([0, 0, 1, 30_000])):
        with pytest.raises(
            UserError, match=r"^P1: view '.*' has 1 rows and 30000 columns; made square, that is more than"
        ):
            cut_views(strip, profile, 16, "P1")
    assert cut_views(strip[:, :2000], WHOLE, 16, "P1")[0].pixels.shape == (16, 16)
