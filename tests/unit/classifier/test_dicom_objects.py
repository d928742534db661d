"""DICOM objects of a prediction: what they say, what they leave out, and that a validator finds no error in them."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from tests.ultrasound import SECRETS, write_ultrasound
from workflow_scripts.classifier.dicom_objects import heat_capture, measurement_report, read_header, write_dicom
from workflow_scripts.core.errors import UserError

FACTS = {
    "experiment": "ud-flipped",
    "classes": ["fine", "coarse"],
    "origin": "",
    "files": {"ensemble.safetensors": "ab12" * 16},
}
VALIDATOR = shutil.which("dciodvfy")
PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def row(view: str, unlike: int = 0) -> dict:
    """A row of `predict`."""
    return {
        "file": "x.dcm", "view": view, "unlike_training": unlike, "prediction": "coarse", "probability": 0.8123456789,
        "lowest": 0.6, "highest": 1 / 3 + 0.6, "agreement": 1.0, "distance_percentile": 97.5,
    }  # fmt: skip


def objects(folder: Path, source: Path, facts: dict = FACTS) -> list[Path]:
    """The report of two views and a capture of each, written."""
    header = read_header(source, source.name)
    assert header is not None
    write_dicom(measurement_report(header, [row("transverse", 1), row("sagittal")], facts), folder / "report.dcm")
    for number, view in enumerate(("transverse", "sagittal"), start=1):
        write_dicom(heat_capture(header, view, number, PICTURE, facts), folder / f"{view}.dcm")
    return [folder / f"{name}.dcm" for name in ("report", "transverse", "sagittal")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A frame as a scanner writes it."""
    return write_ultrasound(tmp_path / "x.dcm", np.full((48, 64), 90, np.uint8))


def test_the_report_follows_the_template_and_says_first_what_is_unlike(tmp_path: Path, source: Path) -> None:
    report = srread(objects(tmp_path / "out", source)[0])
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    groups = report.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["view transverse", "view sagittal"]
    assert [group.finding_type.value for group in groups] == ["UNLIKE", "LIKE"]
    assert "do not rely on the probability" in groups[0].finding_type.meaning
    measured = {item.name.meaning: (item.value, item.unit.value) for item in groups[0].get_measurements()}
    assert measured["Probability of coarse"] == (pytest.approx(0.812346), "1")
    assert measured["Highest probability of a network"] == (pytest.approx(0.933333), "1")
    assert measured["Share of networks that agree"] == (100, "%")
    evaluated = {item.name.value: item.value.meaning for item in groups[0].get_qualitative_evaluations()}
    assert evaluated == {"CLASS": "coarse", "USE": "RESEARCH ONLY, not a medical device"}
    # The finding stands before every measurement of its group.
    names = [item.name.value for item in groups[0]]
    assert names[0] == "125007"
    inside = [item.name.value for item in groups[0][0].ContentSequence]
    assert inside.index("121071") < inside.index("P-POSITIVE")
    frame = pydicom.dcmread(source)
    assert groups[0].source_images[0].referenced_sop_instance_uid == frame.SOPInstanceUID
    assert report.StudyInstanceUID == frame.StudyInstanceUID
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_captures_hold_the_picture_and_are_marked(tmp_path: Path, source: Path) -> None:
    _, first, second = objects(tmp_path / "out", source, FACTS | {"origin": "PHANTOM"})
    captures = [pydicom.dcmread(path) for path in (first, second)]
    for number, capture in enumerate(captures, start=1):
        np.testing.assert_array_equal(capture.pixel_array, PICTURE)
        assert capture.SeriesDescription == "PHANTOM: RESEARCH ONLY, not a medical device"
        assert (capture.PatientID, capture.StudyDate, capture.InstanceNumber) == ("P0", "20250102", number)
        assert "research only, PHANTOM" in capture.DerivationDescription
    assert captures[0].SeriesInstanceUID == captures[1].SeriesInstanceUID
    assert captures[0].SOPInstanceUID != captures[1].SOPInstanceUID


def test_the_same_frame_gives_the_same_bytes_and_another_classifier_other_uids(tmp_path: Path, source: Path) -> None:
    once, again = objects(tmp_path / "a", source), objects(tmp_path / "b", source)
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    other = objects(tmp_path / "c", source, FACTS | {"files": {"ensemble.safetensors": "cd34" * 16}})
    uids = [{pydicom.dcmread(path).SOPInstanceUID for path in paths} for paths in (once, other)]
    assert not uids[0] & uids[1]


def test_nothing_else_of_the_header_is_copied(tmp_path: Path, source: Path) -> None:
    for path in objects(tmp_path / "out", source):
        content = path.read_bytes()
        assert [secret for secret in SECRETS if secret.encode() in content] == []
        made = pydicom.dcmread(path)
        assert [made[key].is_empty for key in ("PatientName", "PatientBirthDate", "PatientSex")] == [True] * 3


def test_frames_of_clips_are_named_and_headers_without_study_refused(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    clip = read_header(write_ultrasound(tmp_path / "clip.dcm", pixels, frames=3), "clip.dcm")
    assert clip is not None
    write_dicom(measurement_report(clip, [row("full")], FACTS), tmp_path / "report.dcm")
    report = srread(tmp_path / "report.dcm")
    assert report.content.get_image_measurement_groups()[0].source_images[0].referenced_frame_numbers == [1]
    bare = write_ultrasound(tmp_path / "bare.dcm", pixels, StudyInstanceUID=None, SeriesInstanceUID=None)
    with pytest.raises(UserError, match=r"bare\.dcm: .* lacks SeriesInstanceUID, StudyInstanceUID"):
        read_header(bare, "bare.dcm")
    # A de-identified frame may lack what it is filed by, and even its date.
    plain = write_ultrasound(
        tmp_path / "plain.dcm", pixels, PatientID=None, StudyDate=None, StudyTime=None, StudyID=None
    )
    assert all(path.is_file() for path in objects(tmp_path / "out", plain))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert read_header(tmp_path / "picture.png", "picture.png") is None


@pytest.mark.skipif(VALIDATOR is None, reason="no dciodvfy (dicom3tools) on this machine")
@pytest.mark.parametrize("frames", [1, 3])
def test_a_validator_finds_no_error(tmp_path: Path, frames: int) -> None:
    source = write_ultrasound(tmp_path / "x.dcm", np.zeros((8, 8), np.uint8), frames=frames)
    for path in objects(tmp_path / "out", source):
        found = subprocess.run([str(VALIDATOR), path], capture_output=True, text=True, check=False).stderr
        assert path.stem == "report" or "SCImage" in found
        assert [line for line in found.splitlines() if line.startswith("Error")] == [], path.name
