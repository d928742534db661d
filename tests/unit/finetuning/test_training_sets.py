"""Training sets with synthetic views: counts, determinism, labels, and that a fold learns from its own generator alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_csv, write_npy
from workflow_scripts.core.store import ViewStore
from workflow_scripts.finetuning.training_sets import (
    SyntheticViews,
    appended,
    asked_targets,
    draw_synthetic,
    shuffled,
    synthetic_stores,
)

SOURCE = Path("synthetic.npy")
# Ten negative and four positive real views are learnt, two are not; 40 synthetic ones, every other one positive.
REAL = np.array([0] * 10 + [1] * 4 + [-1] * 2)
TARGETS = np.arange(40) % 2


def store(folder: Path, name: str, value: int, labels=("fine", "coarse")) -> tuple[Path, Path]:
    views, index = folder / f"{name}.npy", folder / f"{name}.csv"
    write_npy(np.full((6, 8, 8), value, np.uint8), views)
    write_csv(pd.DataFrame({"view_id": range(6), "label": [labels[i % 2] for i in range(6)]}), index)
    return views, index


@pytest.mark.parametrize(("percent", "counts"), [(25, [3, 1]), (50, [5, 2]), (100, [10, 4]), (150, [15, 6])])
def test_each_share_has_as_many_views_of_a_class_as_that_share_of_the_real_ones(percent, counts):
    rows = draw_synthetic(TARGETS, REAL, percent, seed=0, fold=1, source=SOURCE)
    assert np.bincount(TARGETS[rows]).tolist() == counts
    assert len(set(rows)) == len(rows)


def test_a_draw_depends_on_seed_and_fold_alone_and_smaller_shares_are_within_larger_ones():
    rows = draw_synthetic(TARGETS, REAL, 100, 0, 1, SOURCE)
    np.testing.assert_array_equal(rows, draw_synthetic(TARGETS, REAL, 100, 0, 1, SOURCE))
    assert set(draw_synthetic(TARGETS, REAL, 50, 0, 1, SOURCE)) < set(rows)
    for seed, fold in ((1, 1), (0, 2)):
        assert set(draw_synthetic(TARGETS, REAL, 100, seed, fold, SOURCE)) != set(rows)


def test_too_few_synthetic_views_are_refused():
    with pytest.raises(UserError, match="are 30 of class 0, and there are 20 synthetic ones; raise synthesis.images"):
        draw_synthetic(TARGETS, REAL, 300, 0, 1, SOURCE)


def test_shuffled_labels_say_nothing_about_the_class():
    targets = np.repeat([0, 1], 500)
    mixed = shuffled(targets, 0, 1)
    assert np.bincount(mixed).tolist() == [500, 500]
    assert abs(np.corrcoef(targets, mixed)[0, 1]) < 0.1
    np.testing.assert_array_equal(mixed, shuffled(targets, 0, 1))
    assert (mixed != shuffled(targets, 0, 2)).any()


def test_a_fold_learns_from_its_own_generator_and_tests_no_synthetic_view(tmp_path):
    pairs = [store(tmp_path, f"fold{fold}", 10 * fold) for fold in range(3)]
    stores = synthetic_stores(*zip(*pairs, strict=True), folds=[0, 1, 2], side=8)
    real = {fold: np.array([0, 1, 0, 1]) for fold in stores}
    added = {}
    for fold, views in stores.items():
        targets = asked_targets(views, ("fine", "coarse"))
        rows = draw_synthetic(targets, real[fold], 100, 0, fold, SOURCE)
        added[fold] = SyntheticViews(views.pixels[rows], targets[rows])
    pixels, targets, folds = appended(real, added)
    assert (folds == -1).all()
    for fold, learnt in targets.items():
        np.testing.assert_array_equal(learnt[:4], real[fold])
        # What is learnt beside the real views is of the store of this fold, whose generator never saw its patients.
        assert np.unique(pixels[learnt[4:] >= 0]).tolist() == [10 * fold]
        assert np.bincount(learnt[4:][learnt[4:] >= 0]).tolist() == [2, 2]


def test_real_views_can_be_left_out_but_not_a_class():
    nothing = {0: np.full(3, -1)}
    both = SyntheticViews(np.zeros((2, 8, 8), np.uint8), np.array([0, 1]))
    assert appended(nothing, {0: both})[1][0].tolist() == [-1, -1, -1, 0, 1]
    one = SyntheticViews(np.zeros((1, 8, 8), np.uint8), np.array([1]))
    with pytest.raises(UserError, match="fold 0 would train on one class only"):
        appended(nothing, {0: one})


def test_stores_that_do_not_fit_are_refused(tmp_path):
    views, index = store(tmp_path, "all", 1)
    assert len(synthetic_stores([views], [index], [0, 1, 2], 8)) == 3
    with pytest.raises(UserError, match="name 2 and 2 files for 3 folds"):
        synthetic_stores([views] * 2, [index] * 2, [0, 1, 2], 8)
    with pytest.raises(UserError, match="views of 8 pixels, the real ones have 16"):
        synthetic_stores([views], [index], [0], 16)
    with pytest.raises(UserError, match="synthetic views of the class ''"):
        asked_targets(ViewStore.open(*store(tmp_path, "unasked", 1, ("", ""))), ("fine", "coarse"))
