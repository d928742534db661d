"""The crop stage: sets, order, bad frames together, nothing half-written, no patient data but the manifest's."""

import csv
import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, PngImagePlugin
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

from tests.shared import REPOSITORY
from workflow_scripts.core.files import read_csv, read_npy
from workflow_scripts.data import crop_views as crop
from workflow_scripts.data import store
from workflow_scripts.runtime.cli import run
from workflow_scripts.study.manifest import own_ids

NAME = "Mustermann"
TWO_BOXES = {"kind": "boxes", "boxes": [[30, 10, 40, 40], [30, 60, 40, 40]], "views": ["transverse", "sagittal"]}
PROFILES = {"scanner": TWO_BOXES, "whole": {"kind": "none"}}
COLUMNS = ["image_id", "path", "patient_id", "organ", "label", "device", "side", "frames"]


class Study:
    """A folder of frames, its manifest, and the stage on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.manifest = folder, folder / "frames", folder / "manifest.csv"
        self.views, self.index = folder / "views" / "set.npy", folder / "views" / "set.csv"
        self.root.mkdir()
        self.rows: list[dict[str, str]] = []

    def add(self, image_id: str, pixels: np.ndarray | bytes, extension: str = "png", **cells: str) -> None:
        path = self.root / f"{image_id}.{extension}"
        if isinstance(pixels, bytes):
            path.write_bytes(pixels)
        else:
            Image.fromarray(pixels).save(path)
        row = {"image_id": image_id, "path": path.name, "patient_id": "A", "organ": "testicle", "label": "fine"}
        self.rows.append({**row, "device": "scanner", "side": "", "frames": "", **cells})

    def crop(self, name: str = "labelled", size: int = 32, profiles: Any = PROFILES, **flags: str) -> None:
        with self.manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys([*COLUMNS, *(key for row in self.rows for key in row)])))
            writer.writeheader()
            writer.writerows(self.rows)
        words = {
            "manifest": self.manifest, "root": self.root, "set": name, "target-organ": "testicle", "size": size,
            "profiles": profiles if isinstance(profiles, str) else json.dumps(profiles), "output-views": self.views,
            "output-index": self.index, "log": self.folder / "log",
            **{key.replace("_", "-"): value for key, value in flags.items()},
        }  # fmt: skip
        run(crop.main, crop.parser(), [str(word) for key, value in words.items() for word in (f"--{key}", value)])

    def fails(self, *arguments: Any, **flags: Any) -> str:
        """The message of a run that must fail and leave nothing behind."""
        before = set(self.views.parent.glob("*")) if self.views.parent.exists() else set()
        with pytest.raises(SystemExit) as caught:
            self.crop(*arguments, **flags)
        assert caught.value.code == 1
        after = set(self.views.parent.glob("*")) if self.views.parent.exists() else set()
        assert after == before
        text = self.said()
        assert text.count("error: ") == 1
        assert "Traceback" not in text
        return text[text.index("error: ") :]

    def said(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def noise(seed: int, shape: tuple[int, int] = (80, 120)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_the_flags_are_those_of_the_rule():
    """Every flag that `stage` makes of rules/data.smk is known, and every required one is given."""
    text = (REPOSITORY / "rules" / "data.smk").read_text().split("rule crop_views:")[1].split("\nrule ")[0]
    inputs, outputs = (text.split(f"    {name}:\n")[1].split("\n    log:")[0] for name in ("input", "output"))
    names = re.findall(r"^ {8}(\w+)=", inputs.split("    output:\n")[0], re.MULTILINE)
    names += [f"output_{name}" for name in re.findall(r"^ {8}(\w+)=", outputs, re.MULTILINE)]
    names += re.findall(r"^ {12}(\w+)=", text.split("    params:\n")[1], re.MULTILINE)
    given = {f"--{name.replace('_', '-')}" for name in names}
    assert {"--manifest", "--patient-key", "--output-index", "--clip-frames"} <= given
    actions = crop.parser()._actions
    assert given <= {flag for action in actions for flag in action.option_strings}
    assert {action.option_strings[-1] for action in actions if action.required} <= given


def test_views_and_index(study: Study):
    study.add("f1", noise(1), patient_id="007", side="left")
    study.add("f2", noise(2), label="coarse", device="whole", patient_id="B")
    study.crop(size=40)
    views, index = read_npy(study.views), read_csv(study.index)
    assert views.dtype == np.uint8
    assert views.shape == (3, 40, 40)
    np.testing.assert_array_equal(views[0], noise(1)[30:70, 10:50])
    np.testing.assert_array_equal(views[1], noise(1)[30:70, 60:100])
    assert index.columns.tolist() == [
        "view_id", "image_id", "patient_id", "organ", "label", "side", "view", "coloured", "height", "width", "device",
    ]  # fmt: skip
    assert index.to_numpy().tolist() == [
        ["f1#transverse", "f1", "007", "testicle", "fine", "left", "transverse", 0.0, 40, 40, "scanner"],
        ["f1#sagittal", "f1", "007", "testicle", "fine", "left", "sagittal", 0.0, 40, 40, "scanner"],
        ["f2#full", "f2", "B", "testicle", "coarse", "", "full", 0.0, 80, 120, "whole"],
    ]
    assert sorted(path.name for path in study.views.parent.iterdir()) == ["set.csv", "set.npy"]


def test_scanner_and_centre_reach_the_index_as_text(study: Study):
    study.add("f1", noise(1), device="whole", scanner="007", centre="Pisa, Italy")
    study.add("f2", noise(2), device="whole", scanner="7.0", centre="")
    study.crop()
    index = read_csv(study.index)
    assert index[["device", "scanner", "centre"]].to_numpy().tolist() == [
        ["whole", "007", "Pisa, Italy"],
        ["whole", "7.0", ""],
    ]


def test_sets_are_disjoint_and_an_empty_patient_stays_empty(study: Study):
    study.add("t1", noise(1))
    study.add("t2", noise(2), label="", patient_id="")
    study.add("y1", noise(3), label="", organ="thyroid", patient_id="")
    seen = {}
    for name in ("labelled", "testicle", "thyroid"):
        study.crop(name)
        seen[name] = read_csv(study.index)
    assert {name: sorted(set(index.image_id)) for name, index in seen.items()} == {
        "labelled": ["t1"], "testicle": ["t2"], "thyroid": ["y1"],
    }  # fmt: skip
    assert set(seen["testicle"].patient_id) == {""}
    assert set(seen["testicle"].label) == {""}


def burnt_in() -> np.ndarray:
    """A frame with the name written above the boxes of `scanner`."""
    picture = Image.fromarray(noise(5) // 4)
    ImageDraw.Draw(picture).text((2, 2), NAME, fill=255)
    return np.asarray(picture)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_name_reaches_neither_views_nor_index_nor_log(study: Study, threads: str):
    clean, frame = noise(5) // 4, burnt_in()
    assert (frame[:30] != clean[:30]).any()
    np.testing.assert_array_equal(frame[30:], clean[30:])
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Patient", NAME)
    exif = Image.Exif()
    exif[270] = exif[315] = NAME
    picture = Image.fromarray(frame)
    for extension, more in [("png", {"pnginfo": chunks, "exif": exif}), ("tif", {"description": NAME, "exif": exif})]:
        picture.save(study.root / f"{NAME}.{extension}", **more)
    picture.save(study.root / f"{NAME}.jpg", exif=exif, comment=NAME, quality=95)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UltrasoundImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=NAME.encode().ljust(128, b"\0"))
    dataset.PatientName = dataset.PatientID = dataset.ImageComments = NAME
    dataset.Rows, dataset.Columns = frame.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = frame.tobytes()
    dataset.save_as(study.root / f"{NAME}.dcm")
    assert pydicom.dcmread(study.root / f"{NAME}.dcm").PatientName == NAME
    for extension in ("png", "tif", "dcm", "jpg"):
        assert NAME.encode() in (study.root / f"{NAME}.{extension}").read_bytes()
        cells = {"organ": "testicle", "label": "fine", "device": "scanner", "side": "", "patient_id": "A"}
        study.rows.append({"image_id": f"f_{extension}", "path": f"{NAME}.{extension}", **cells})
    (study.root / f"{NAME}.bmp").write_bytes(b"")
    for bad in (f"{NAME}.bmp", f"{NAME}_absent.png", f"../{NAME}.png"):
        study.rows.append({**study.rows[0], "image_id": f"bad{len(study.rows)}", "path": bad})
    study.crop(size=40, on_bad_frame="skip", threads=threads)
    views, index = read_npy(study.views), read_csv(study.index)
    assert len(views) == 8
    # The boxes hold the sonogram alone, to the pixel, so what is burnt in above them is gone too.
    for row, view in zip(index.to_dict("records"), views, strict=True):
        left = 10 if row["view"] == "transverse" else 60
        if row["image_id"] != "f_jpg":
            np.testing.assert_array_equal(view, clean[30:70, left : left + 40])
    for path in (study.views, study.index, study.folder / "log"):
        assert NAME.lower().encode() not in path.read_bytes().lower()


def a_study_with_bad_frames(study: Study) -> None:
    study.add("good1", noise(1))
    study.add("empty", b"")
    study.add("text", b"not a picture" * 20)
    study.add("small", noise(2, (50, 50)))
    study.add("good2", noise(3))
    study.add("cut", (study.root / "good1.png").read_bytes()[:2000])
    study.rows.append({**study.rows[0], "image_id": "gone", "path": "gone.png"})


@pytest.mark.parametrize("threads", ["1", "2"])
def test_all_bad_frames_fail_together(study: Study, threads: str):
    a_study_with_bad_frames(study)
    text = study.fails(threads=threads)
    assert "5 frames cannot be used" in text
    listed = [line.strip().partition(": ")[0] for line in text.splitlines() if line.startswith("  ")]
    assert listed == ["empty", "text", "small", "cut", "gone"]
    assert "data.on_bad_frame: skip" in text


def test_skip_lists_the_bad_and_goes_on(study: Study):
    a_study_with_bad_frames(study)
    study.crop(on_bad_frame="skip")
    views, index = read_npy(study.views), read_csv(study.index)
    assert index.view_id.tolist() == ["good1#transverse", "good1#sagittal", "good2#transverse", "good2#sagittal"]
    assert views.shape == (4, 32, 32)
    assert study.views.stat().st_size == views.offset + 4 * 32 * 32
    said = study.said()
    assert "skipped 5 of 7 files:" in said
    for image_id in ("empty", "text", "small", "cut", "gone"):
        assert f"  {image_id}: " in said
    study.rows = [row for row in study.rows if row["image_id"].startswith("good")]
    before = study.views.read_bytes()
    study.crop()
    assert study.views.read_bytes() == before


@pytest.mark.parametrize("place", ["frames.Image.Image.load", "store.cut_views"])
def test_too_little_memory_for_a_frame_is_a_bad_frame(study: Study, monkeypatch: pytest.MonkeyPatch, place: str):
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    study.add("f1", noise(1))
    monkeypatch.setattr(f"workflow_scripts.data.{place}", full)
    text = study.fails()
    assert "  f1: there is not enough memory to" in text
    assert "data.on_bad_frame: skip" in text


def test_dicom_files_that_say_so_are_named(study: Study):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UltrasoundImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for answer in ("YES", "NO"):
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.BurnedInAnnotation, dataset.PhotometricInterpretation = answer, "MONOCHROME2"
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 80, 120, 1
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.PixelData = noise(1).tobytes()
        stream = io.BytesIO()
        dataset.save_as(stream)
        study.add(f"says_{answer}", stream.getvalue(), "dcm")
    study.crop()
    assert "1 DICOM files say that text is burnt into their frames (BurnedInAnnotation)" in study.said()
    assert "look at the views of says_YES\n" in study.said()


def test_a_set_that_ends_up_empty_says_which_rows(study: Study):
    study.add("empty", b"")
    text = study.fails(on_bad_frame="skip")
    assert "the set 'labelled', 1 rows" in text
    assert "no frame is left" in text
    assert "on_bad_frame" not in text
    assert "no row of organ 'thyroid' with an empty label" in study.fails("thyroid")
    study.rows[0]["label"] = ""
    assert "no row of organ 'testicle' with a label" in study.fails("labelled")


def test_a_failure_leaves_an_earlier_store_as_it_was(study: Study):
    study.add("good", noise(1))
    study.crop()
    before = study.views.read_bytes(), study.index.read_bytes()
    study.add("empty", b"")
    study.fails()
    assert (study.views.read_bytes(), study.index.read_bytes()) == before


def test_the_index_comes_last(study: Study, monkeypatch: pytest.MonkeyPatch):
    """Dying between the two files must not leave an old index beside new views."""
    study.add("good", noise(1))
    study.crop()
    study.add("good2", noise(2))

    replace = os.replace

    def die(part: Path, path: Path) -> None:
        if path == study.index:
            raise KeyboardInterrupt
        replace(part, path)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(SystemExit):
        study.crop()
    assert len(read_npy(study.views)) == 4
    assert not study.index.exists()


def test_an_index_that_cannot_be_written_leaves_no_half_store(study: Study, monkeypatch: pytest.MonkeyPatch):
    study.add("good", noise(1))

    def full(_rows: object, _columns: object, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(store, "write_rows", full)
    assert f"{study.index} cannot be read or written: No space left on device" in study.fails()
    study.views.parent.rmdir()


def test_threads_change_nothing(study: Study):
    """More frames than wait at once, of different cost, some bad."""
    for i in range(60):
        shape = (700, 900) if i % 7 == 0 else (80, 120)
        study.add(f"f{i:02d}", b"" if i % 11 == 5 else noise(i, shape), "bmp", device="whole" if i % 3 else "scanner")
    study.crop(on_bad_frame="skip", threads="1")
    serial, said = (study.views.read_bytes(), study.index.read_bytes()), study.said()
    study.views.unlink()
    study.index.unlink()
    study.crop(on_bad_frame="skip", threads="3")
    assert (study.views.read_bytes(), study.index.read_bytes()) == serial
    assert study.said()[study.said().index("labelled: ") :] == said[said.index("labelled: ") :]
    ids = read_csv(study.index).image_id.drop_duplicates().tolist()
    assert ids == [f"f{i:02d}" for i in range(60) if i % 11 != 5]


def test_the_order_is_the_manifests_not_the_names(study: Study):
    for name in ("z", "a", "m"):
        study.add(name, noise(ord(name)), device="whole")
    study.crop()
    assert read_csv(study.index).image_id.tolist() == ["z", "a", "m"]


def clip(*shades: int) -> bytes:
    pages = [Image.fromarray(np.full((80, 120), shade, np.uint8)) for shade in shades]
    data = io.BytesIO()
    pages[0].save(data, "TIFF", save_all=True, append_images=pages[1:])
    return data.getvalue()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_frames_of_clips_stay_with_their_row(study: Study, threads: str):
    """The config says which frames, unless the manifest does; a file of one frame keeps its plain name."""
    study.add("one", noise(1), device="whole", patient_id="A")
    study.add("clip", clip(10, 20, 30, 40, 50), "tif", device="whole", patient_id="B", side="left")
    study.add("sparse", clip(60, 70, 80), "tif", device="whole", patient_id="C", frames="every 2")
    study.add("last", clip(90, 100), "tif", device="whole", patient_id="D", frames="first")
    study.crop(clip_frames="all", threads=threads)
    index = read_csv(study.index)
    assert index.view_id.tolist() == [
        "one#full", *(f"clip@{i}#full" for i in range(5)), "sparse@0#full", "sparse@2#full", "last@0#full",
    ]  # fmt: skip
    assert index.patient_id.tolist() == ["A", *"BBBBB", "C", "C", "D"]
    assert set(index.side[1:6]) == {"left"}
    shades = [int(view[16, 16]) for view in read_npy(study.views)[1:]]
    assert shades == [10, 20, 30, 40, 50, 60, 80, 90]
    study.crop()
    assert read_csv(study.index).view_id.tolist() == [
        "one#full", "clip@0#full", "sparse@0#full", "sparse@2#full", "last@0#full",
    ]  # fmt: skip


def test_patients_are_hashed_with_the_key(study: Study):
    key = study.folder / "key"
    key.write_text("an old secret of sixteen bytes and more\n")
    study.add("f1", noise(1), patient_id=NAME)
    study.add("f2", noise(2), patient_id=NAME)
    study.add("f3", noise(3), patient_id="B")
    study.add("f4", noise(4), label="", patient_id=NAME)
    study.add("f5", noise(5), label="", patient_id="")
    study.crop(patient_key=str(key))
    hashed = read_csv(study.index).patient_id.tolist()
    assert len(set(hashed)) == 2
    assert len(set(hashed[:4])) == 1
    assert NAME not in study.index.read_text()
    study.crop("testicle", patient_key=str(key))
    assert read_csv(study.index).patient_id.tolist() == [hashed[0]] * 2 + [""] * 2
    key.write_text("another secret of sixteen bytes and more")
    study.crop(patient_key=str(key))
    assert not set(read_csv(study.index).patient_id) & set(hashed)
    study.index.unlink()
    study.views.unlink()
    key.write_text("short")
    assert "has 5 bytes; it needs at least 16" in study.fails(patient_key=str(key))
    assert "(data.patient_key) does not exist" in study.fails(patient_key=str(study.folder / "absent"))


def test_with_the_key_no_id_of_the_manifest_is_written_anywhere(study: Study):
    """Views, index, messages about bad and coloured frames; a frame is found again by the key."""
    key = study.folder / "key"
    key.write_text("an old secret of sixteen bytes and more")
    doppler = np.stack([noise(1)] * 3, -1)
    doppler[40:60, 20:40] = (200, 30, 10)
    study.add(f"{NAME}_colour", doppler, patient_id=NAME)
    study.add(f"{NAME}_clip", clip(10, 20), "tif", device="whole", patient_id=NAME, frames="all")
    study.add("unrelated7", noise(2), patient_id=f"{NAME}2")
    study.add(f"{NAME}_broken", b"no picture", patient_id=NAME)
    study.add(f"{NAME}_gone", noise(4), patient_id=NAME)
    study.add(NAME, noise(5), label="", patient_id="")
    (study.root / f"{NAME}_gone.png").unlink()
    refused = study.fails(patient_key=str(key))
    study.crop(patient_key=str(key), on_bad_frame="skip")
    said = study.said()
    back = own_ids(study.manifest, key)
    named = {back[word.strip(":")] for word in refused.split() if word.strip(":") in back}
    assert named == {f"{NAME}_broken", f"{NAME}_gone"}
    assert "skipped 2 of 5 files" in said
    index = read_csv(study.index)
    assert [back[image] for image in index.image_id] == [f"{NAME}_colour"] * 2 + [f"{NAME}_clip"] * 2 + [
        "unrelated7"
    ] * 2
    assert [back[patient] for patient in index.patient_id] == [NAME] * 4 + [f"{NAME}2"] * 2
    parts = [view.split("#")[0].split("@")[0] for view in index.view_id]
    assert parts == index.image_id.tolist()
    assert f"(Doppler?): {index.view_id[0]}" in said
    written = [refused, said, study.index.read_text(), study.views.read_bytes().decode("latin-1")]
    study.crop("testicle", patient_key=str(key))
    assert [back[image] for image in read_csv(study.index).image_id] == [NAME] * 2
    written += [study.said(), study.index.read_text()]
    for text in written:
        assert NAME.lower() not in text.lower()
        assert "unrelated7" not in text


def test_colour_doppler_is_reported(study: Study):
    doppler = np.stack([noise(1)] * 3, -1)
    doppler[40:60, 20:40] = (200, 30, 10)
    study.add("doppler", doppler)
    study.add("tinted", np.stack([noise(2) // 2 + 40, noise(2) // 2 + 20, noise(2) // 2], -1))
    study.add("grey", noise(3))
    study.crop()
    index = read_csv(study.index).set_index("view_id")
    assert index.coloured["doppler#transverse"] == 0.25
    assert index.coloured.drop("doppler#transverse").max() == 0
    assert "1 views hold colour on more than 1% of their pixels (Doppler?): doppler#transverse" in study.said()


def test_a_frame_of_one_pixel(study: Study):
    """Too small for boxes; as a whole frame it is a view of one grey."""
    study.add("dot", np.full((1, 1), 7, np.uint8))
    assert "dot: the box of view 'transverse'" in study.fails()
    study.rows[0]["device"] = "whole"
    study.crop()
    assert np.unique(read_npy(study.views)).tolist() == [7]


def test_mistakes_of_the_command_line(study: Study):
    study.add("f1", noise(1), device="unknown")
    assert "no crop profile for the device unknown; there are: scanner, whole" in study.fails()
    assert "--profiles is not JSON" in study.fails(profiles="{")
    assert "must be a JSON object" in study.fails(profiles=[])
    assert "scanner: `kind` must be" in study.fails(profiles={"scanner": {"kind": "circle"}})
    assert "as many different `views`" in study.fails(profiles={"scanner": {**TWO_BOXES, "views": ["one"]}})
    assert "at least 1" in study.fails(size=0)
    assert "at least 1" in study.fails(threads="0")
    study.rows.append({**study.rows[0]})
    assert "image_id f1 appears in more than one row" in study.fails()
    study.manifest.write_text("image_id,path\nf1,f1.png\n")
    with pytest.raises(crop.UserError, match=r"missing column patient_id, organ, label, device, side"):
        crop.rows_of_set([{"image_id": "f1", "path": "f1.png"}], "labelled", "testicle", study.manifest)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from workflow_scripts.data import crop_views; crop_views.parser().format_help();"
        "print([m for m in ('numpy', 'PIL', 'pandas', 'pydicom', 'yaml') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert result.stdout.strip() == "[]"


def test_a_view_is_cut_by_the_box_of_its_mask(tmp_path):
    study, frame = Study(tmp_path), np.random.default_rng(0).integers(0, 256, (60, 80)).astype(np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:42, 30:62] = 1  # as many programs write masks; dimmer pixels, as JPEG leaves them, mark nothing
    study.add("a", frame, device="masks", mask="a_mask.png")
    study.add("b", frame, device="masks", mask="b_mask.png")
    Image.fromarray(mask).save(study.root / "a_mask.png")
    Image.fromarray(np.where(mask, 255, 7).astype(np.uint8)).save(study.root / "b_mask.png")
    study.crop(profiles={"masks": {"kind": "masks"}})
    for view in read_npy(study.views):
        np.testing.assert_array_equal(view, frame[10:42, 30:62])
    index = read_csv(study.index)
    assert list(index["view_id"]) == ["a#marked", "b#marked"]
    assert "mask" not in index


def test_masks_that_mark_nothing_or_are_of_another_frame_are_named(tmp_path):
    study = Study(tmp_path)
    for name, mask in (("black", np.zeros((60, 80))), ("small", np.ones((30, 40))), ("lost", None)):
        study.add(name, np.zeros((60, 80), np.uint8), device="masks", mask=f"{name}_mask.png")
        if mask is not None:
            Image.fromarray(mask.astype(np.uint8)).save(study.root / f"{name}_mask.png")
    said = study.fails(profiles={"masks": {"kind": "masks"}})
    assert "the mask of black marks nothing" in said
    assert "small: frame and mask have different sizes (60 x 80 and 30 x 40)" in said
    assert "the mask of lost: below" in said
