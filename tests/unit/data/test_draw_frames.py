"""Pictures of the data: nothing readable outside the boxes, bad frames named, none at all an error."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_rows
from workflow_scripts.data import draw_frames as frame_figures

BOX = [130, 185, 300, 300]
PROFILES = json.dumps({"d": {"kind": "boxes", "boxes": [BOX], "views": ["view"]}})


def frame(name: str) -> np.ndarray:
    image = Image.new("L", (800, 600))
    ImageDraw.Draw(image).text((20, 20), name, fill=255, font=ImageFont.load_default(size=32))
    pixels = np.array(image)
    pixels[130:430, 185:485] = 120
    return pixels


def test_two_names_cannot_be_told_apart_outside_the_boxes_and_the_boxes_stay():
    first, second = (frame_figures.blur_outside(frame(name), [BOX]) for name in ("ROSSI MARIO", "RUSSO MARCO"))
    assert np.abs(first.astype(int) - second).max() <= 4
    assert (first[130:430, 185:485] == 120).all()


def draw(tmp_path: Path, names: list[str]) -> Path:
    rows = [{"image_id": name, "path": f"{name}.png", "organ": "o", "device": "d"} for name in names]
    write_rows(rows, list(rows[0]), tmp_path / "m.csv")
    arguments = ["--manifest", str(tmp_path / "m.csv"), "--root", str(tmp_path), "--profiles", PROFILES]
    frame_figures.main(frame_figures.parser().parse_args([*arguments, "--output-figure", str(tmp_path / "f.png")]))
    return tmp_path / "f.png"


def test_frames_that_cannot_be_read_are_named_and_left_out(tmp_path: Path, capsys):
    Image.fromarray(frame("A")).save(tmp_path / "good.png")
    assert draw(tmp_path, ["good", "missing"]).exists()
    assert "not shown: missing" in capsys.readouterr().err


def test_no_readable_frame_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="none of the 1 chosen frames"):
        draw(tmp_path, ["missing"])
    assert not (tmp_path / "f.png").exists()
