"""The main job, crop to tables, on real ultrasound: breast views as the labelled organ, thyroids as the second.

Every place of a file and of the manifest where a patient's name can be holds one; no artefact may.
"""

import base64
import binascii
import csv
import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw, PngImagePlugin

from tests.shared import REPOSITORY, SHARED, needs_real
from tests.workflow.study import SMALLEST, Study
from workflow_scripts.core.files import read_csv
from workflow_scripts.study.manifest import own_ids, read_manifest

SHIPPED = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
NAME = "Mustermann"
SECRET = "a secret of sixteen bytes or more"
MARGIN = 40
CHANGES = {
    "data": {
        "root": "frames",
        "source": "files",
        "organs": ["breast", "thyroid"],
        "target_organ": "breast",
        "classes": ["benign", "malignant"],
        "patient_key": "key",
        "crop_profiles": {
            "breast": {"kind": "boxes", "boxes": [[MARGIN, 0, 256, 256]], "views": ["view"]},
            "thyroid": {"kind": "auto"},
        },
    },
    # The shipped runs on testicles, by this study's organ.
    "pretraining": {
        "runs": {
            run: {"sets": ["breast" if name == "testicle" else name for name in entry["sets"]]}
            for run, entry in SHIPPED["pretraining"]["runs"].items()
        }
    },
    # A frozen network beside a trained one.
    "tables": {
        "table1": {"rows": []},
        "table1_protocols": {"rows": []},
        "table4": {"rows": []},
        "table2": {
            "rows": [{"init": "scratch"}, {"init": "ud"}, {"init": "ud", "variant": "probe"}, {"init": "texture"}]
        },
    },
    "figures": {"explained": ""},
}


def with_name(picture: Image.Image) -> bytes:
    """A PNG with the name burnt in above the picture, in a text chunk and in the EXIF."""
    frame = Image.new("L", (picture.width, picture.height + MARGIN))
    ImageDraw.Draw(frame).text((4, 4), NAME, fill=255)
    frame.paste(picture, (0, MARGIN))
    chunks, exif = PngImagePlugin.PngInfo(), Image.Exif()
    chunks.add_text("Patient", NAME)
    exif[270] = exif[315] = NAME
    file = io.BytesIO()
    frame.save(file, "PNG", pnginfo=chunks, exif=exif)
    return file.getvalue()


def write_study(folder: Path) -> None:
    """Thirty benign, eighteen malignant and six normal breasts, twelve thyroids; BUSI knows no patients."""
    with (SHARED / "real" / "manifest.csv").open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    wanted = {("breast", "benign"): 30, ("breast", "malignant"): 18, ("breast", "normal"): 6}
    chosen = []
    for (organ, label), count in wanted.items():
        found = [row for row in rows if (row["organ"], row["label"]) == (organ, label)]
        chosen += [{**row, "label": "" if label == "normal" else label} for row in found[:count]]
    chosen += [{**row, "label": ""} for row in rows if row["organ"] == "thyroid"][:12]
    (folder / "key").write_text(SECRET)
    (folder / "frames").mkdir()
    columns = ["image_id", "path", "patient_id", "organ", "label", "device", "side", "free"]
    with (folder / "data_manifest.csv").open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, columns, extrasaction="ignore")
        writer.writeheader()
        for i, row in enumerate(chosen):
            patient, path = f"{NAME}.{row['patient_id'] or row['image_id']}", f"{NAME}_{i}.png"
            with Image.open(SHARED / "real" / row["path"]) as picture:
                (folder / "frames" / path).write_bytes(with_name(picture.convert("L")))
            named = {"image_id": f"{NAME}_{row['image_id']}", "patient_id": patient, "path": path, "free": NAME}
            writer.writerow({**row, **named, "device": row["organ"], "side": ""})


PNG = b"\x89PNG\r\n\x1a\n"
EMBEDDED = re.compile(rb"base64,([A-Za-z0-9+/=]{16,})")


