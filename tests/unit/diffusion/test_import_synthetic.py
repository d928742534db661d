"""A folder of images becomes the set of synthetic views."""

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv
from workflow_scripts.diffusion import import_synthetic as stage


def run(folder, output):
    flags = ["--folder", f"{folder}", "--organ", "testicle", "--size", "24"]
    flags += ["--output-views", f"{output}/views.npy", "--output-index", f"{output}/index.csv"]
    stage.main(stage.parser().parse_args(flags))
    return np.load(output / "views.npy"), read_csv(output / "index.csv")


def test_every_image_becomes_a_view_in_the_order_of_paths(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 24)).astype(np.uint8)
    folder = tmp_path / "published"
    (folder / "imgs").mkdir(parents=True)
    Image.fromarray(pixels[0]).save(folder / "imgs" / "a.png")
    # Three equal channels, as many programs write grey images, and another format.
    Image.fromarray(np.repeat(pixels[1][:, :, None], 3, axis=2)).save(folder / "imgs" / "b.PNG")
    Image.fromarray(pixels[2]).save(folder / "c.bmp")
    (folder / "readme.txt").write_text("not an image")
    views, index = run(folder, tmp_path)
    np.testing.assert_array_equal(views, pixels[[2, 0, 1]])
    assert list(index["image_id"]) == ["c.bmp", "imgs/a.png", "imgs/b.PNG"]
    assert set(index["organ"]) == {"testicle"}
    assert index["view_id"].is_unique


def test_folders_without_images_and_damaged_images_are_named(tmp_path):
    with pytest.raises(UserError, match="synthesis.folder"):
        run(tmp_path / "absent", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        run(tmp_path / "empty", tmp_path)
    (tmp_path / "empty" / "x.png").write_text("<html>")
    with pytest.raises(UserError, match=r"x\.png"):
        run(tmp_path / "empty", tmp_path)
