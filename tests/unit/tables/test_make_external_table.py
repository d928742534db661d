"""The external test: metrics under redraws of the patients, pooling, near-duplicates, and the stage."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from tests.unit.finetuning.test_metrics import CLASSES
from tests.unit.tables.test_make_levels import predicted, store
from workflow_scripts.core.files import read_csv, write_csv
from workflow_scripts.core.statistics import times_drawn, with_interval
from workflow_scripts.finetuning.calibration import brier, expected_calibration_error
from workflow_scripts.runtime.cli import run
from workflow_scripts.tables import make_external_table as stage
from workflow_scripts.tables.redraws import drawn_scores


def test_metrics_of_redraws_are_those_of_the_repeated_units() -> None:
    draw = np.random.default_rng(0)
    truth = draw.random(40) < 0.4
    probability = np.round(np.clip(0.3 * truth + 0.7 * draw.random(40), 0, 1), 1)  # with ties
    times = times_drawn(40, draws=5)
    assert (times[0] == 1).all()
    assert (times.sum(axis=1) == 40).all()
    drawn = drawn_scores(probability, truth, times)
    for i, each in enumerate(times):
        p, y = np.repeat(probability, each), np.repeat(truth, each)
        expected = {
            "auroc": sk.roc_auc_score(y, p),
            "accuracy": sk.accuracy_score(y, p > 0.5),
            "sensitivity": sk.recall_score(y, p > 0.5),
            "specificity": sk.recall_score(~y, p <= 0.5),
            "ece": expected_calibration_error(p, y),
            "brier": brier(p, y),
            "excess": p.mean() - y.mean(),
        }
        assert {name: values[i] for name, values in drawn.items()} == pytest.approx(expected)


def test_what_a_redraw_cannot_measure_does_not_count() -> None:
    drawn = drawn_scores(np.array([0.2, 0.9]), np.array([False, True]), np.array([[1, 1], [2, 0], [1, 1], [0, 2]]))
    np.testing.assert_array_equal(drawn["auroc"], [1, np.nan, 1, np.nan])
    assert with_interval("auroc", drawn["auroc"]) == {"auroc": 1, "auroc_low": 1, "auroc_high": 1}
    alone = drawn_scores(np.array([0.2, 0.9]), np.array([False, False]), np.ones((3, 2)))
    assert np.isnan(list(with_interval("auroc", alone["auroc"]).values())).all()


def external(index: pd.DataFrame, noise: float, seed: int = 0) -> pd.DataFrame:
    """Predictions of four networks, the better the less noise."""
    draw = np.random.default_rng(seed)
    truth = (index["label"] == CLASSES[1]).to_numpy()
    parts = []
    for s in range(2):
        for fold in range(2):
            probability = 1 / (1 + np.exp(-(2 * truth - 1 + noise * draw.normal(size=len(index)))))
            part = index[["view_id", "patient_id", "label"]].assign(seed=s, fold=fold, probability=probability)
            parts.append(part.sample(frac=1, random_state=0))
    return pd.concat(parts, ignore_index=True)


def test_a_patient_has_the_mean_over_views_of_the_mean_logit() -> None:
    index = store()
    table = external(index, 1.0)
    patients = stage.pooled_patients(table, index, CLASSES).set_index("patient_id")
    assert len(patients) == 12
    for patient, part in table.groupby("patient_id"):
        logits = np.log(part["probability"] / (1 - part["probability"])).groupby(part["view_id"]).mean()
        assert patients.loc[patient, "probability"] == pytest.approx((1 / (1 + np.exp(-logits))).mean())
        assert (patients.loc[patient, "truth"] == CLASSES[1]) == (part["label"] == CLASSES[1]).any()


def flags(tmp_path: Path, pairs: list[dict], study: bool = True) -> list[str]:
    """Two rows, one of noise, on twelve external patients."""
    index, home = store(), store()
    write_csv(index, tmp_path / "index.csv")
    write_csv(home, tmp_path / "home.csv")
    for name, noise in (("good-complete", 0.5), ("bad-complete", 30.0)):
        write_csv(external(index, noise), tmp_path / f"{name}.csv")
        write_csv(predicted(home), tmp_path / f"{name}_study.csv")
    columns = ["set_a", "view_a", "patient_a", "set_b", "view_b", "patient_b", "hash_distance", "distance"]
    write_csv(pd.DataFrame(pairs, columns=columns), tmp_path / "pairs.csv")
    names = ["good-complete", "bad-complete"]
    rows = [{"name": "good", "experiment": names[0], "paper": "ud"}, {"name": "bad", "experiment": names[1]}]
    shown = ["--study-predictions", *(f"{tmp_path}/{name}_study.csv" for name in names)] if study else []
    outputs = [f"--output-{kind}={tmp_path}/out.{kind}" for kind in ("csv", "md", "tex", "html")]
    figures = [f"--output-{kind}={tmp_path}/{kind}.png" for kind in ("figure", "calibration")]
    return ["--table=table2", "--external=b", "--title=Hospital B", f"--rows={json.dumps(rows)}", "--experiments", *names,
            "--predictions", *(f"{tmp_path}/{name}.csv" for name in names), f"--index={tmp_path}/index.csv", *shown,
            f"--real-index={tmp_path}/home.csv", f"--pairs={tmp_path}/pairs.csv", "--classes", *CLASSES, "--origin=PHANTOM",
            *outputs, *figures]  # fmt: skip


def pair(**values: str) -> dict:
    return {"view_a": "x", "view_b": "y", "hash_distance": 3, "distance": 0.01, **values}


def test_rows_are_scored_by_patient_beside_the_study(tmp_path: Path) -> None:
    run(stage.main, stage.parser(), flags(tmp_path, []))
    values = read_csv(tmp_path / "out.csv").set_index("name")
    index = store()
    truth = index.groupby("patient_id")["label"].agg(lambda labels: (labels == CLASSES[1]).any())
    assert values.loc["good", ["patients", "positives", "views", "networks"]].tolist() == [12, truth.sum(), 48, 4]
    assert values.loc["good", "auroc"] > values.loc["bad", "auroc"]
    assert values.loc["good", "network_auroc_mean"] > 0
    assert np.isnan(values.loc["good", "difference"])
    assert values.loc["bad", "difference"] == pytest.approx(values.loc["bad", "auroc"] - values.loc["good", "auroc"])
    for metric in stage.HEADERS:
        assert (values[f"{metric}_low"] <= values[f"{metric}_high"]).all()
    home = predicted(store())
    mean = home.groupby(["seed", "patient_id"])["probability"].mean()
    by_seed = [sk.roc_auc_score(truth.loc[part.index.get_level_values(1)], part) for _, part in mean.groupby("seed")]
    assert values.loc["good", "study_auroc"] == pytest.approx(100 * np.mean(by_seed))
    page = (tmp_path / "out.html").read_text()
    assert "PHANTOM" in page
    assert "external test on Hospital B" in page
    for figure in ("figure.png", "calibration.png"):
        assert (tmp_path / figure).stat().st_size > 10_000


def test_near_duplicates_of_the_study_are_left_out_and_listed(tmp_path: Path) -> None:
    pairs = [
        pair(set_a="labelled", patient_a="P7", set_b="external/b", patient_b="003"),
        pair(set_a="external/b", patient_a="005", set_b="thyroid", patient_b=""),
        pair(set_a="external/b", patient_a="001", set_b="external/b", patient_b="002"),
        pair(set_a="external/a", patient_a="001", set_b="external/b", patient_b="002"),
        pair(set_a="labelled", patient_a="P1", set_b="labelled", patient_b="P2"),
    ]
    run(stage.main, stage.parser(), flags(tmp_path, pairs, study=False))
    values = read_csv(tmp_path / "out.csv")
    assert (values["patients"] == 10).all()
    assert values["study_auroc"].isna().all()
    assert (
        "near-duplicates of the study's (checks/near\\_duplicates.csv): 003, 005." in (tmp_path / "out.md").read_text()
    )


def test_patients_seen_without_labels_stay_unless_a_labelled_view_is_theirs(tmp_path: Path) -> None:
    pairs = [
        pair(set_a="labelled", patient_a="P7", set_b="external/b", patient_b="003"),
        pair(set_a="external/b", patient_a="005", set_b="testicle", patient_b="005"),
    ]
    run(stage.main, stage.parser(), [*flags(tmp_path, pairs), "--seen-without-labels"])
    assert (read_csv(tmp_path / "out.csv")["patients"] == 11).all()
    text = (tmp_path / "out.md").read_text()
    assert "whose labels no stage of this study has seen, though pretraining may have seen the views" in text
    assert "no stage of this study has seen, 0" not in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.iloc[1:], "did not predict each view of the external index once"),
        (lambda table: table.assign(probability=np.nan), "column probability, row 1"),
        (lambda table: table.assign(probability=1.5), "not numbers between 0 and 1"),
    ],
)
def test_predictions_of_other_views_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture, damage, message) -> None:
    arguments = flags(tmp_path, [])
    write_csv(damage(read_csv(tmp_path / "bad-complete.csv")), tmp_path / "bad-complete.csv")
    with pytest.raises(SystemExit):
        run(stage.main, stage.parser(), arguments)
    assert message in capsys.readouterr().err


def test_when_all_patients_are_duplicates_no_table_is_made(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    everyone = sorted(set(store()["patient_id"]))
    pairs = [
        pair(set_a="labelled", patient_a="P", set_b="external/b", view_b=patient, patient_b=patient)
        for patient in everyone
    ]
    with pytest.raises(SystemExit):
        run(stage.main, stage.parser(), flags(tmp_path, pairs))
    assert "none is left for an external test" in capsys.readouterr().err
