"""Frozen networks with a linear classifier: what they learn from, and that they see what is there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from tests.unit.finetuning.test_baselines import CLASSES, speckle
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv, write_npy
from workflow_scripts.finetuning import probe
from workflow_scripts.finetuning.predictions import EXTERNAL_COLUMNS, check_predictions
from workflow_scripts.networks.backbone import create_backbone

BACKBONE = "test_resnet"
PATIENTS = 24


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two views of each patient, whose class is their speckle, and folds of two seeds."""
    draw = np.random.default_rng(0)
    truth = np.arange(PATIENTS) % 2 == 0
    patients = [f"p{i:02d}" for i in range(PATIENTS) for _ in range(2)]
    write_npy(
        np.stack([speckle(draw, 2.5 if truth[i // 2] else 0.7) for i in range(2 * PATIENTS)]), tmp_path / "views.npy"
    )
    index = pd.DataFrame(
        {"view_id": [f"i{i}#v" for i in range(2 * PATIENTS)], "patient_id": patients,
         "label": np.where(truth, CLASSES[1], CLASSES[0]).repeat(2)}
    )  # fmt: skip
    write_csv(index, tmp_path / "index.csv")
    write_csv(index[["view_id", "label"]].assign(keep=1), tmp_path / "labels.csv")
    for seed in range(2):
        folds = np.random.default_rng(seed).permutation(np.arange(PATIENTS) % 3).repeat(2)
        write_csv(index[["view_id", "patient_id"]].assign(fold=folds), tmp_path / f"folds{seed}.csv")
    return tmp_path


def call(study: Path, *words: object) -> pd.DataFrame:
    """Run the stage in this process; its efficiency table."""
    arguments = [
        "--views", study / "views.npy", "--index", study / "index.csv", "--labels", study / "labels.csv",
        "--folds", study / "folds0.csv", study / "folds1.csv", "--seeds", 0, 1, "--classes", *CLASSES,
        "--backbone", BACKBONE, "--device", "cpu", "--shares", 0.25, 0.5, "--draws", 2,
        "--output-predictions", study / "0.csv", study / "1.csv", "--output-efficiency", study / "e.csv", *words,
    ]  # fmt: skip
    probe.main(probe.parser().parse_args([str(word) for word in arguments]))
    return read_csv(study / "e.csv")


def area(table: pd.DataFrame) -> float:
    return roc_auc_score(table["label_original"] == CLASSES[1], table["probability"])


def test_a_random_network_already_tells_coarse_speckle_from_fine(study: Path) -> None:
    efficiency = call(study)
    predictions = [read_csv(study / f"{seed}.csv") for seed in range(2)]
    check_predictions({"probe": pd.concat(predictions)}, CLASSES)
    assert all(area(table) > 0.9 for table in predictions)
    # All patients once, and each share twice, for both seeds.
    runs = efficiency.groupby(["share", "draw", "seed"]).size()
    assert runs.to_dict() == {
        (share, draw, seed): 2 * PATIENTS
        for share, draws in ((0.25, 2), (0.5, 2), (1.0, 1)) for draw in range(draws) for seed in range(2)
    }  # fmt: skip
    whole = efficiency[(efficiency["share"] == 1) & (efficiency["seed"] == 1)]
    np.testing.assert_allclose(whole["probability"], predictions[1]["probability"])


def test_shuffled_labels_teach_nothing(study: Path) -> None:
    labels = read_csv(study / "labels.csv")
    order = np.random.default_rng(3).permutation(PATIENTS)
    labels["label"] = labels["label"].to_numpy().reshape(-1, 2)[order].ravel()
    write_csv(labels, study / "labels.csv")
    call(study)
    table = read_csv(study / "0.csv").assign(label_original=labels["label"].to_numpy())
    assert 0.2 < area(table) < 0.75


def test_each_fold_has_the_network_that_did_not_see_it(study: Path) -> None:
    files = [study / f"w{i}.safetensors" for i in range(6)]
    for i, file in enumerate(files):
        save_file(create_backbone(BACKBONE, i).state_dict(), file)
    by_fold = call(study, "--layout", "timm", "--weights", *files)
    alone = call(study, "--layout", "timm", "--weights", *files[:1], *files[:1])
    merged = by_fold.merge(alone, on=["share", "draw", "seed", "view_id", "fold"], suffixes=("", "_alone"))
    same = np.isclose(merged["probability"], merged["probability_alone"])
    first = (merged["seed"] == 0) & (merged["fold"] == 0)
    assert same[first].all()
    assert not same[~first].all()
    with pytest.raises(UserError, match="--weights names 5 files for 2 seeds"):
        call(study, "--layout", "timm", "--weights", *files[:5])


def test_external_views_are_predicted_by_every_seed_and_fold(study: Path) -> None:
    alone = call(study)
    views = np.random.default_rng(1).integers(0, 256, (5, 32, 32)).astype(np.uint8)
    write_npy(views, study / "x.npy")
    index = pd.DataFrame({"view_id": list("abcde"), "patient_id": list("ppqqr"), "label": CLASSES[0]})
    write_csv(index, study / "x.csv")
    files = ["--external-views", study / "x.npy", "--external-index", study / "x.csv"]
    beside = call(study, *files, "--output-external", study / "external.csv")
    pd.testing.assert_frame_equal(alone, beside)
    external = read_csv(study / "external.csv")
    assert list(external.columns) == EXTERNAL_COLUMNS
    assert external.groupby(["seed", "fold"])["view_id"].agg(list).map(tuple).to_dict() == {
        (seed, fold): tuple("abcde") for seed in range(2) for fold in range(3)
    }
    assert external["probability"].between(0, 1).all()
    assert external["probability"].nunique() > 20


def test_larger_shares_hold_the_smaller_ones() -> None:
    patients = np.repeat([f"p{i}" for i in range(20)], 3)
    chosen = {share: probe.training_patients(patients, share, 1, "draw0") for share in (0.01, 0.25, 0.5)}
    counts = {share: len(set(patients[rows])) for share, rows in chosen.items()}
    assert counts == {0.01: 2, 0.25: 5, 0.5: 10}
    assert (chosen[0.5] | ~chosen[0.25]).all()
    assert (probe.training_patients(patients, 0.5, 1, "draw1") != chosen[0.5]).any()
