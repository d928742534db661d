"""Calibration: known answers, scikit-learn's, and data that determine no temperature."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from workflow_scripts.finetuning.calibration import (
    TEMPERATURES,
    brier,
    calibration,
    cross_fitted,
    expected_calibration_error,
    fit_temperature,
    logit,
    negative_log_likelihood,
    pool,
    reliability,
    sigmoid,
    soften,
)


@pytest.fixture
def honest():
    """Probabilities that are true by construction, and outcomes drawn with them."""
    generator = np.random.default_rng(0)
    probability = sigmoid(generator.normal(0.3, 1.5, 20_000))
    return probability, generator.random(20_000) < probability


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_distorted_is_found(honest, temperature):
    probability, truth = honest
    distorted = soften(probability, 1 / temperature)
    assert fit_temperature(distorted, truth) == pytest.approx(temperature, rel=0.04)
    np.testing.assert_allclose(soften(distorted, temperature), probability, atol=1e-9)


def test_no_other_temperature_has_a_higher_likelihood(honest):
    probability, truth = soften(honest[0][:300], 0.3), honest[1][:300]
    best = fit_temperature(probability, truth)
    at_best = negative_log_likelihood(soften(probability, best), truth)
    for other in np.geomspace(*TEMPERATURES, 200):
        assert at_best <= negative_log_likelihood(soften(probability, other), truth) + 1e-9


def test_without_an_optimum_the_temperature_is_1():
    assert fit_temperature(np.array([0.1, 0.4, 0.7]), np.array([0, 0, 1])) == 1  # separated
    assert fit_temperature(np.array([0.1, 0.4, 0.7]), np.array([1, 1, 1])) == 1  # one class
    assert fit_temperature(np.array([0.0, 1.0]), np.array([0, 1])) == 1


def test_what_points_the_wrong_way_becomes_a_coin():
    probability, truth = np.array([0.9, 0.8, 0.3, 0.4]), np.array([0, 0, 1, 0])
    assert fit_temperature(probability, truth) == TEMPERATURES[1]
    np.testing.assert_allclose(soften(probability, TEMPERATURES[1]), 0.5, atol=0.03)


def test_certain_and_wrong_stays_finite():
    probability, truth = np.array([1.0, 0.0, 1.0, 0.0]), np.array([1, 0, 1, 1])
    assert TEMPERATURES[0] < fit_temperature(probability, truth) < TEMPERATURES[1]
    assert np.isfinite(negative_log_likelihood(probability, truth))
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()


def test_softening_keeps_order_and_decision(honest):
    probability = honest[0]
    softened = soften(probability, 2.5)
    assert (np.argsort(softened) == np.argsort(probability)).all()
    assert ((softened > 0.5) == (probability > 0.5)).all()
    assert (abs(softened - 0.5) <= abs(probability - 0.5)).all()


def test_a_pool_is_the_mean_of_logits():
    assert pool(np.array([[0.9, 0.1], [0.8, 0.8]])) == pytest.approx([0.5, 0.8])
    members = sigmoid(np.random.default_rng(1).normal(0, 3, (50, 4)))
    softened = np.stack([soften(column, 1.7) for column in members.T], axis=1)
    np.testing.assert_allclose(pool(softened), soften(pool(members), 1.7), atol=1e-12)


def test_cross_fitted_views_are_softened_by_the_others(honest):
    probability, truth = soften(honest[0][:600], 0.4), honest[1][:600]
    groups = np.arange(600) % 3
    softened = cross_fitted(probability, truth, groups)
    others = groups != 1
    expected = soften(probability[~others], fit_temperature(probability[others], truth[others]))
    np.testing.assert_array_equal(softened[~others], expected)
    truth_elsewhere = truth.copy()
    truth_elsewhere[~others] = ~truth[~others]
    np.testing.assert_array_equal(cross_fitted(probability, truth_elsewhere, groups)[~others], expected)


def test_scores_are_scikit_learns(honest):
    probability, truth = honest[0][:500], honest[1][:500]
    assert brier(probability, truth) == pytest.approx(brier_score_loss(truth, probability))
    assert negative_log_likelihood(probability, truth) == pytest.approx(log_loss(truth, probability))
    points = reliability(probability, truth)
    observed, predicted = calibration_curve(truth, probability, n_bins=10)
    np.testing.assert_allclose(points.observed, observed)
    np.testing.assert_allclose(points.predicted, predicted)
    assert points.count.sum() == 500


def test_bins_close_on_the_right_and_empty_ones_go():
    points = reliability(np.array([0.0, 0.1, 0.11, 1.0]), np.array([0, 1, 1, 1]))
    assert points.count.tolist() == [2, 1, 1]
    assert points.predicted == pytest.approx([0.05, 0.11, 1.0])
    assert points.observed == pytest.approx([0.5, 1, 1])


def test_the_calibration_error_is_the_weighted_distance():
    probability, truth = np.array([0.2, 0.2, 0.2, 0.9]), np.array([0, 0, 1, 0])
    assert expected_calibration_error(probability, truth) == pytest.approx(0.75 * abs(0.2 - 1 / 3) + 0.25 * 0.9)
    assert calibration(probability, truth)["ece"] == expected_calibration_error(probability, truth)


def test_true_probabilities_are_calibrated_and_distorted_ones_not(honest):
    probability, truth = honest
    assert expected_calibration_error(probability, truth) < 0.01
    assert expected_calibration_error(soften(probability, 0.3), truth) > 0.08
    values = calibration(probability, truth)
    assert values["mean_probability"] == pytest.approx(values["positives"], abs=0.01)
