"""The sonograms of a screenshot are found whole, without the scanner's text, bar and marks, whatever the scanner."""

import csv
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from benchmarks.auto_crop import ON_SURROUND, agreement, fixture_boxes, fixture_text, held
from tests.shared import REPOSITORY, SHARED, needs_real
from workflow_scripts.data.sonogram import find_sonograms

FIXTURES = REPOSITORY / "tests" / "fixtures"
DDTI = SHARED / "real" / "ddti"


def speckle(height: int, width: int, seed: int = 0, level: float = 70) -> np.ndarray:
    """Grey levels, float (height, width), of speckle whose grains are a few pixels wide."""
    random = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(random.normal(size=(height, width)), (0.7, 1.2)) for _ in range(2)]
    magnitude = np.hypot(*fields)
    return np.clip(level * magnitude / magnitude.mean(), 3, 235)


def screen(height: int = 360, width: int = 560, surround: int = 0) -> np.ndarray:
    return np.full((height, width), surround, np.float64)


def paste(frame: np.ndarray, box: tuple[int, int, int, int], seed: int = 0, level: float = 70) -> None:
    top, left, height, width = box
    frame[top : top + height, left : left + width] = speckle(height, width, seed, level)


def furnished(frame: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The frame, uint8, with the scanner's text, grey bar and ruler around the sonogram in `box`."""
    picture = Image.fromarray(frame.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    height, width = frame.shape
    top, left, box_height, box_width = box
    font = ImageFont.load_default(size=max(9, height // 34))
    for line, text in enumerate(["P100", "12L6", "12.0", "31fps", "DR65", "2DG", "92"]):
        draw.text((width - height // 9, 2 + line * height // 22), text, fill=255, font=font)
    draw.text((left + 10, height - height // 12), "DER   TIRADS 4A (4B)", fill=255, font=font)
    for row in range(height // 3):
        draw.line([(2, height // 3 + row), (width // 50, height // 3 + row)], fill=255 - 255 * row // (height // 3))
    for tick in range(6):
        row = top + tick * box_height // 5
        draw.rectangle([left - 5, row, left - 3, row + 2], fill=255)
        column = left + tick * box_width // 5
        draw.rectangle([column, top - 4, column + 1, top - 3], fill=255)
    return np.asarray(picture)


def edges(box: tuple[int, int, int, int]) -> np.ndarray:
    top, left, height, width = box
    return np.array([top, left, top + height, left + width])


def assert_close(found: list[tuple[int, int, int, int]], true: list[tuple[int, int, int, int]], within: int) -> None:
    assert len(found) == len(true)
    for one, other in zip(found, true, strict=True):
        assert np.abs(edges(one) - edges(other)).max() <= within, (one, other)


@pytest.mark.parametrize(
    ("height", "width"), [(360, 560), (600, 800), (768, 1024), (960, 1280)], ids=lambda side: str(side)
)
def test_a_rectangle_amid_text_bar_and_ruler(height: int, width: int):
    box = (height // 20, width // 6, height * 4 // 5, width * 2 // 3)
    frame = screen(height, width)
    paste(frame, box)
    assert_close(find_sonograms(furnished(frame, box)), [box], within=2)


def test_a_surround_that_is_grey_and_noisy():
    box = (20, 90, 280, 380)
    frame = screen(surround=16) + np.random.default_rng(0).normal(0, 1.2, (360, 560)).clip(-3, 3)
    paste(frame, box)
    assert_close(find_sonograms(furnished(frame, box)), [box], within=2)


def test_shadows_and_cysts_inside_stay_inside():
    box = (20, 90, 280, 380)
    frame = screen()
    paste(frame, box)
    rows, columns = np.mgrid[:360, :560]
    frame[np.hypot(rows - 120, columns - 200) < 55] = 0
    frame[90:300, 330:400] = 0
    assert_close(find_sonograms(furnished(frame, box)), [box], within=2)


def test_depth_that_fades_into_black_is_kept():
    box = (20, 90, 280, 380)
    frame = screen()
    paste(frame, box)
    frame[20:300] *= np.linspace(1, 0.08, 280)[:, None]
    (found,) = find_sonograms(furnished(frame, box))
    assert found[2] >= 0.97 * box[2]


def test_a_sector_is_boxed_whole():
    rows, columns = np.mgrid[:600, :800]
    radius, angle = np.hypot(rows + 60, columns - 400), np.arctan2(columns - 400, rows + 60)
    sector = (radius > 110) & (radius < 600) & (np.abs(angle) < 0.55)
    frame = np.where(sector, speckle(600, 800), 0)
    inside_rows, inside_columns = np.flatnonzero(sector.any(1)), np.flatnonzero(sector.any(0))
    true = (
        inside_rows[0],
        inside_columns[0],
        inside_rows[-1] - inside_rows[0] + 1,
        inside_columns[-1] - inside_columns[0] + 1,
    )
    picture = Image.fromarray(frame.round().astype(np.uint8))
    ImageDraw.Draw(picture).text((10, 10), "ABDOMEN 3.5 MHz", fill=255, font=ImageFont.load_default(size=18))
    ((top, left, height, width),) = find_sonograms(np.asarray(picture))
    kept = sector[top : top + height, left : left + width].sum() / sector.sum()
    assert kept > 0.97
    assert height * width < 1.02 * true[2] * true[3]


def test_views_that_abut_are_split_at_their_seam_and_keep_their_own_tops():
    frame = screen()
    paste(frame, (10, 40, 300, 240), seed=1)
    paste(frame, (40, 280, 270, 240), seed=2, level=60)
    found = find_sonograms(furnished(frame, (10, 40, 300, 480)))
    assert_close(found, [(10, 40, 300, 240), (40, 280, 270, 240)], within=3)


def test_views_with_a_gap_are_split_left_to_right():
    frame = screen(600, 800)
    for gap in (6, 80):
        frame[:] = 0
        right = 380 + gap
        paste(frame, (30, 60, 500, 320), seed=1)
        paste(frame, (30, right, 500, 320), seed=2)
        assert_close(find_sonograms(frame.astype(np.uint8)), [(30, 60, 500, 320), (30, right, 500, 320)], within=2)


def test_views_above_each_other_come_top_first():
    frame = screen(960, 1280)
    paste(frame, (500, 200, 400, 600), seed=1)
    paste(frame, (40, 200, 400, 600), seed=2)
    found = find_sonograms(frame.astype(np.uint8))
    assert_close(found, [(40, 200, 400, 600), (500, 200, 400, 600)], within=2)


def test_a_shadow_is_no_seam():
    box = (20, 90, 280, 380)
    frame = screen()
    paste(frame, box)
    shade = np.ones(560)
    shade[250:300] = 0.15
    frame *= ndimage.gaussian_filter1d(shade, 3)
    assert len(find_sonograms(frame.astype(np.uint8))) == 1


def test_marks_that_straddle_an_edge_are_cut_off():
    box = (20, 90, 280, 380)
    frame = screen()
    paste(frame, box)
    frame[200:207, 86:94] = 255
    frame[16:24, 140:146] = 255
    ((top, left, height, width),) = find_sonograms(frame.astype(np.uint8))
    assert (top, left) == (24, 94)
    assert height * width > 0.95 * box[2] * box[3]


@pytest.mark.parametrize("gap", [3, 4, 5, 6])
def test_grey_letters_close_below_are_left_out(gap: int):
    box = (12, 90, 322, 380)
    frame = screen()
    paste(frame, box)
    picture = Image.fromarray(frame.round().astype(np.uint8))
    font = ImageFont.load_default(size=14)
    above = font.getbbox("NGUYEN, John")[1]
    ImageDraw.Draw(picture).text((190, 334 + gap - above), "NGUYEN, John", fill=170, font=font, stroke_width=1)
    assert_close(find_sonograms(np.asarray(picture)), [box], within=2)


def test_a_sonogram_may_touch_the_frames_edges():
    frame = screen()
    paste(frame, (0, 200, 300, 360))
    assert_close(find_sonograms(frame.astype(np.uint8)), [(0, 200, 300, 360)], within=2)


def test_a_frame_that_is_all_sonogram():
    ((_, _, height, width),) = find_sonograms(speckle(300, 400).astype(np.uint8))
    assert height * width >= 0.98 * 300 * 400


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_constant_frame_has_none(level: int):
    assert find_sonograms(np.full((360, 560), level, np.uint8)) == []


def test_text_alone_has_none():
    assert find_sonograms(furnished(screen(), (20, 90, 280, 380))) == []


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (8, 8), (9, 40), (24, 24)])
def test_tiny_frames_do_not_fail(shape: tuple[int, int]):
    for frame in (np.zeros(shape, np.uint8), speckle(*shape).astype(np.uint8)):
        for top, left, height, width in find_sonograms(frame):
            assert min(top, left) >= 0
            assert min(height, width) > 0
            assert top + height <= shape[0]
            assert left + width <= shape[1]


def test_the_frame_is_not_changed_and_the_answer_repeats():
    frame = screen()
    paste(frame, (20, 90, 280, 380))
    pixels = furnished(frame, (20, 90, 280, 380)).copy()
    before = pixels.copy()
    assert find_sonograms(pixels) == find_sonograms(pixels)
    np.testing.assert_array_equal(pixels, before)


@needs_real
def test_ddtis_sonograms_are_kept_and_its_text_is_not():
    truth = fixture_boxes(FIXTURES / "ddti_sonograms.csv")
    found = {}
    for image in truth:
        with Image.open(DDTI / f"{image.removeprefix('ddti_')}.jpg") as picture:
            found[image] = find_sonograms(np.asarray(picture.convert("L")))
    measured = agreement(truth, found)
    assert measured["images"] == 40
    assert measured["images_with_wrong_count"] == 0
    assert measured["kept_mean"] > 0.95
    assert measured["iou_min"] > 0.9
    text = [row for row in fixture_text(FIXTURES / "ddti_text.csv") if row[0] in truth]
    rates = held(text, found)
    assert rates["tirads"]["carry"] > 3
    assert all(rates[what]["hold"] == 0 for what in ON_SURROUND)


def test_the_fixture_has_two_views_and_tirads_lines():
    with (FIXTURES / "ddti_sonograms.csv").open(encoding="utf-8", newline="") as file:
        rows = defaultdict(int)
        for row in csv.DictReader(file):
            rows[row["image_id"]] += 1
    leaks = {image for image, what, _ in fixture_text(FIXTURES / "ddti_text.csv") if what == "tirads"}
    assert sum(number == 2 for number in rows.values()) >= 5
    assert len(leaks & set(rows)) >= 5
