"""The baselines: what they learn from, and that texture is seen."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv, write_npy
from workflow_scripts.finetuning import predict_baseline as baseline
from workflow_scripts.finetuning.baselines import linear_probability, majority_probability, texture_features
from workflow_scripts.finetuning.predictions import PREDICTION_COLUMNS, check_predictions

CLASSES = ["neg", "pos"]
SIDE = 32


def speckle(draw: np.random.Generator, width: float) -> np.ndarray:
    """A uint8 view of smoothed noise."""
    field = gaussian_filter(draw.random((SIDE, SIDE)), width)
    return (255 * (field - field.min()) / np.ptp(field)).astype(np.uint8)


def test_texture_features_of_known_views() -> None:
    features = texture_features(np.full((SIDE, SIDE), 90, np.uint8))
    assert features.shape == (43,)
    first, second, properties = features[:10], features[10:28], features[28:].reshape(5, 3)
    # Flat: every neighbour is as bright as the centre, all in one bin; contrast and dissimilarity 0, the others 1.
    assert first.tolist() == [0] * 8 + [1, 0]
    assert second.tolist() == [0] * 16 + [1, 0]
    np.testing.assert_allclose(properties, np.repeat([[0], [0], [1], [1], [1]], 3, axis=1))
    # Columns 0, 8, 0, 8 … in uint8 are grey levels 0 and 1: at distance 1 all but vertical neighbours differ
    # by 1; at 2 and 4 only the diagonal ones, which lie 1 and 3 columns off (rounded).
    stripes = np.tile(np.array([0, 8], np.uint8), (SIDE, SIDE // 2))
    contrast = texture_features(stripes)[28:31]
    np.testing.assert_allclose(contrast, [0.75, 0.5, 0.5])


def test_majority_is_the_training_prevalence() -> None:
    assert majority_probability(np.array([True, False, False, False]), 2).tolist() == [0.25, 0.25]


def test_texture_on_one_class_is_that_class() -> None:
    features = np.random.default_rng(0).random((4, 3))
    assert linear_probability(features, np.zeros(4, bool), features).tolist() == [0] * 4


def study(tmp_path, wrong: bool = False) -> list[str]:
    """Thirty patients of two views whose class is their speckle; flags of the stage."""
    draw = np.random.default_rng(0)
    truth = np.arange(30) % 3 == 0
    views = np.stack([speckle(draw, 2.0 if truth[i // 2] else 0.8) for i in range(60)])
    label = np.where(draw.permutation(truth) if wrong else truth, "pos", "neg").repeat(2)
    index = pd.DataFrame(
        {"view_id": [f"i{i}#v" for i in range(60)], "patient_id": [f"p{i // 2:02d}" for i in range(60)], "label": label}
    )
    write_npy(views, tmp_path / "views.npy")
    write_csv(index, tmp_path / "index.csv")
    policy = index[["view_id", "label"]].assign(keep=1)
    policy.loc[:9, "keep"] = 0
    policy.loc[20:23, "label"] = "pos"
    write_csv(policy, tmp_path / "labels.csv")
    write_csv(
        index[["view_id", "patient_id"]].assign(fold=np.arange(60) // 20),
        tmp_path / "folds.csv",
    )
    inputs = {"--views": "views.npy", "--index": "index.csv", "--labels": "labels.csv", "--folds": "folds.csv"}
    paths = {**inputs, "--output-predictions": "out.csv"}
    flags = [word for flag, name in paths.items() for word in (flag, str(tmp_path / name))]
    return [*flags, "--seed", "5", "--classes", *CLASSES]


def test_majority_stage(tmp_path) -> None:
    flags = study(tmp_path)
    baseline.main(baseline.parser().parse_args(["--baseline", "majority", *flags]))
    table = read_csv(tmp_path / "out.csv")
    assert list(table.columns) == PREDICTION_COLUMNS
    check_predictions({"majority": table}, CLASSES)
    assert len(table) == 60
    assert set(table["seed"]) == {5}
    assert set(table["prediction"]) == {"neg"}
    assert (table["label_policy"] != table["label_original"]).sum() == 4
    for fold, rows in table.groupby("fold"):
        train = table[(table["fold"] != fold) & (table["kept"] == 1)]
        assert rows["probability"].tolist() == pytest.approx([(train["label_policy"] == "pos").mean()] * len(rows))


@pytest.mark.parametrize("wrong", [False, True])
def test_texture_stage_finds_texture_and_nothing_else(tmp_path, wrong: bool) -> None:
    from sklearn.metrics import roc_auc_score

    flags = study(tmp_path, wrong)
    baseline.main(baseline.parser().parse_args(["--baseline", "texture", *flags]))
    table = read_csv(tmp_path / "out.csv")
    check_predictions({"texture": table}, CLASSES)
    auroc = roc_auc_score(table["label_original"] == "pos", table["probability"])
    assert 0.25 < auroc < 0.75 if wrong else auroc > 0.9
    assert ((table["probability"] > 0.5) == (table["prediction"] == "pos")).all()


def test_a_store_that_does_not_match_its_index_is_refused(tmp_path) -> None:
    flags = study(tmp_path)
    write_npy(np.zeros((5, SIDE, SIDE), np.uint8), tmp_path / "views.npy")
    with pytest.raises(UserError, match=r"different numbers of rows: .*views.npy 5, .*index.csv 60"):
        baseline.main(baseline.parser().parse_args(["--baseline", "majority", *flags]))
