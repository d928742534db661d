"""The statistics that several stages share."""

import numpy as np
from sklearn.metrics import roc_auc_score

from workflow_scripts.core.statistics import auroc_of_draws, patient_weights


def test_the_area_of_a_redraw_is_scikit_learns_with_ties() -> None:
    draw = np.random.default_rng(0)
    scores, truth = draw.integers(0, 6, 50) / 5, draw.random(50) < 0.4
    times = np.concatenate([np.ones((1, 50), int), patient_weights(np.arange(50) // 2, 20, draw)])
    expected = [roc_auc_score(truth, scores, sample_weight=weights) for weights in times]
    np.testing.assert_allclose(auroc_of_draws(scores, truth, times), expected, rtol=1e-12)
    one_class = np.where(truth, 1, 0)[None]
    assert np.isnan(auroc_of_draws(scores, truth, one_class)).all()
