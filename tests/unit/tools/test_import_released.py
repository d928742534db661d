"""The released layout becomes a manifest that the workflow accepts; what cannot be right is named, all at once."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
import yaml
from PIL import Image

from tests.shared import REPOSITORY
from workflow_scripts.core.files import read_csv, read_npy
from workflow_scripts.data import crop_views as crop
from workflow_scripts.runtime.cli import run
from workflow_scripts.study.config import load_config
from workflow_scripts.study.manifest import load_manifest
from workflow_scripts.tools import import_released
from workflow_scripts.tools.import_released import LABEL

HEADER = ["ID", "età", LABEL, "volume", LABEL]
PROFILES = {
    "esaote_mylab": {
        "kind": "boxes",
        "boxes": [[130, 185, 300, 300], [130, 485, 300, 300]],
        "views": ["transverse", "sagittal"],
    }
}


class Released:
    """A folder in the released layout, and the command on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.frames, self.output = folder, folder / "data", folder / "manifest.csv"
        self.spreadsheet = folder / "new_meta.xlsx"
        self.frames.mkdir()

    def sheet(self, *rows: list[Any], header: list[Any] = HEADER) -> None:
        book = openpyxl.Workbook()
        for row in [header, *rows]:
            book.active.append(row)
        book.save(self.spreadsheet)

    def patients(self, *patients: tuple[Any, Any, Any]) -> None:
        """Rows of ID, right and left label."""
        self.sheet(*([number, 33, right, 14.5, left] for number, right, left in patients))

    def text(self, text: str, name: str = "meta.csv", encoding: str = "utf-8") -> None:
        self.spreadsheet = self.folder / name
        self.spreadsheet.write_text(text, encoding=encoding)

    def frame(self, *names: str) -> None:
        for name in names:
            (self.frames / name).touch()

    def run(self, *flags: str) -> None:
        words = ["--spreadsheet", self.spreadsheet, "--frames", self.frames, "--output-manifest", self.output, *flags]
        run(import_released.main, import_released.parser(), [str(word) for word in words])

    def rows(self) -> dict[str, dict[str, str]]:
        with self.output.open(newline="", encoding="utf-8") as file:
            return {row["image_id"]: row for row in csv.DictReader(file)}

    def labels(self) -> dict[str, str]:
        return {name: row["label"] for name, row in self.rows().items()}


@pytest.fixture
def released(tmp_path):
    return Released(tmp_path)


def fails(released: Released, capsys, *flags: str) -> str:
    """The message of a command that must end with status 1 and write nothing."""
    before = released.output.read_bytes() if released.output.exists() else None
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        released.run(*flags)
    assert end.value.code == 1
    assert (released.output.read_bytes() if released.output.exists() else None) == before
    return capsys.readouterr().err


def test_each_side_takes_its_own_column_and_names_are_padded_to_two_digits(released):
    released.patients((7, 0, 1), (123, 1, 0))
    released.frame("ID07_1.bmp", "ID07_2.bmp", "ID123_1.bmp", "ID123_2.bmp")
    released.run()
    assert list(released.rows().values()) == [
        {"image_id": name, "path": f"{name}.bmp", "patient_id": patient, "organ": "testicle", "label": label,
         "device": "esaote_mylab", "side": side}
        for name, patient, label, side in [
            ("ID07_1", "ID07", "homogeneous", "right"), ("ID07_2", "ID07", "inhomogeneous", "left"),
            ("ID123_1", "ID123", "inhomogeneous", "right"), ("ID123_2", "ID123", "homogeneous", "left"),
        ]
    ]  # fmt: skip


@pytest.mark.parametrize("typed", [7, 7.0, "7", "07", "ID07", "id7", " ID 07 ", "7.0"])
def test_an_id_may_be_typed_in_many_ways(released, typed):
    released.patients((typed, 1, 0))
    released.frame("ID07_1.bmp")
    released.run()
    assert released.labels() == {"ID07_1": "inhomogeneous"}


