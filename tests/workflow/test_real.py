"""The main job, crop to tables, on real ultrasound: breast views as the labelled organ, thyroids as the second.

Every place of a file where a patient's name can stand holds one; no artefact may.
"""

import csv
import io
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw, PngImagePlugin

from tests.shared import REPOSITORY, SHARED, needs_real
from tests.workflow.study import SMALLEST, Study
from workflow_scripts.files import read_csv

pytestmark = [pytest.mark.slow, needs_real]

SHIPPED = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
NAME = "Mustermann"
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
    (folder / "key").write_text("a secret of sixteen bytes or more")
    (folder / "frames").mkdir()
    columns = ["image_id", "path", "patient_id", "organ", "label", "device", "side"]
    with (folder / "data_manifest.csv").open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, columns, extrasaction="ignore")
        writer.writeheader()
        for i, row in enumerate(chosen):
            patient, path = f"{NAME}.{row['patient_id'] or row['image_id']}", f"{NAME}_{i}.png"
            with Image.open(SHARED / "real" / row["path"]) as picture:
                (folder / "frames" / path).write_bytes(with_name(picture.convert("L")))
            writer.writerow({**row, "patient_id": patient, "path": path, "device": row["organ"], "side": ""})


def contents(path: Path) -> bytes:
    """The bytes of a file, those of an archive's members unpacked."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(name.encode() + archive.read(name) for name in archive.namelist())


def test_real_frames_become_tables(tmp_path: Path):
    write_study(tmp_path)
    study = Study(tmp_path, [SMALLEST]).change("real", CHANGES)
    study.snakemake("--cores", "2")
    results = tmp_path / "results"
    index = read_csv(results / "views" / "labelled.csv")
    assert index["label"].value_counts().to_dict() == {"benign": 30, "malignant": 18}
    assert read_csv(results / "views" / "thyroid.csv")["image_id"].nunique() == 12
    for name in ("table1", "table2", "table3", "table4"):
        table = (results / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert "PHANTOM" not in table
    predictions = read_csv(results / "finetuning" / "ud-flipped" / "seed0.csv")
    assert sorted(predictions["view_id"]) == sorted(index["view_id"])
    assert set(predictions["prediction"]) <= {"benign", "malignant"}
    artefacts = [path for path in results.rglob("*") if path.is_file()]
    assert len(artefacts) > 100
    for path in artefacts:
        assert NAME.lower() not in str(path).lower()
        assert NAME.lower().encode() not in contents(path).lower(), path
    assert NAME.encode() in (tmp_path / "frames" / f"{NAME}_0.png").read_bytes()
