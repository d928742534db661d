"""Contact sheets of augmented views: every pixel is shown, beside its image, and phantoms are stamped."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.textures import textures
from workflow_scripts.pretraining import draw_augmented as stage
from workflow_scripts.pretraining.draw_augmented import augmented_figure, mosaic
from workflow_scripts.runtime.cli import run


def sheet() -> np.ndarray:
    return textures(3 * 5, 16).reshape(3, 5, 16, 16)


def test_a_mosaic_holds_every_view_in_its_place():
    picture, middles = mosaic(sheet())
    lefts = [round(middle - 7.5) for middle in middles]
    for line in range(3):
        for column, left in enumerate(lefts):
            part = picture[line * 17 : line * 17 + 16, left : left + 16]
            np.testing.assert_array_equal(part, sheet()[line, column])
    assert np.diff(lefts).tolist() == [19, 17, 19, 17], "pairs stand together"


def test_every_run_has_a_block_and_phantoms_are_stamped():
    figure = augmented_figure({"ud": sheet(), "released": sheet()}, "PHANTOM")
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "Views of pretraining: ud",
        "Views of pretraining: released",
    ]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["image", *["view 1", "view 2"] * 2]
    assert "PHANTOM" in [text.get_text() for text in figure.texts]


def test_the_stage_draws(tmp_path: Path):
    np.save(tmp_path / "sheet.npy", sheet())
    words = ["--names", "ud", "--sheets", str(tmp_path / "sheet.npy"), "--output-figure", str(tmp_path / "a.png")]
    run(stage.main, stage.parser(), words)
    assert np.array(Image.open(tmp_path / "a.png")).std() > 10


@pytest.mark.parametrize("damaged", [sheet()[0], sheet()[:0], sheet().astype(float), sheet().astype(str)])
def test_what_is_no_contact_sheet_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: np.ndarray):
    np.save(tmp_path / "sheet.npy", damaged)
    words = ["--names", "ud", "--sheets", str(tmp_path / "sheet.npy"), "--output-figure", str(tmp_path / "a.png")]
    with pytest.raises(SystemExit):
        run(stage.main, stage.parser(), words)
    assert "sheet.npy is not a contact sheet: expected uint8" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()