def test_only_0_and_1_are_labels_and_every_other_value_is_named_with_its_row(released, capsys):
    released.patients((1, 0, 1), (2, 2, 3), (3, "Rossi", None), (4, 0.5, "1"), (5, "", " 0 "))
    released.frame(*(f"ID0{i}_{side}.bmp" for i in range(1, 6) for side in (1, 2)))
    released.run()
    assert released.labels() == {
        "ID01_1": "homogeneous", "ID01_2": "inhomogeneous", "ID02_1": "", "ID02_2": "", "ID03_1": "", "ID03_2": "",
        "ID04_1": "", "ID04_2": "inhomogeneous", "ID05_1": "", "ID05_2": "homogeneous",
    }  # fmt: skip
    error = capsys.readouterr().err
    assert "row 3, right: 2 is neither 0 nor 1; row 3, left: 3 is neither" in error
    assert "row 4, right: text is neither" in error
    assert "Rossi" not in error, "a cell that is not a number may be a name"
    assert "row 5, right: 0.5 is neither" in error
    assert "frames without a label, their cell is empty (2): ID03_2; ID05_1" in error


def test_frames_and_rows_without_each_other_are_named(released, capsys):
    released.patients((1, 0, 1), (2, 1, 1))
    released.frame("ID01_1.bmp", "ID02_1.bmp", "ID02_2.bmp", "ID09_2.bmp", "Thumbs.db", "Rossi_Mario.bmp")
    released.run()
    assert released.labels() == {
        "ID01_1": "homogeneous", "ID02_1": "inhomogeneous", "ID02_2": "inhomogeneous", "ID09_2": ""
    }  # fmt: skip
    error = capsys.readouterr().err
    assert "frames without a label, the spreadsheet has no row for them (1): ID09_2" in error
    assert "sides left out, they have a row but no frame (1): ID01_2" in error
    assert "files left out, they are not called ID<nn>_1.bmp or ID<nn>_2.bmp (2)" in error
    assert "Rossi" not in error, "the name of a file may be a patient's"


def test_the_end_counts_and_says_what_comes_next(released, capsys):
    released.patients((1, 0, 1), (2, 1, 1), (3, 0, None))
    released.frame(*(f"ID0{i}_{side}.bmp" for i in (1, 2, 3) for side in (1, 2)))
    released.run("--organ", "ovary", "--classes", "no", "yes")
    error = capsys.readouterr().err
    assert "6 frames of 3 patients: 2 no, 3 yes, 1 without a label; 3 patients are labelled, 1 differ between" in error
    assert yaml.safe_load(error.split("\n\n")[1])["data"] == {
        "manifest": released.output.as_posix(), "root": released.frames.as_posix(), "source": "files",
        "organs": ["ovary"], "target_organ": "ovary", "classes": ["no", "yes"],
    }  # fmt: skip
    assert "snakemake -n" in error


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_is_read_as_the_workbook_is(released, separator):
    released.patients((7, 0, 1), (8, 1, None))
    released.frame("ID07_1.bmp", "ID07_2.bmp", "ID08_1.bmp", "ID08_2.bmp")
    released.run()
    expected = released.labels()
    name = f'"{LABEL}"' if separator == "," else LABEL
    lines = [["ID", "età", name, name], ["7", "33", "0", "1"], ["", "", "", ""], ["8", "", "1", ""], []]
    released.text("\ufeff" + "\r\n".join(separator.join(line) for line in lines))
    released.run("--force")
    assert released.labels() == expected


def test_a_table_that_pandas_has_written_keeps_its_sides(released):
    released.sheet([1, 1, 0], header=["ID", f"{LABEL}.1", LABEL.upper().replace(" ", "\n", 1)])
    released.frame("ID01_1.bmp", "ID01_2.bmp")
    released.run()
    assert released.labels() == {"ID01_1": "homogeneous", "ID01_2": "inhomogeneous"}


