"""Fusion of the views of an organ side."""

from pathlib import Path

import numpy as np
import pytest

from tests.unit.finetuning.test_metrics import CLASSES
from tests.unit.tables.test_make_levels import predicted, store
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv
from workflow_scripts.core.statistics import corrected_paired_test
from workflow_scripts.finetuning import fuse_views as stage
from workflow_scripts.finetuning.predictions import EXTERNAL_COLUMNS, PREDICTION_COLUMNS, check_predictions, decide
from workflow_scripts.runtime.cli import run
from workflow_scripts.tables.rows import Row
from workflow_scripts.tables.tables import numbers


def test_the_views_of_a_side_share_the_sigmoid_of_their_mean_logit(tmp_path: Path) -> None:
    index = store(5)
    single = predicted(index).sample(frac=1, random_state=0, ignore_index=True)
    write_csv(index, tmp_path / "index.csv")
    write_csv(single, tmp_path / "single.csv")
    run(stage.main, stage.parser(), [
        f"--predictions={tmp_path}/single.csv", f"--index={tmp_path}/index.csv", "--classes", *CLASSES,
        f"--output-predictions={tmp_path}/fused.csv",
    ])  # fmt: skip
    fused = read_csv(tmp_path / "fused.csv")
    assert list(fused) == PREDICTION_COLUMNS
    check_predictions({"single": single, "fused": fused}, CLASSES)
    same = [column for column in PREDICTION_COLUMNS if column not in ("probability", "prediction")]
    assert fused[same].equals(read_csv(tmp_path / "single.csv")[same])
    image = single["view_id"].str.partition("#")[0]
    for (seed, side), part in fused.groupby(["seed", image]):
        probability = single.loc[(single["seed"] == seed) & (image == side), "probability"]
        assert len(part) == 2
        expected = 1 / (1 + np.exp(-np.log(probability / (1 - probability)).mean()))
        np.testing.assert_allclose(part["probability"], expected)
        assert set(part["prediction"]) == {CLASSES[int(expected > 0.5)]}


def test_external_views_are_fused_within_each_network() -> None:
    index = store(3)
    parts = predicted(index, seeds=2).rename(columns={"label_original": "label"})[EXTERNAL_COLUMNS]
    alone = stage.fused(parts[parts["seed"] == 1], index)
    np.testing.assert_array_equal(stage.fused(parts, index)[parts["seed"] == 1], alone)
    with pytest.raises(UserError, match="the index lacks the predicted view 0_left#transverse"):
        stage.fused(parts, index.iloc[1:])


def test_a_row_of_both_views_is_tested_against_single_views_by_seed_and_fold() -> None:
    index = store(24)
    single = predicted(index, seeds=3)
    # One view of a frame is informed, the other is not.
    knows = single["view_id"].str.endswith("transverse") & (single["label_original"] == CLASSES[1])
    single["probability"] = np.where(knows, 0.5 + single["probability"] / 2, single["probability"])
    single["prediction"] = decide(single["probability"].to_numpy(), CLASSES)
    probability = stage.fused(single, index)
    both = single.assign(probability=probability, prediction=decide(probability.to_numpy(), CLASSES))
    rows = [Row("single", "ud-flipped", paper="ud"), Row("both", "ud-flipped-mean_logits")]
    found = numbers(rows, {"ud-flipped": single, "ud-flipped-mean_logits": both}, CLASSES[1], "runs", "single").iloc[1]
    accuracies = [
        (table["prediction"] == table["label_original"]).groupby([table["seed"], table["fold"]]).mean()
        for table in (both, single)
    ]
    expected = corrected_paired_test(100 * (accuracies[0] - accuracies[1]).to_numpy(), 3)
    names = ["difference_mean", "difference_low", "difference_high", "p_corrected"]
    np.testing.assert_allclose(
        found[names].astype(float), [expected.difference, expected.low, expected.high, expected.p]
    )
    assert 0 < found["p_corrected"] < 1
