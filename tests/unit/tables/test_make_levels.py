"""From views to organ sides and patients: units, truths, metrics, and the stage."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from tests.unit.finetuning.test_metrics import CLASSES
from tests.unit.tables.test_tables import Cells
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv
from workflow_scripts.finetuning.predictions import PREDICTION_COLUMNS, decide
from workflow_scripts.tables import make_levels as aggregate
from workflow_scripts.tables.make_levels import (
    SHOWN,
    level_numbers,
    named_organ_sides,
    organ_side_predictions,
    organ_side_truths,
    patient_predictions,
)
from workflow_scripts.tables.rows import Row

organ_side_predictions.__test__ = organ_side_truths.__test__ = False  # type: ignore[attr-defined]


def store(patients: int = 12) -> pd.DataFrame:
    """Index of two organ sides of two views per patient; the last patient's sides are unknown."""
    draw = np.random.default_rng(0)
    sides = list(itertools.product(range(patients), ("left", "right")))
    labels = draw.choice(CLASSES, len(sides), p=[0.6, 0.4])
    rows = [
        {
            "view_id": f"{patient}_{side}#{view}", "image_id": f"{patient}_{side}", "patient_id": f"{patient:03d}",
            "label": label, "side": "" if patient == patients - 1 else side, "view": view,
        }
        for (patient, side), label in zip(sides, labels, strict=True)
        for view in ("transverse", "sagittal")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def predicted(index: pd.DataFrame, seed: int = 0, seeds: int = 2) -> pd.DataFrame:
    """Random predictions of every view of `index` in three folds of patients."""
    draw = np.random.default_rng(seed)
    parts = []
    for s in range(seeds):
        probability = draw.random(len(index))
        fold = (pd.factorize(index["patient_id"])[0] + s) % 3
        part = index[["view_id", "patient_id"]].assign(
            fold=fold, seed=s, label_original=index["label"], label_policy=index["label"], kept=1,
            probability=probability, prediction=decide(probability, CLASSES),
        )  # fmt: skip
        parts.append(part[PREDICTION_COLUMNS])
    return pd.concat(parts, ignore_index=True)


def test_names_of_organ_sides_are_patient_and_side() -> None:
    index = store()
    names = named_organ_sides(index).set_index("view_id")["organ_side"]
    assert names["0_left#transverse"] == names["0_left#sagittal"] == "000 left"
    assert names["11_left#sagittal"] == "011 frame 1"
    assert names["11_right#sagittal"] == "011 frame 2"
    assert names.nunique() == 24


def test_units_by_a_slow_loop() -> None:
    index = store()
    views = predicted(index)
    organ_sides = organ_side_predictions(views, index, CLASSES)
    patients = patient_predictions(views, organ_sides, CLASSES)
    assert len(organ_sides) == 2 * 24
    assert len(patients) == 2 * 12
    image = index.set_index("view_id")["image_id"]
    for (frame, seed), mine in views.groupby([views["view_id"].map(image), "seed"]):
        patient, side = frame.split("_")
        name = f"{patient.zfill(3)} {side}" if patient != "11" else f"011 frame {1 + (side == 'right')}"
        row = organ_sides[(organ_sides["organ_side"] == name) & (organ_sides["seed"] == seed)].iloc[0]
        assert row["views"] == 2
        assert row["probability"] == pytest.approx(sum(mine["probability"]) / 2)
        assert row["prediction"] == ("pos" if row["probability"] > 0.5 else "neg")
        assert row["truth"] == mine["label_original"].iloc[0]
        assert row["fold"] == mine["fold"].iloc[0]
    for (patient, seed), mine in views.groupby(["patient_id", "seed"]):
        row = patients[(patients["patient_id"] == patient) & (patients["seed"] == seed)].iloc[0]
        assert row["views"] == 4
        assert row["probability"] == pytest.approx(mine["probability"].mean())
        assert row["truth"] == ("pos" if (mine["label_original"] == "pos").any() else "neg")


def test_views_that_disagree() -> None:
    index = pd.DataFrame(
        {
            "view_id": list("abcdef"), "image_id": list("aabbcc"), "patient_id": ["1"] * 2 + ["2"] * 3 + ["3"],
            "side": "left", "label": ["pos", "neg", "neg", "neg", "pos", "neg"],
        }
    )  # fmt: skip
    truth, disagreeing = organ_side_truths(index, CLASSES)
    assert truth.to_dict() == {"1 left": "pos", "2 left": "neg", "3 left": "neg"}
    assert disagreeing == 2


def test_a_patient_is_positive_by_its_organ_sides_not_by_its_views() -> None:
    # One view of three is labelled positive: the organ side is not, so the patient is not.
    index = pd.DataFrame(
        {"view_id": list("abc"), "image_id": "i", "patient_id": "1", "side": "left", "label": ["neg", "neg", "pos"]}
    )
    views = predicted(index, seeds=1)
    organ_sides = organ_side_predictions(views, index, CLASSES)
    assert patient_predictions(views, organ_sides, CLASSES)["truth"].tolist() == ["neg"]


def test_units_that_no_fold_predicts_as_a_whole_are_refused() -> None:
    index = store()
    views = predicted(index)
    views.loc[0, "fold"] = (views.loc[0, "fold"] + 1) % 3
    with pytest.raises(UserError, match="views of one organ side lie in several folds"):
        organ_side_predictions(views, index, CLASSES)
    with pytest.raises(UserError, match="0_left#transverse, which the index lacks"):
        organ_side_predictions(predicted(index), index[1:], CLASSES)


def test_metrics_equal_scikit_learn_at_each_level() -> None:
    index = store(24)
    views = predicted(index)
    organ_sides = organ_side_predictions(views, index, CLASSES)
    patients = patient_predictions(views, organ_sides, CLASSES)
    units = {"x": {"view": views, "organ_side": organ_sides, "patient": patients}}
    values = level_numbers([Row("X", "x")], units, "pos", "runs").set_index("level")
    assert values["units"].to_dict() == {"view": 96, "organ_side": 48, "patient": 24}
    for level, column in (("view", "label_original"), ("organ_side", "truth"), ("patient", "truth")):
        table = units["x"][level]
        runs = [
            (run[column] == "pos", run["prediction"] == "pos", run["probability"])
            for _, run in table.groupby(["seed", "fold"])
        ]
        assert all(truth.nunique() == 2 for truth, _, _ in runs)
        expected = {
            "accuracy": [sk.accuracy_score(t, d) for t, d, _ in runs],
            "f1": [sk.f1_score(t, d) for t, d, _ in runs],
            "balanced_accuracy": [sk.balanced_accuracy_score(t, d) for t, d, _ in runs],
            "auroc": [sk.roc_auc_score(t, p) for t, _, p in runs],
        }
        for metric in SHOWN:
            assert values.loc[level, f"{metric}_mean"] == pytest.approx(100 * np.mean(expected[metric]))
            assert values.loc[level, f"{metric}_std"] == pytest.approx(100 * np.std(expected[metric], ddof=1))


def make(tmp_path, index: pd.DataFrame, *words: str) -> dict[str, str]:
    """Run the stage on two experiments; the texts of its outputs."""
    files = []
    for i, name in enumerate(("ud-flipped", "majority-flipped")):
        for seed, part in predicted(index, i).groupby("seed"):
            files.append(tmp_path / f"{name}_{seed}.csv")
            write_csv(part, files[-1])
    write_csv(index, tmp_path / "index.csv")
    rows = [
        {"name": "UD", "experiment": "ud-flipped", "init": "ud"},
        {"name": "majority class", "experiment": "majority-flipped", "init": "majority"},
    ]
    outputs = {
        name: tmp_path / f"out_{name}.{name if len(name) < 5 else 'csv'}"
        for name in ("organ_sides", "patients", "csv", "md", "tex", "html")
    }
    arguments = [
        "--rows", json.dumps(rows), "--experiments", "ud-flipped", "majority-flipped",
        "--predictions", *map(str, files), "--index", str(tmp_path / "index.csv"), "--classes", *CLASSES, *words,
        *itertools.chain.from_iterable((f"--output-{name.replace('_', '-')}", str(path)) for name, path in outputs.items()),
    ]  # fmt: skip
    aggregate.main(aggregate.parser().parse_args(arguments))
    return {name: path.read_text(encoding="utf-8") for name, path in outputs.items()}


def test_stage(tmp_path, capsys) -> None:
    index = store()
    index.loc[0, "label"] = "neg" if index.loc[1, "label"] == "pos" else "pos"
    texts = make(tmp_path, index, "--origin", "PHANTOM")
    assert all("PHANTOM" in text for text in texts.values())
    assert "organ sides whose views are labelled unlike: 1" in capsys.readouterr().err
    assert "(organ sides that disagree: 1)" in texts["md"]
    organ_sides = read_csv(tmp_path / "out_organ_sides.csv")
    assert list(organ_sides.columns) == [
        "experiment", "organ_side", "patient_id", "fold", "seed", "views", "probability", "truth", "prediction", "origin",
    ]  # fmt: skip
    assert len(organ_sides) == 2 * 2 * 24
    patients = read_csv(tmp_path / "out_patients.csv")
    assert set(patients["experiment"]) == {"ud-flipped", "majority-flipped"}
    assert patients["patient_id"].iloc[0] == "000"
    # No image, path or device is named beyond patient and side.
    assert not {"view_id", "image_id", "device", "path"} & {*organ_sides.columns, *patients.columns}
    cells = Cells(texts["html"]).rows
    assert cells[0] == ["pretraining", "level", "units", "pos", "accuracy", "F1", "balanced accuracy", "AUROC"]
    assert [row[:3] for row in cells[1:4]] == [["UD", "view", "48"], ["", "organ side", "24"], ["", "patient", "12"]]
    values = read_csv(tmp_path / "out_csv.csv")
    assert cells[2][4] == f"{values.loc[1, 'accuracy_mean']:.2f} ± {values.loc[1, 'accuracy_std']:.2f}"
    assert not any(math.isnan(value) for value in values["auroc_mean"])


def test_organ_sides_of_one_view_each_are_no_level_of_their_own(tmp_path) -> None:
    index = store().drop_duplicates("image_id", ignore_index=True)
    texts = make(tmp_path, index)
    assert [row[1] for row in Cells(texts["html"]).rows[1:]] == 2 * ["view", "patient"]
    assert "No organ side has more than one view" in texts["md"]
    assert len(read_csv(tmp_path / "out_organ_sides.csv")) == 2 * 2 * 24


def test_stage_needs_sides(tmp_path) -> None:
    with pytest.raises(UserError, match=r"index.csv has no column side"):
        make(tmp_path, store().drop(columns="side"))
