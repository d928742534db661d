"""The learning curve: which patients a share holds, the points, and the stage."""

import numpy as np
import pytest
from PIL import Image

from tests.unit.finetuning.test_metrics import CLASSES, predictions
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_csv
from workflow_scripts.finetuning.predictions import decide
from workflow_scripts.networks.fold_inputs import fewer_patients
from workflow_scripts.study.experiments import Experiment, learning_experiments, training_percent
from workflow_scripts.tables import draw_learning_curve
from workflow_scripts.tables.draw_learning_curve import last_step, learning_points


def test_a_share_holds_patients_of_both_classes_and_those_of_smaller_shares() -> None:
    patients = [f"p{i // 2:02d}" for i in range(80)]
    positive = np.arange(80) // 2 < 10
    folds = np.arange(80) // 2 % 2
    targets = {fold: np.where(folds != fold, positive.astype(np.int64), -1) for fold in (0, 1)}
    held: dict[tuple[int, int], set[str]] = {}
    for percent in (1, 25, 50, 100):
        fewer = fewer_patients(targets, patients, percent, seed=3)
        for fold, learnt in fewer.items():
            assert set(np.unique(learnt)) == {-1, 0, 1}
            np.testing.assert_array_equal(learnt[learnt >= 0], targets[fold][learnt >= 0])
            chosen = {name for name, value in zip(patients, learnt, strict=True) if value >= 0}
            held[percent, fold] = chosen
            # Every view of a chosen patient is learnt, and of 5 positive and 15 negative patients the share, rounded up.
            assert (learnt >= 0).sum() == 2 * len(chosen)
            assert len(chosen) == {1: 2, 25: 2 + 4, 50: 3 + 8, 100: 20}[percent]
    for fold in (0, 1):
        assert held[1, fold] < held[25, fold] < held[50, fold] < held[100, fold]
    assert fewer_patients(targets, patients, 50, 4)[0].tolist() != fewer_patients(targets, patients, 50, 3)[0].tolist()
    with pytest.raises(UserError, match="--training-percent 0"):
        fewer_patients(targets, patients, 0, 3)


def test_the_experiments_of_a_curve() -> None:
    figures = {"learning_curve": "ud", "learning_percents": [50, 25], "explained": ""}
    config = {"figures": figures, "finetuning": {"labels": "flipped"}}
    found = learning_experiments(config)
    assert {percent: experiment.name for percent, experiment in found.items()} == {
        25: "ud-flipped-patients25", 50: "ud-flipped-patients50", 100: "ud-flipped",
    }  # fmt: skip
    assert [training_percent(experiment, {}) for experiment in found.values()] == [25, 50, None]
    assert training_percent(Experiment("ud", "flipped", "unaugmented"), {}) is None
    assert learning_experiments({**config, "figures": {**figures, "learning_curve": ""}}) == {}


def curve() -> list:
    """Predictions of two experiments, the second with a tenth of the errors."""
    base = predictions()
    right, draw = (base["label_policy"] == "pos").to_numpy(), np.random.default_rng(0)
    tables = []
    for errors in (0.5, 0.05):
        probability = np.where(right ^ (draw.random(len(base)) < errors), 0.9, 0.1)
        tables.append(base.assign(probability=probability, prediction=decide(probability, CLASSES)))
    return tables


def test_points_and_the_last_step() -> None:
    tables = curve()
    few, all_of_them = learning_points([50, 100], tables, "pos")
    assert few.low < few.accuracy < few.high < all_of_them.accuracy
    kept = tables[0][tables[0]["kept"] == 1]
    by_run = (kept["prediction"] == kept["label_policy"]).groupby([kept["seed"], kept["fold"]]).mean()
    assert few.accuracy == pytest.approx(100 * by_run.mean())
    step = f"+{all_of_them.accuracy - few.accuracy:.2f} points (corrected 95 % interval "
    assert last_step([50, 100], tables, "pos").startswith(f"from 50 % to 100 % of the patients: {step}")


def test_the_stage(tmp_path) -> None:
    for name, table in zip(("ud-flipped-patients50", "ud-flipped"), curve(), strict=True):
        write_csv(table, tmp_path / f"{name}.csv")

    def words(*percents: int) -> list[str]:
        names = ["ud-flipped-patients50", "ud-flipped"]
        files = [tmp_path / f"{name}.csv" for name in names]
        flags = ["--experiments", *names, "--percents", *percents, "--predictions", *files, "--classes", *CLASSES]
        return [str(word) for word in [*flags, "--output-figure", tmp_path / "curve.png"]]

    draw_learning_curve.main(draw_learning_curve.parser().parse_args(words(50, 100)))
    assert Image.open(tmp_path / "curve.png").size[0] > 900
    for wrong in ((100, 50), (50, 50), (50, 75, 100)):
        with pytest.raises(UserError, match="ascending percentages"):
            draw_learning_curve.main(draw_learning_curve.parser().parse_args(words(*wrong)))
