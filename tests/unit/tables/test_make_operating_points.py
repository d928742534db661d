"""Thresholds, what they reach, and the curves behind them."""

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
from workflow_scripts.tables import make_operating_points as stage


def informed(index: pd.DataFrame, seeds: int = 2) -> pd.DataFrame:
    """Predictions that know something."""
    views = predicted(index, seeds=seeds)
    truth = views["label_original"] == CLASSES[1]
    views["probability"] = 0.35 * truth + 0.65 * views["probability"]
    return views.assign(prediction=decide(views["probability"].to_numpy(), CLASSES))


@pytest.mark.parametrize("value", [0.05, 0.5, 0.8, 0.9, 1.0])
def test_a_threshold_reaches_what_is_wanted_and_no_better_one_does(value: float) -> None:
    draw = np.random.default_rng(0)
    truth = draw.random(90) < 0.3
    probability = np.round(np.clip(0.3 * truth + draw.random(90) * 0.7, 0, 1), 2)
    candidates = np.unique(np.append(probability, 1.01))
    sensitive = stage.choose_threshold(probability, truth, "sensitivity", value)
    assert (probability[truth] >= sensitive).mean() >= value
    assert all((probability[truth] >= higher).mean() < value for higher in candidates[candidates > sensitive])
    specific = stage.choose_threshold(probability, truth, "specificity", value)
    assert (probability[~truth] < specific).mean() >= value
    assert all((probability[~truth] < lower).mean() < value for lower in candidates[candidates < specific - 1e-9])
    assert stage.choose_threshold(probability, np.zeros(90, bool), "sensitivity", value) == 0.5


def test_predictive_values_by_hand() -> None:
    # Of 1000 patients 100 have it: 90 are found, 90 of 900 are alarmed without reason.
    values = stage.predictive_values(np.array([0.9, 0.0]), np.array([0.9, 1.0]), 0.1)
    assert values["ppv"][0] == pytest.approx(90 / 180)
    assert values["npv"][0] == pytest.approx(810 / 820)
    assert np.isnan(values["ppv"][1])
    assert values["npv"][1] == pytest.approx(0.9)


def test_a_folds_threshold_is_chosen_on_the_other_folds() -> None:
    index = store(30)
    units = stage.by_level(informed(index), index, CLASSES)["view"]
    rules = [("", 0.5), ("sensitivity", 0.9), ("specificity", 0.8)]
    points = stage.operating_points(units, rules, None)
    for point, (wanted, value) in zip(points, rules, strict=True):
        called, thresholds = np.zeros(len(units), bool), []
        for (seed, fold), part in units.groupby(["seed", "fold"]):
            rest = units[(units["seed"] == seed) & (units["fold"] != fold)]
            arguments = (rest["probability"].to_numpy(), rest["positive"].to_numpy(), wanted, value)
            thresholds.append(stage.choose_threshold(*arguments) if wanted else np.nextafter(0.5, 1))
            called[part.index] = part["probability"] >= thresholds[-1]
        found = units.assign(called=called)
        by_seed = [sk.recall_score(part["positive"], part["called"]) for _, part in found.groupby("seed")]
        assert point["sensitivity"] == pytest.approx(100 * np.mean(by_seed))
        by_seed = [sk.recall_score(~part["positive"], ~part["called"]) for _, part in found.groupby("seed")]
        assert point["specificity"] == pytest.approx(100 * np.mean(by_seed))
        assert point["threshold"] == pytest.approx(np.mean(thresholds))
        assert point["sensitivity_low"] <= point["sensitivity"] <= point["sensitivity_high"]
    share = units["positive"].mean()
    ppv = stage.predictive_values(
        np.array([points[0]["sensitivity"] / 100]), np.array([points[0]["specificity"] / 100]), share
    )
    assert points[0]["ppv"] == pytest.approx(100 * ppv["ppv"][0])
    assert points[0]["prevalence"] == pytest.approx(share)
    assert stage.operating_points(units, rules[:1], 0.1)[0]["prevalence"] == 0.1


def test_curves_by_scikit_learn() -> None:
    index = store(40)
    units = stage.by_level(informed(index, seeds=1), index, CLASSES)["patient"]
    truth, probability = units["positive"].to_numpy(), units["probability"].to_numpy()
    drawn = stage.drawn_curves(units, draws=20)
    assert all(curve.shape == (21, 101) for curve in drawn.values())
    false, hit, _ = sk.roc_curve(truth, probability, drop_intermediate=False)
    np.testing.assert_allclose(drawn["roc"][0], np.interp(stage.GRID, false, hit))
    threshold = 0.25 * stage.HIGHEST_THRESHOLD
    called = probability > threshold
    benefit = (called & truth).mean() - threshold / (1 - threshold) * (called & ~truth).mean()
    assert drawn["benefit"][0, 25] == pytest.approx(benefit)
    assert drawn["all"][0, 0] == pytest.approx(truth.mean())
    everyone = probability >= probability[truth].min()
    assert drawn["precision"][0, -1] == pytest.approx(sk.precision_score(truth, everyone))


def test_stage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    index = store(30)
    write_csv(index, tmp_path / "index.csv")
    write_csv(informed(index), tmp_path / "predictions.csv")
    flags = ["--table=table2", "--rows", json.dumps([{"name": "UD", "experiment": "ud-flipped", "paper": "ud"}]),
             "--experiments", "ud-flipped", "--predictions", f"{tmp_path}/predictions.csv", "--index", f"{tmp_path}/index.csv",
             "--sensitivities", "0.9", "--specificities", "0.9", "--classes", *CLASSES, "--origin", "PHANTOM",
             *(f"--output-{kind}={tmp_path}/out.{kind}" for kind in ("csv", "md", "tex", "html")),
             f"--output-figure={tmp_path}/out.png"]  # fmt: skip
    run(stage.main, stage.parser(), [*flags, "--prevalence", "0.2"])
    values = read_csv(tmp_path / "out.csv")
    assert len(values) == 9
    assert values["level"].unique().tolist() == ["view", "organ_side", "patient"]
    assert (values["prevalence"] == 0.2).all()
    page = (tmp_path / "out.md").read_text()
    assert "| UD | view | threshold 0.5 | 0.50 |" in page
    assert "sensitivity ≥ 90 %" in page
    assert "a prevalence of 20 %" in page
    assert "No organ side" not in page
    assert (tmp_path / "out.png").stat().st_size > 50_000
    with pytest.raises(SystemExit):
        run(stage.main, stage.parser(), [*flags, "--prevalence", "1.5"])
    assert "--prevalence 1.5 is not above 0 and at most 1" in capsys.readouterr().err


def test_organ_sides_of_one_view_each_are_no_level_of_their_own() -> None:
    index = store(6).drop_duplicates("image_id", ignore_index=True)
    units = stage.by_level(informed(index), index, CLASSES)
    assert list(units) == ["view", "patient"]
    values = pd.DataFrame([{"name": "UD", "level": name, **stage.operating_points(unit, [("", 0.5)], None)[0]}
                           for name, unit in units.items()])  # fmt: skip
    assert stage.layout(values, "pos", None, "").notes[-1].startswith("No organ side has more than one view")
