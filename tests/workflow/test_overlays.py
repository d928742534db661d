"""The paper as printed and the code as released run to their end, report and release included."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from tests.shared import REPOSITORY
from tests.workflow.study import smallest_study
from workflow_scripts.core.files import read_csv

pytestmark = pytest.mark.slow

FEW_ROWS = {
    "table1": {"rows": []},
    "table1_protocols": {"rows": []},
    "table3": {"rows": [{"init": "xgf", "labels": "complete"}]},
    "table4": {"rows": []},
}


@pytest.mark.parametrize(("overlay", "row"), [("paper", "ud_lars_0_001"), ("released", "scratch")])
def test_an_overlay_runs_to_its_end(tmp_path: Path, overlay: str, row: str):
    study = smallest_study(tmp_path / "study")
    # A stand-in for ImageNet's weights, with which every pretraining of the released code begins.
    weights = tmp_path / "imagenet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    rows = [{"init": "ud", "labels": "complete"}, {"init": row, "labels": "complete"}]
    study = replace(study, changes=[REPOSITORY / "studies" / f"{overlay}.yaml", *study.changes]).change(
        "few",
        {
            "initialisations": {"imagenet": {"layout": "timm", "file": str(weights)}},
            "pretraining": {"recipe": {"lr": 1e-3}},
            "tables": {**FEW_ROWS, "table2": {"rows": rows}},
            "figures": {"explained": ""},
        },
    )
    study.snakemake("--cores", "2")
    results = study.folder / "results"
    assert len(read_csv(results / "tables" / "table2.csv")) == 2
    assert "not possible: no patient was held out" in (results / "synthesis" / "privacy.html").read_text()
    assert (results / "report.html").stat().st_size > 100_000
    shutil.unpack_archive(results / "release" / "synthetic.zip", tmp_path / "unpacked")
    assert "Not audited for copies" in (tmp_path / "unpacked" / "README.md").read_text()