def test_rows_that_cannot_be_right_are_all_reported_at_once(released, capsys):
    released.patients((1, 0, 1), ("Rossi", 0, 0), (None, 1, 1), (2.5, 0, 0), (-3, 0, 0), (1, 0, 1), ("ID1", 1, 1))
    released.frame("ID01_1.bmp", "ID1_1.bmp")
    error = fails(released, capsys)
    for text in (
        "row 3, column ID: is not a number", "row 4, column ID: is empty", "row 5, column ID: is not a number",
        "row 6, column ID: is not a number", "row 7, column ID: 1 already appears in row 2",
        "row 8, column ID: 1 already appears in row 2", "ID01_1.bmp and ID1_1.bmp are the same side",
    ):  # fmt: skip
        assert text in error
    assert "Rossi" not in error


def test_the_message_stays_short_where_everything_is_wrong(released, capsys):
    released.patients(*(("x", 0, 0) for _ in range(100)))
    released.frame("ID01_1.bmp")
    error = fails(released, capsys)
    *lines, last = error.splitlines()
    assert len(error) < 2000
    assert last == f"  … and {100 - len(lines[1:])} more"


@pytest.mark.parametrize(
    ("header", "texts"),
    [
        (["patient", "a", "b"], ["0 columns are called ID", "0 columns are called 'omogeneo"]),
        (["ID", LABEL, "volume"], ["1 columns are called 'omogeneo"]),
        (["ID", LABEL, LABEL, LABEL], ["3 columns are called 'omogeneo"]),
        (["ID", "id", LABEL, LABEL], ["2 columns are called ID"]),
    ],
)
def test_missing_and_ambiguous_columns_are_named(released, capsys, header, texts):
    released.sheet([1, 0, 0, 0][: len(header)], header=header)
    released.frame("ID01_1.bmp")
    error = fails(released, capsys)
    assert all(text in error for text in texts), error


def test_what_is_wrong_outside_of_the_rows_is_reported_together(released, capsys):
    released.output.write_text("mine")
    released.frames.rmdir()
    error = fails(released, capsys, "--classes", "same", "same")
    for text in ("new_meta.xlsx does not exist", "manifest.csv exists", "data does not exist", "--classes must be two"):
        assert text in error


def test_the_spreadsheet_is_never_overwritten(released, capsys):
    released.text(f"ID;{LABEL};{LABEL}\n1;0;1\n")
    released.frame("ID01_1.bmp")
    released.output = released.spreadsheet
    assert "--output-manifest is the spreadsheet itself" in fails(released, capsys, "--force")


def test_only_force_overwrites(released, capsys):
    released.patients((1, 0, 1))
    released.frame("ID01_1.bmp")
    released.run()
    assert "--force" in fails(released, capsys)
    released.patients((1, 1, 1))
    released.run("--force")
    assert released.labels() == {"ID01_1": "inhomogeneous"}


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("new_meta.xlsx", b"", "cannot be read as a spreadsheet"),
        ("new_meta.xlsx", b"PK\x03\x04 broken", "cannot be read as a spreadsheet"),
        ("new_meta.xls", b"ID;a;b", "cannot be read as a spreadsheet"),
        ("meta.csv", b"", "is empty"),
        ("meta.csv", b"\n,,\n", "is empty"),
        ("meta.csv", "ID;età".encode("cp1252"), "is not UTF-8"),
        ("meta.csv", f"ID;{LABEL};{LABEL}\n".encode(), "holds no patient"),
        ("meta.csv", f"ID;{LABEL};{LABEL}\n1;0\n".encode(), "row 2: has 2 cells, the header 3"),
    ],
)
def test_unreadable_and_empty_spreadsheets(released, capsys, name, content, text):
    released.spreadsheet = released.folder / name
    released.spreadsheet.write_bytes(content)
    released.frame("ID01_1.bmp")
    assert text in fails(released, capsys)


