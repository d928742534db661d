"""Shortcuts: what is measured, what is found, and how often there is an alarm without reason."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from workflow_scripts.audit import find_shortcuts as stage
from workflow_scripts.audit.shortcut_table import is_alarm
from workflow_scripts.audit.shortcuts import TESTS, aurocs, find_shortcuts, patient_features
from workflow_scripts.audit.view_features import measure_views, view_features
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv, write_npy
from workflow_scripts.runtime.cli import run

SIDE = 96
CLASSES = ["neg", "pos"]


def speckle(draw: np.random.Generator) -> np.ndarray:
    """A grey view of smooth noise with a bright interface across the beam."""
    field = gaussian_filter(draw.normal(size=(SIDE, SIDE)), 1.5)
    view = np.clip(90 + 120 * field, 10, 200)
    view[int(draw.integers(20, 70))] = 250
    return view.astype(np.uint8)


def plus(view: np.ndarray, draw: np.random.Generator) -> None:
    """A calliper of two strokes burnt in."""
    y, x = draw.integers(25, SIDE - 25, 2)
    view[y - 5 : y + 6, x] = view[y, x - 5 : x + 6] = 255


def study(patients: int = 60, planted: float = 0.0, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """Two views of each patient, a third of them positive; `planted` is the share of positive views with a calliper."""
    draw = np.random.default_rng(seed)
    truth = np.arange(2 * patients) // 2 % 3 == 0
    views = np.stack([speckle(draw) for _ in truth])
    for i in np.flatnonzero(truth):
        if draw.random() < planted:
            plus(views[i], draw)
    index = pd.DataFrame(
        {
            "view_id": [f"v{i}" for i in range(len(views))],
            "patient_id": [f"p{i // 2:03d}" for i in range(len(views))],
            "label": np.where(truth, "pos", "neg"),
            "coloured": 0.0,
            "height": 200 + draw.integers(0, 50, len(views)),
            "width": 200 + draw.integers(0, 50, len(views)),
        }
    )
    return views, index


def features_of(views: np.ndarray, index: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return patient_features(measure_views(views, index), index)


def truth_of(index: pd.DataFrame) -> np.ndarray:
    return (index["label"] == "pos").groupby(index["patient_id"]).any().to_numpy()


def test_strokes_are_found_and_interfaces_and_borders_are_not() -> None:
    draw = np.random.default_rng(0)
    view = speckle(draw)
    assert view_features(view, SIDE, SIDE)["inside"] == 0
    marked = view.copy()
    plus(marked, draw)
    assert view_features(marked, SIDE, SIDE)["inside"] > 1
    assert view_features(marked, SIDE, SIDE)["rim"] == 0
    boxed = np.zeros((SIDE, SIDE), np.uint8)
    boxed[24:72] = view[24:72]
    whole, cut = view_features(view[24:72, :48], 48, 48), view_features(boxed, 50, 100)
    assert cut["black"] < 0.01
    assert cut["brightness"] == pytest.approx(whole["brightness"], rel=0.1)
    assert view_features(np.zeros((SIDE, SIDE), np.uint8), SIDE, SIDE)["black"] == 1


def test_features_are_means_over_a_patients_views_without_those_that_are_constant() -> None:
    views, index = study(4)
    index["device"], index["scanner"] = "box", ["A", "B", "A", "A", "B", "B", "B", "B"]
    features = features_of(views, index)
    assert features["source"]["scanner_A"].tolist() == [0.5, 1, 0, 0]
    assert not [name for name in features["source"] if str(name).startswith("device")]
    assert "coloured" not in features["overlay"]
    one = [view_features(view, 200, 200)["brightness"] for view in views[:2]]
    assert features["exposure"]["brightness"].iloc[0] == pytest.approx(np.mean(one), rel=0.05)
    with pytest.raises(UserError, match="crop the views again"):
        measure_views(views, index.drop(columns="height"))


def test_aurocs_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    labels = np.stack([draw.permutation(np.arange(30) < 9) for _ in range(3)], axis=1)
    scores = np.round(draw.random((30, 3)), 1)
    expected = [roc_auc_score(labels[:, i], scores[:, i]) for i in range(3)]
    np.testing.assert_allclose(aurocs(scores, labels), expected)


def test_a_calliper_in_most_positives_is_found_and_nothing_else() -> None:
    views, index = study(planted=0.8)
    found = {each.test: each for each in find_shortcuts(features_of(views, index), truth_of(index))}
    assert list(found) == list(TESTS)
    assert found["overlay"].p < 0.001
    assert found["overlay"].p_corrected < 0.001
    assert found["overlay"].auroc > 0.9
    assert found["overlay"].low < found["overlay"].auroc <= found["overlay"].high
    assert found["size"].p_corrected > 0.05
    assert found["source"].features == found["size_source"].features == 0
    assert np.isnan(found["source"].p_corrected)


def test_size_and_scanner_are_found_together() -> None:
    views, index = study(120, seed=1)
    positive = index["label"] == "pos"
    index["height"] = index["height"] + 12 * positive
    index["scanner"] = np.where(np.random.default_rng(0).random(len(index)) < 0.3 + 0.3 * positive, "A", "B")
    found = {each.test: each for each in find_shortcuts(features_of(views, index), truth_of(index))}
    assert found["size_source"].auroc > max(found["size"].auroc, found["source"].auroc)
    assert found["size_source"].p_corrected < 0.05
    assert found["exposure"].p_corrected > 0.05


def test_shuffled_labels_raise_an_alarm_in_one_of_twenty_studies() -> None:
    views, index = study(40)
    index["scanner"] = np.random.default_rng(0).choice(["A", "B", "C"], len(index))
    features, truth = features_of(views, index), truth_of(index)
    draw = np.random.default_rng(1)
    studies = [find_shortcuts(features, draw.permutation(truth), permutations=39, seed=i) for i in range(40)]
    alarms = sum(any(map(is_alarm, found)) for found in studies)
    # 2 are expected; 6 or more would have a probability of 1 %.
    assert alarms <= 5
    assert any(each.p <= 0.05 for found in studies for each in found)


def flags(tmp_path: Path) -> list[str]:
    return [f"--views={tmp_path}/views.npy", f"--index={tmp_path}/index.csv", "--classes", *CLASSES, "--origin=PHANTOM",
            *(f"--output-{kind}={tmp_path}/out.{kind}" for kind in ("csv", "md", "tex", "html"))]  # fmt: skip


def test_the_table_warns_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    views, index = study(planted=0.8)
    write_npy(views, tmp_path / "views.npy")
    write_csv(index, tmp_path / "index.csv")
    run(stage.main, stage.parser(), flags(tmp_path))
    said = "Warning: whether a patient is pos can be told from what is no tissue: "
    told = capsys.readouterr().err
    assert said in told
    assert "; callipers and text (AUROC 0." in told
    page = (tmp_path / "out.md").read_text()
    assert said in page
    assert "PHANTOM" in page
    assert "| device, scanner and centre | not tested | 0 | – | – | – |" in page
    values = read_csv(tmp_path / "out.csv").set_index("test")
    assert values.loc["overlay", "alarm"]
    assert not values.loc[["size", "source"], "alarm"].any()


def test_a_study_of_one_class_is_not_tested(tmp_path: Path) -> None:
    views, index = study(3)
    write_npy(views, tmp_path / "views.npy")
    write_csv(index.assign(label="pos"), tmp_path / "index.csv")
    run(stage.main, stage.parser(), flags(tmp_path))
    assert "Shortcuts were not tested" in (tmp_path / "out.md").read_text()
