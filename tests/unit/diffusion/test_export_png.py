"""Views as PNG files."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.diffusion import export_png
from workflow_scripts.runtime.cli import run


def export(folder: Path, names: list[str], count: int = 2) -> np.ndarray:
    views = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    np.save(folder / "views.npy", views)
    rows = [{"view_id": name, "organ": "testicle", "label": ""} for name in names]
    write_rows(rows, ("view_id", "organ", "label"), folder / "views.csv")
    words = ["--views", str(folder / "views.npy"), "--index", str(folder / "views.csv"), "--origin", "PHANTOM"]
    run(export_png.main, export_png.parser(), [*words, "--output-folder", str(folder / "png")])
    return views


def test_pixels_names_and_origin_are_those_of_the_store(tmp_path: Path) -> None:
    for _ in range(2):  # the second replaces the first
        views = export(tmp_path, ["P1#transverse", "synthetic_1"])
    with Image.open(tmp_path / "png" / "P1#transverse.png") as picture:
        assert picture.info["origin"] == "PHANTOM"
        np.testing.assert_array_equal(np.asarray(picture), views[0])
    assert read_rows(tmp_path / "png" / "metadata.csv")[1] == {
        "file_name": "synthetic_1.png", "view_id": "synthetic_1", "organ": "testicle", "label": "", "origin": "PHANTOM",
    }  # fmt: skip
    assert len(list((tmp_path / "png").iterdir())) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "../b"], r"\.\./b\.png"),
        (["a", "a"], "row 2: view_id a has a row before"),
        (["a"], "different numbers of rows"),
    ],
)
def test_names_must_be_files_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        export(tmp_path, names)
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "png").exists()


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "png").mkdir()
    (tmp_path / "png" / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit):
        export(tmp_path, ["a", "b"])
    assert (tmp_path / "png" / "thesis.txt").exists()