def contents(data: bytes) -> Iterator[bytes]:
    """The bytes of a file, then those of all that is packed in it, at any depth.

    Members of archives with their names, gzip, pictures' texts and EXIF, files embedded in pages and JSON.
    """
    yield data
    inside: list[bytes] = []
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside += [archive.comment, *(name.encode() for name in archive.namelist())]
            inside += [archive.read(name) for name in archive.namelist()]
    elif data.startswith(b"\x1f\x8b"):
        inside.append(gzip.decompress(data))
    elif data.startswith(PNG):
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()  # texts may follow the pixels
            inside += [str(value).encode() for value in picture.info.values()]
            inside += [str(value).encode() for value in picture.getexif().values()]
    else:
        for found in EMBEDDED.finditer(data):
            try:
                inside.append(base64.b64decode(found[1], validate=True))
            except binascii.Error:  # a text that only looks like it; it has been read as it is
                continue
    for part in inside:
        yield from contents(part)


def holds(data: bytes, text: str) -> bool:
    """Whether the bytes or anything packed in them hold the text, in any case and in the encodings of text and arrays."""
    wanted = [text.lower().encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-32-le")]
    return any(form in part.lower() for part in contents(data) for form in wanted)


def zipped(data: bytes) -> bytes:
    """An archive with one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", data)
    return file.getvalue()


def test_a_name_is_found_wherever_it_is_packed():
    """The search below can fail."""
    compressed, picture = PngImagePlugin.PngInfo(), io.BytesIO()
    compressed.add_text("Comment", f"of {NAME}", zip=True)
    Image.new("L", (8, 8)).save(picture, "PNG", pnginfo=compressed)
    array = io.BytesIO()
    np.save(array, np.array([f"{NAME}_1"]))
    page = b"<img src='data:image/png;base64," + base64.b64encode(picture.getvalue()) + b"'>"
    plain = NAME.upper().encode()
    for data in (plain, zipped(plain), zipped(zipped(page)), gzip.compress(page), picture.getvalue(), array.getvalue()):
        assert holds(data, NAME)
        assert not holds(data, "Musterfrau")


@pytest.mark.slow
@needs_real
def test_real_frames_become_tables(tmp_path: Path):
    write_study(tmp_path)
    study = Study(tmp_path, [SMALLEST]).change("real", CHANGES)
    study.snakemake("--cores", "2")
    results = tmp_path / "results"
    index = read_csv(results / "views" / "labelled.csv")
    assert index["label"].value_counts().to_dict() == {"benign": 30, "malignant": 18}
    assert read_csv(results / "views" / "thyroid.csv")["image_id"].nunique() == 12
    for name in ("table2", "table3", "generation", "shortcuts"):
        table = (results / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert "PHANTOM" not in table
    assert list(read_csv(results / "tables" / "table2.csv")["name"])[1:3] == ["UD", "UD, frozen"]
    assert list(read_csv(results / "tables" / "label_efficiency.csv")["share"]) == [0.1, 0.25, 0.5, 1.0]
    predictions = read_csv(results / "finetuning" / "ud-flipped" / "seed0.csv")
    assert sorted(predictions["view_id"]) == sorted(index["view_id"])
    assert set(predictions["prediction"]) <= {"benign", "malignant"}
    # Every patient and image id, path and free cell of the manifest holds the name.
    manifest = read_manifest(tmp_path / "data_manifest.csv")
    assert all(NAME in row[column] for row in manifest for column in ("patient_id", "image_id", "path", "free"))
    artefacts = [path for path in results.rglob("*") if path.is_file()]
    assert len(artefacts) > 100
    records = [path for path in (tmp_path / ".snakemake").rglob("*") if path.is_file()]
    assert records
    for path in artefacts + records:
        assert not holds(str(path.relative_to(tmp_path)).encode(), NAME), path
        assert not holds(path.read_bytes(), NAME), path
        assert not holds(path.read_bytes(), SECRET), path
    assert holds((tmp_path / "frames" / f"{NAME}_0.png").read_bytes(), NAME)
    # The key leads back.
    back = own_ids(tmp_path / "data_manifest.csv", tmp_path / "key")
    labelled = [row for row in manifest if row["label"]]
    assert [back[image] for image in index["image_id"]] == [row["image_id"] for row in labelled]
    assert [back[patient] for patient in index["patient_id"]] == [row["patient_id"] for row in labelled]
