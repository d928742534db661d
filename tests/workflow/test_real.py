"""The main job, crop to tables, on real ultrasound: breast views as the labelled organ, thyroids as the second."""

import csv
from pathlib import Path

import pytest
import yaml

from tests.shared import REPOSITORY, SHARED, needs_real
from tests.workflow.study import SMALLEST, Study
from workflow_scripts.files import read_csv

pytestmark = [pytest.mark.slow, needs_real]

SHIPPED = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
CHANGES = {
    "data": {
        "root": str(SHARED / "real"),
        "source": "files",
        "organs": ["breast", "thyroid"],
        "target_organ": "breast",
        "classes": ["benign", "malignant"],
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


def write_manifest(file: Path) -> None:
    """Thirty benign, eighteen malignant and six normal breasts, twelve thyroids; BUSI knows no patients."""
    with (SHARED / "real" / "manifest.csv").open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    wanted = {("breast", "benign"): 30, ("breast", "malignant"): 18, ("breast", "normal"): 6}
    chosen = []
    for (organ, label), count in wanted.items():
        found = [row for row in rows if (row["organ"], row["label"]) == (organ, label)]
        chosen += [{**row, "label": "" if label == "normal" else label} for row in found[:count]]
    chosen += [{**row, "label": ""} for row in rows if row["organ"] == "thyroid"][:12]
    columns = ["image_id", "path", "patient_id", "organ", "label", "device", "side"]
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, columns, extrasaction="ignore")
        writer.writeheader()
        for row in chosen:
            patient = row["patient_id"] or row["image_id"]
            writer.writerow({**row, "patient_id": patient, "device": "whole_frame", "side": ""})


def test_real_frames_become_tables(tmp_path: Path):
    write_manifest(tmp_path / "data_manifest.csv")
    study = Study(tmp_path, [SMALLEST]).change("real", CHANGES)
    study.snakemake("--cores", "2")
    results = tmp_path / "results"
    index = read_csv(results / "views" / "labelled.csv")
    assert index["label"].value_counts().to_dict() == {"benign": 30, "malignant": 18}
    assert len(read_csv(results / "views" / "thyroid.csv")) == 12
    for name in ("table1", "table2", "table3", "table4"):
        table = (results / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert "PHANTOM" not in table
    predictions = read_csv(results / "finetuning" / "ud-flipped.csv")
    assert sorted(predictions["view_id"]) == sorted(index["view_id"])
    assert set(predictions["prediction"]) <= {"benign", "malignant"}
