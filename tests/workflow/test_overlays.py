"""The paper as printed and the code as released run to their end, without held-out patients."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from tests.shared import REPOSITORY
from tests.workflow.study import Study, smallest_study
from workflow_scripts.core.files import read_csv

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

STUDIES = REPOSITORY / "studies"


def overlaid(study: Study, overlay: str, rows: list[dict], more: dict) -> Study:
    """A study with an overlay below its own changes, a table 2 of these rows, and `more`."""
    changes = {
        "tables": {
            "table1": {"rows": []},
            "table1_protocols": {"rows": []},
            "table2": {"rows": rows},
            "table3": {"rows": []},
            "table4": {"rows": []},
        },
        "figures": {"explained": ""},
        **more,
    }
    return replace(study, changes=[STUDIES / f"{overlay}.yaml", *study.changes]).change("overlaid", changes)


def require_report_and_release_without_audit(results: Path, unpacked: Path) -> None:
    assert (results / "report.html").stat().st_size > 100_000
    assert "not possible: no patient was held out" in (results / "index.html").read_text(encoding="utf-8")
    assert "not possible: no patient was held out" in (results / "synthesis" / "privacy.html").read_text()
    shutil.unpack_archive(results / "release" / "synthetic.zip", unpacked)
    assert "Not audited for copies" in (unpacked / "README.md").read_text()


def test_the_paper_as_printed_runs_to_report_and_release(finished: Study, tmp_path: Path):
    """On what the smallest study has made: its generator, which held patients out, and what comes after it are made again."""
    shutil.copytree(finished.folder, tmp_path / "study", symlinks=True)
    rows = [{"init": "ud", "labels": "complete"}, {"init": "ud_lars_0_001", "labels": "complete"}]
    study = overlaid(replace(finished, folder=tmp_path / "study"), "paper", rows, {})
    study.snakemake("--cores", "2")
    results = study.folder / "results"
    assert len(read_csv(results / "tables" / "table2.csv")) == 2
    require_report_and_release_without_audit(results, tmp_path / "unpacked")


def test_the_code_as_released_runs_to_report_and_release(tmp_path: Path):
    study = smallest_study(tmp_path / "study")
    # A stand-in for ImageNet's weights, with which every pretraining of the released code begins.
    weights = tmp_path / "imagenet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    rows = [{"init": "ud", "labels": "complete"}, {"init": "scratch", "labels": "complete"}]
    more = {
        "initialisations": {"imagenet": {"layout": "timm", "file": str(weights)}},
        "pretraining": {"recipe": {"lr": 1e-3}},
    }
    study = overlaid(study, "released", rows, more)
    study.snakemake("--cores", "2")
    results = study.folder / "results"
    assert "PATIENTS ARE SPLIT between folds" in (results / "tables" / "table2.md").read_text(encoding="utf-8")
    require_report_and_release_without_audit(results, tmp_path / "unpacked")
