"""Cohorts and their path segments."""

from workflow_scripts.study.experiments import cohorts, left_out


def test_one_cohort_without_holdout_and_one_per_seed_and_fold_with_it():
    assert cohorts({"holdout": "none", "seeds": [0, 7], "folds": 3}) == [""]
    segments = cohorts({"holdout": "per_fold", "seeds": [0, 7], "folds": 2})
    assert segments == ["seed0_fold0/", "seed0_fold1/", "seed7_fold0/", "seed7_fold1/"]
    assert [left_out(segment) for segment in segments] == [(0, 0), (0, 1), (7, 0), (7, 1)]
    assert left_out("") is None
