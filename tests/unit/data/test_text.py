"""OCR of views: planted strings are found and listed by their pattern only; a scanner's own marks are allowed."""

import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.unit.data.test_store import Study
from workflow_scripts.core.files import read_npy, read_rows
from workflow_scripts.data import text as module
from workflow_scripts.data.phantom import CORNERS, draw_frame
from workflow_scripts.data.text import TextReader, allowed, blanked, listing, pattern, sheet

SIDE = 160
PLANTED = {"ROSSI, Maria": "AAAAA, Aaaaa", "12.03.1961": "00.00.0000", "ID 400817": "AA 000000"}


@pytest.fixture(scope="module")
def clean() -> list[np.ndarray]:
    """Views of phantoms, (160, 160): speckle, two of them with callipers."""
    frames = [draw_frame(0, f"P{i}", f"P{i}", "testicle", False, False) for i in range(2)]
    return [
        frame[top + 70 : top + 70 + SIDE, left + 70 : left + 70 + SIDE] for frame in frames for top, left in CORNERS
    ]


def planted(view: np.ndarray, *lines: str) -> np.ndarray:
    """The view with lines of white text, capitals of 9 pixels, 50 rows apart."""
    picture = Image.fromarray(view)
    for i, line in enumerate(lines):
        ImageDraw.Draw(picture).text((20, 15 + 50 * i), line, fill=255, font=ImageFont.load_default(size=13))
    return np.asarray(picture)


@pytest.mark.parametrize(
    "characters",
    ["T", "+", "1x", "GE", "4", "0.5", "12", "6,7", "38 mm", "3.9MM", "D 24.9MM", "+25.2mm", "x 14.4mm", "8.2HM"],
)
def test_what_scanners_draw_over_the_echoes_is_allowed(characters: str):
    assert allowed(characters)


@pytest.mark.parametrize(
    "characters",
    ["ROSSI", "Eva", "12.03.61", "1961", "12:03", "P0123", "48 ANOS", "QSE", "12.3.1", "1234 mm", "120 mmHg"],
)
def test_what_may_name_a_patient_is_not(characters: str):
    assert not allowed(characters)


def test_a_pattern_keeps_the_shape_only():
    assert pattern(" O'Neil, 12.03.61 ß考 ") == "A'Aaaa, 00.00.00 aa"


def test_planted_strings_are_found_where_they_are_and_clean_views_are_clean(clean: list[np.ndarray]):
    view = planted(clean[0], *PLANTED)
    texts = TextReader(SIDE).read(view)
    assert [text.pattern.replace(" ", "") for text in texts] == [name.replace(" ", "") for name in PLANTED.values()]
    ink = view != clean[0]
    assert ink.sum() > 500
    hidden = blanked(view, texts)
    assert not hidden[ink].any()
    outside = np.ones_like(ink)
    for top, left, height, width in (text.box for text in texts):
        outside[top : top + height, left : left + width] = False
    np.testing.assert_array_equal(hidden[outside], clean[0][outside])
    assert outside.mean() > 0.75
    found = list(TextReader(SIDE).read_all([*clean, view, planted(clean[1], "SILVA")], threads=2))
    assert found == [[], [], [], [], texts, found[-1]]
    assert [text.pattern for text in found[-1]] == ["AAAAA"]


def test_the_networks_come_with_the_package(clean: list[np.ndarray], monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    module._engine.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert TextReader(SIDE).read(planted(clean[0], "SILVA"))


def test_boxes_have_a_margin_inside_the_view_and_are_no_higher_than_text(monkeypatch: pytest.MonkeyPatch):
    line, edge, high = [5, 6, 60, 20], [80, 90, 100, 100], [0, 0, 100, 80]  # left, top, right, bottom
    corners = [
        [(left, top), (right, top), (right, bottom), (left, bottom)] for left, top, right, bottom in (line, edge, high)
    ]
    found = SimpleNamespace(boxes=np.array(corners, float), txts=("ROSSI", "1961", "AAA"), scores=(0.987, 0.9, 0.6))
    monkeypatch.setattr(module, "_engine", lambda side: lambda view: found)
    assert TextReader(100).read(np.zeros((100, 100), np.uint8)) == [
        ((4, 3, 18, 59), "AAAAA", 0.99), ((88, 78, 12, 22), "0000", 0.9)
    ]  # fmt: skip


def test_messages_and_the_sheet_do_not_show_the_text(clean: list[np.ndarray]):
    view = planted(clean[0], "ROSSI")
    texts = TextReader(SIDE).read(view)
    assert listing({"a#full": texts}) == "1 view holds text (A and a for letters, 0 for digits):\n  a#full: AAAAA"
    assert listing({str(i): texts for i in range(25)}).splitlines()[-1] == "  … and 5 more"
    ((top, left, height, width),) = (text.box for text in texts)
    drawn = sheet([(view, texts), (clean[1], [])], "")
    assert np.unique(drawn[top + 1 : top + height - 1, left + 1 : left + width - 1]).size == 1
    np.testing.assert_array_equal(drawn[:, SIDE:], clean[1])
    assert sheet([], "PHANTOM").shape == (32, 240)
    # Views of few pixels are enlarged, so that a page shows them.
    assert sheet([(view[:50, :50], []), (view[:50, :50], [])], "").shape == (150, 300)


@pytest.fixture
def study(tmp_path: Path, clean: list[np.ndarray]) -> Study:
    study = Study(tmp_path)
    study.add("plain", clean[0], device="whole")
    study.add("named", planted(clean[1], "ROSSI"), device="whole")
    return study


def test_the_crop_stage_reports_blanks_or_refuses(study: Study, clean: list[np.ndarray]):
    listed, drawn = study.folder / "text.csv", study.folder / "text.png"
    outputs = {"output_text": str(listed), "output_figure": str(drawn)}
    refused = study.fails(size=SIDE, on_text="fail", **outputs)
    assert "named#full: AAAAA" in refused
    assert "data.on_text: blank" in refused
    assert not listed.exists()
    study.crop(size=SIDE, **outputs)
    views = read_npy(study.views).copy()
    np.testing.assert_array_equal(views, [clean[0], planted(clean[1], "ROSSI")])
    assert "1 view holds text" in study.said()
    assert "it stays" in study.said()
    (row,) = read_rows(listed)
    assert (row["view_id"], row["pattern"]) == ("named#full", "AAAAA")
    assert Image.open(drawn).size == (SIDE, SIDE)
    study.crop(size=SIDE, on_text="blank", threads="2", **outputs)
    blank = read_npy(study.views)
    top, left, height, width = (int(row[key]) for key in ("top", "left", "height", "width"))
    assert not blank[1, top : top + height, left : left + width].any()
    np.testing.assert_array_equal(blank[0], views[0])
    assert "it is blacked out" in study.said()
    assert read_rows(listed) == [row]
    study.rows = study.rows[:1]
    study.crop(size=SIDE, on_text="fail", **outputs)
    assert read_rows(listed) == []
