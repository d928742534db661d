"""The manifests of BUS-BRA: roles, labels that stay hidden, and folders that are not complete."""

from pathlib import Path

import pytest
from PIL import Image

from tests.shared import SHARED, needs_real
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows
from workflow_scripts.tools import import_busbra


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Ten patients with two views each in BUS-BRA's layout, and three thyroids of two cases."""
    (tmp_path / "busbra" / "Images").mkdir(parents=True)
    (tmp_path / "ddti").mkdir()
    rows = [
        {"ID": f"bus_{case:04d}-{side}", "Case": str(case), "Pathology": "malignant" if case % 3 == 0 else "benign",
         "Device": "GE Logiq 7 @10-14MHz"}
        for case in range(1, 11) for side in "lr"
    ]  # fmt: skip
    write_rows(rows, ("ID", "Case", "Pathology", "Device"), tmp_path / "busbra" / "bus_data.csv")
    for row in rows:
        Image.new("L", (8, 8)).save(tmp_path / "busbra" / "Images" / f"{row['ID']}.png")
    for name in ("7_1.jpg", "7_2.jpg", "12_1.jpg", "notes.txt"):
        (tmp_path / "ddti" / name).touch()
    return tmp_path


def call(folder: Path, *words: object) -> tuple[list[dict], list[dict]]:
    """The rows of the two manifests."""
    flags = ["--busbra", folder / "busbra", "--thyroids", folder / "ddti", "--labelled-patients", 4]
    outputs = ["--output-manifest", folder / "m.csv", "--output-external", folder / "e.csv"]
    import_busbra.main(import_busbra.parser().parse_args([str(word) for word in [*flags, *outputs, *words]]))
    return read_rows(folder / "m.csv"), read_rows(folder / "e.csv")


def test_the_drawn_patients_keep_their_labels_and_the_others_are_external(published: Path, capsys) -> None:
    study, external = call(published)
    labelled = {row["patient_id"] for row in study if row["label"]}
    assert len(labelled) == 4
    assert len({row["patient_id"] for row in external}) == 6
    assert not labelled & {row["patient_id"] for row in external}
    assert all(row["label"] for row in external)
    # The others' pixels stay in the study, their labels do not.
    hidden = [row for row in study if row["organ"] == "breast" and not row["label"]]
    assert {row["image_id"] for row in hidden} == {row["image_id"] for row in external}
    thyroids = [row for row in study if row["organ"] == "thyroid"]
    assert [(row["patient_id"], row["path"]) for row in thyroids] == [
        ("ddti_12", "ddti/12_1.jpg"), ("ddti_7", "ddti/7_1.jpg"), ("ddti_7", "ddti/7_2.jpg"),
    ]  # fmt: skip
    assert {row["scanner"] for row in external} == {"GE Logiq 7"}
    assert all((published / row["path"]).is_file() for row in study)
    assert "Medical Physics" in capsys.readouterr().err


def test_others_can_be_left_out_and_another_seed_draws_others(published: Path) -> None:
    study, external = call(published)
    without, same = call(published, "--leave-out-others")
    assert same == external
    assert without == [row for row in study if row["label"] or row["organ"] == "thyroid"]
    assert call(published, "--seed", 1)[1] != external


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "busbra" / "Images" / "bus_0003-l.png").unlink(), "bus_0003-l.png does not exist"),
        (
            lambda folder: (folder / "busbra" / "bus_data.csv").write_text("ID,Case\na,1\n"),
            "no column Pathology, Device",
        ),
        (lambda folder: [file.unlink() for file in (folder / "ddti").iterdir()], "no picture called"),
    ],
)
def test_what_is_not_complete_is_refused_and_nothing_written(published: Path, spoil, message: str) -> None:
    spoil(published)
    with pytest.raises(UserError, match=message):
        call(published)
    assert not (published / "m.csv").exists()


def test_more_labelled_patients_than_there_are(published: Path) -> None:
    with pytest.raises(UserError, match="between 1 and 9; BUS-BRA has 10 patients"):
        call(published, "--labelled-patients", 10)


@needs_real
def test_the_published_set(tmp_path: Path) -> None:
    outputs = ["--output-manifest", tmp_path / "m.csv", "--output-external", tmp_path / "e.csv"]
    words = ["--busbra", SHARED / "real" / "busbra", "--thyroids", SHARED / "real" / "ddti", *outputs]
    import_busbra.main(import_busbra.parser().parse_args([str(word) for word in words]))
    external = read_rows(tmp_path / "e.csv")
    assert len({row["patient_id"] for row in external}) == 844
    assert len({row["scanner"] for row in external}) == 4
    study = read_rows(tmp_path / "m.csv")
    assert len(study) == 1875 + 480
    assert sum(bool(row["label"]) for row in study) == 1875 - len(external)