def test_an_empty_workbook_and_one_without_labels(released, capsys):
    openpyxl.Workbook().save(released.spreadsheet)
    released.frame("ID01_1.bmp", "ID02_1.bmp")
    assert "is empty" in fails(released, capsys)
    released.patients((1, 2, None), (3, 0, 1))
    error = fails(released, capsys)
    assert "gives none of the 2 frames a label" in error
    assert "row 2, right: 2 is neither" in error
    assert "ID02_1" in error


def test_a_folder_without_frames(released, capsys):
    released.patients((1, 0, 1))
    released.frame("ID01_1.png", "ID01_3.bmp", "1_1.bmp")
    assert "holds no file that is called ID<nn>_1.bmp" in fails(released, capsys)


def test_the_manifest_is_valid_and_its_views_are_cut_from_the_papers_boxes(released):
    draws = np.random.default_rng(0)
    pixels = {}
    for name in ("ID07_1", "ID07_2", "ID08_1", "ID11_2"):
        pixels[name] = draws.integers(0, 256, (600, 800), np.uint8)
        Image.fromarray(pixels[name]).save(released.frames / f"{name}.bmp")
    released.patients((7, 0, 1), (8, 3, 1))
    released.run()
    shipped = REPOSITORY / "config.yaml"
    config = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    config["data"].update(manifest=str(released.output), root=str(released.frames), source="files")
    assert len(load_manifest(released.output, load_config(config, [])["data"])) == 4

    def views(name: str, *flags: str) -> dict[str, np.ndarray]:
        words = [
            "--manifest", released.output, "--root", released.frames, "--set", name, "--target-organ", "testicle",
            "--profiles", json.dumps(PROFILES), "--size", "300", "--output-views", released.folder / f"{name}.npy",
            "--output-index", released.folder / f"{name}.csv",
        ]  # fmt: skip
        run(crop.main, crop.parser(), [str(word) for word in words])
        index = read_csv(released.folder / f"{name}.csv")
        return dict(zip(index["view_id"], read_npy(released.folder / f"{name}.npy"), strict=True))

    labelled, others = views("labelled"), views("testicle")
    assert set(labelled) == {f"ID07_{side}#{view}" for side in (1, 2) for view in ("transverse", "sagittal")}
    assert {name.partition("#")[0] for name in others} == {"ID08_1", "ID11_2"}
    for name, view in {**labelled, **others}.items():
        left = 185 if name.endswith("transverse") else 485
        np.testing.assert_array_equal(view, pixels[name.partition("#")[0]][130:430, left : left + 300])


