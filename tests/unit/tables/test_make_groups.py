"""Results by scanner and centre."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from tests.unit.finetuning.test_metrics import CLASSES
from tests.unit.tables.test_make_levels import predicted, store
from workflow_scripts.core.files import read_csv, write_csv
from workflow_scripts.finetuning.predictions import decide
from workflow_scripts.runtime.cli import run
from workflow_scripts.tables import make_groups as stage
from workflow_scripts.tables.rows import Row


def grouped(patients: int = 160) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Index with two scanners, and predictions that are right on scanner A and chance on scanner B."""
    index = store(patients)
    index["scanner"] = np.where(index["patient_id"].astype(int) % 4 < 3, "A", "B")
    views = predicted(index)
    truth = views["label_original"] == CLASSES[1]
    on_a = views["view_id"].map(index.set_index("view_id")["scanner"]) == "A"
    views["probability"] = np.where(on_a, 0.8 * truth + 0.1, views["probability"])
    return index, views.assign(prediction=decide(views["probability"].to_numpy(), CLASSES))


def test_groups_are_scored_by_patient_with_their_difference_to_the_rest() -> None:
    index, views = grouped()
    values = stage.group_numbers([Row("UD", "ud-flipped")], {"ud-flipped": views}, index, ["scanner"], CLASSES)
    values = values.set_index("group")
    assert values["patients"].to_dict() == {"A": 120, "B": 40}
    assert values["views"].to_dict() == {"A": 480, "B": 160}
    on_b = (
        index[index["scanner"] == "B"].groupby("patient_id")["label"].agg(lambda labels: (labels == CLASSES[1]).any())
    )
    assert values.loc["B", "positives"] == on_b.sum()
    mean = views[views["patient_id"].isin(on_b.index)].groupby(["seed", "patient_id"])["probability"].mean()
    by_seed = [sk.roc_auc_score(on_b[part.index.get_level_values(1)], part) for _, part in mean.groupby("seed")]
    assert values.loc["B", "auroc"] == pytest.approx(100 * np.mean(by_seed))
    assert values.loc["A", "difference"] == pytest.approx(values.loc["A", "auroc"] - values.loc["B", "auroc"])
    assert values.loc["A", "difference"] == pytest.approx(-values.loc["B", "difference"])
    assert (values["auroc_low"] <= values["auroc"]).all()
    assert (values["auroc"] <= values["auroc_high"]).all()
    assert values.loc["A", "difference_low"] > 0


def test_stage_and_a_group_of_one_class(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    index, views = grouped(12)
    negative = index.groupby("patient_id")["label"].agg(lambda labels: (labels == CLASSES[0]).all())
    index["centre"] = np.where(index["patient_id"] == negative.idxmax(), "lonely", "large")
    write_csv(index, tmp_path / "index.csv")
    write_csv(views, tmp_path / "predictions.csv")
    flags = ["--rows", json.dumps([{"name": "UD", "experiment": "ud-flipped"}]), "--experiments", "ud-flipped",
             "--predictions", f"{tmp_path}/predictions.csv", "--index", f"{tmp_path}/index.csv", "--groups", "scanner", "centre",
             "--split-by", "scanner", "--classes", *CLASSES, "--origin", "PHANTOM",
             *(f"--output-{kind}={tmp_path}/out.{kind}" for kind in ("csv", "md", "tex", "html"))]  # fmt: skip
    run(stage.main, stage.parser(), flags)
    values = read_csv(tmp_path / "out.csv")
    assert values["group"].tolist() == ["A", "B", "large", "lonely"]
    page = (tmp_path / "out.md").read_text()
    assert "Each fold is one scanner" in page
    assert "| UD | scanner: A | 9 |" in page
    assert "|  | centre: lonely | 1 | 0 | – | – |" in page
    write_csv(index.drop(columns="scanner"), tmp_path / "index.csv")
    with pytest.raises(SystemExit):
        run(stage.main, stage.parser(), flags)
    assert "has no column scanner; crop the views again" in capsys.readouterr().err