class Folder:
    """A folder in the later layout, a CSV of labels beside it, and the command on both."""

    MEANING = ("--image-column", "file", "--patient-column", "case", "--label-column", "homogeneity",
               "--label-values", "hom", "inhom", "--profile", "masks")  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder, self.output, self.labels = folder / "published", folder / "manifest.csv", folder / "labels.csv"
        for name in ("imgs", "masks"):
            (self.folder / name).mkdir(parents=True)

    def image(self, name: str, masked: bool = True) -> None:
        mask = np.zeros((40, 50), np.uint8)
        mask[5:25, 10:30] = 255
        pixels = np.arange(2000, dtype=np.uint32).reshape(40, 50).astype(np.uint8)
        Image.fromarray(pixels).save(self.folder / "imgs" / name)
        if masked:
            Image.fromarray(mask).save(self.folder / "masks" / f"{Path(name).stem}.png")

    def run(self, *flags: str, meaning: tuple[str, ...] = MEANING) -> None:
        words = ["--labels", self.labels, "--frames", self.folder, "--output-manifest", self.output, *meaning, *flags]
        run(import_released.main, import_released.parser(), [str(word) for word in words])

    def rows(self) -> dict[str, dict[str, str]]:
        with self.output.open(newline="", encoding="utf-8") as file:
            return {row["image_id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def layout(tmp_path):
    found = Folder(tmp_path)
    for name in ("a1.png", "a2.png", "b1.bmp", "c1.png", "stray.png"):
        found.image(name)
    found.labels.write_text(
        "file;case;homogeneity;eye\na1.png;A;hom;l\na2;A;inhom;r\nb1.bmp;B;;l\nc1.png;C;unsure;\nd1;D;hom;\n"
    )
    return found


def test_a_folder_of_images_and_masks_becomes_a_manifest_that_is_cut_by_the_masks(layout, capsys):
    layout.run("--side-column", "eye", "--side-values", "r", "l")
    rows = layout.rows()
    assert {name: row["label"] for name, row in rows.items()} == {
        "a1": "homogeneous", "a2": "inhomogeneous", "b1": "", "c1": "",
    }  # fmt: skip
    assert rows["b1"] == {
        "image_id": "b1", "path": "imgs/b1.bmp", "patient_id": "B", "organ": "testicle", "label": "", "device": "masks",
        "side": "left", "mask": "masks/b1.png",
    }  # fmt: skip
    said = " ".join(capsys.readouterr())
    assert "images without a label, their cell is empty (1): row 4" in said
    assert "images without a label, their cell is none of --label-values (1): row 5" in said
    assert "rows left out, imgs/ has no such image (1): row 6" in said
    assert "no row for them and so no patient (1): stray" in said
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    config["data"] |= {"source": "files", "crop_profiles": {"masks": {"kind": "masks"}}}
    assert len(load_manifest(layout.output, load_config(config, [])["data"])) == 4
    views, index = layout.output.with_name("views.npy"), layout.output.with_name("views.csv")
    words = ["--manifest", layout.output, "--root", layout.folder, "--set", "labelled", "--target-organ", "testicle",
             "--profiles", json.dumps({"masks": {"kind": "masks"}}), "--size", "20", "--output-views", views,
             "--output-index", index]  # fmt: skip
    run(crop.main, crop.parser(), [str(word) for word in words])
    whole = np.asarray(Image.open(layout.folder / "imgs" / "a1.png"))
    np.testing.assert_array_equal(read_npy(views), np.repeat(whole[None, 5:25, 10:30], 2, axis=0))


def test_a_split_file_chooses_the_images(layout):
    split = layout.folder / "train.txt"
    split.write_text("imgs/a2.png\nb1\n")
    layout.run("--split", str(split))
    assert list(layout.rows()) == ["a2", "b1"]


def fails_on(layout, capsys, *flags, **more) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        layout.run(*flags, **more)
    assert not layout.output.exists()
    return " ".join(capsys.readouterr())


def test_what_is_not_known_of_a_folder_is_asked_for(layout, capsys):
    said = fails_on(layout, capsys, meaning=("--image-column", "file"))
    assert "--labels needs --patient-column, --label-column, --label-values, --profile:" in said
    assert "--labels needs --side-values:" in fails_on(layout, capsys, "--side-column", "eye")
    said = fails_on(layout, capsys, meaning=("--image-column", "name", *Folder.MEANING[2:]))
    assert "row 1: 0 columns are called 'name'; there are file, case, homogeneity, eye" in said


def test_all_that_is_wrong_with_a_folder_is_listed(layout, capsys):
    layout.labels.write_text("file,case,homogeneity\na1.png,A,hom\na1.bmp,Rossi Mario,hom\na2.png,,inhom\nb1.bmp,B\n")
    said = fails_on(layout, capsys, "--split", str(layout.folder / "absent.txt"))
    assert "absent.txt is not a text file that can be read" in said
    said = fails_on(layout, capsys)
    assert "row 3: the image of row 2 again" in said
    assert "row 3: the cell of the patient is empty, or has other characters" in said
    assert "row 4: the cell of the patient is empty" in said
    assert "row 5: has 2 cells, the header 3" in said
    assert "Rossi" not in said


def test_the_flags_of_one_layout_are_refused_with_the_other(released, capsys):
    released.patients((7, 0, 1))
    released.frame("ID07_1.bmp")
    assert "--label-column belongs to --labels" in fails(released, capsys, "--label-column", "x")
