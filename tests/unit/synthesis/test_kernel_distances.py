"""KID and MMD with a Gaussian kernel: their definitions, unbiasedness, and intervals over patients."""

from __future__ import annotations

import numpy as np
import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.synthesis.kernel_distances import kernel_distances

MODULE = "workflow_scripts.synthesis.kernel_distances"


def cloud(seed: int, count: int, width: int = 8, offset: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, width)) + offset).astype(np.float32)


def kernel_values(name: str, a: np.ndarray, b: np.ndarray, variance: float) -> np.ndarray:
    """The kernel by its definition, pair by pair."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if name == "kid":
        return np.array([[(x @ y / len(x) + 1) ** 3 for y in b] for x in a])
    return np.array([[np.exp(-np.square(x - y).sum() / (2 * variance)) for y in b] for x in a])


def median_square(real: np.ndarray, patients: np.ndarray) -> float:
    real = real.astype(np.float64)
    pairs = [(i, j) for i in range(len(real)) for j in range(i) if patients[i] != patients[j]]
    return float(np.median([np.square(real[i] - real[j]).sum() for i, j in pairs]))


@pytest.mark.parametrize("name", ["kid", "mmd"])
def test_a_distance_equals_its_definition_and_is_unbiased(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.KERNEL_BLOCK", 7)
    real, fake, patients = cloud(0, 20), cloud(1, 15, offset=0.5), np.arange(20)
    variance = median_square(real, patients)

    def others(views: np.ndarray) -> float:
        values = kernel_values(name, views, views, variance)
        return float(values[~np.eye(len(values), dtype=bool)].mean())

    expected = others(real) + others(fake) - 2 * kernel_values(name, real, fake, variance).mean()
    assert kernel_distances(real, fake, patients, 0)[name].value == pytest.approx(expected, rel=1e-10)
    draws = [
        kernel_distances(cloud(2 * i, 30), cloud(2 * i + 1, 20), np.arange(30), 0)[name].value for i in range(100, 300)
    ]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(len(draws))


@pytest.mark.parametrize("name", ["kid", "mmd"])
def test_a_distance_and_its_draws_are_means_over_pairs_of_different_patients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}.DRAWS", 1)
    real, fake, patients = cloud(0, 12), cloud(1, 9, offset=0.5), np.repeat([3, 1, 2, 3, 1, 1], 2)
    found = kernel_distances(real, fake, patients, 6)[name]
    generator = np.random.default_rng(6)
    blocks = generator.permutation(9) % 9
    weights = generator.multinomial(3, np.full(3, 1 / 3), size=1)[0][patients - 1]
    other = generator.multinomial(9, np.full(9, 1 / 9), size=1)[0][blocks]
    variance = median_square(real, patients)

    def mean(a: np.ndarray, wa: np.ndarray, b: np.ndarray, wb: np.ndarray, groups: np.ndarray | None) -> float:
        counts = np.outer(wa, wb).astype(np.float64)
        if groups is not None:
            counts *= groups[:, None] != groups
        return float((counts * kernel_values(name, a, b, variance)).sum() / counts.sum())

    def distance(w: np.ndarray, v: np.ndarray) -> float:
        return (
            mean(real, w, real, w, patients) + mean(fake, v, fake, v, np.arange(9)) - 2 * mean(real, w, fake, v, None)
        )

    assert (weights > 0).sum() > 4
    assert found.value == pytest.approx(distance(np.ones(12), np.ones(9)), rel=1e-10)
    assert found.low == found.high == pytest.approx(distance(weights, other), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kid", "mmd"])
def test_an_interval_holds_the_truth_where_views_of_a_patient_resemble_each_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}.DRAWS", 400)

    def views(seed: int, patients: int, offset: float) -> np.ndarray:
        generator = np.random.default_rng(seed)
        own = generator.standard_normal((patients, 1, 6)) * 0.8
        return (own + 0.6 * generator.standard_normal((patients, 8, 6)) + offset).reshape(-1, 6)

    # Many patients with one view each estimate the truth.
    truth = kernel_distances(views(1, 3000, 0.4)[::8], views(2, 3000, 0.0)[::8], np.arange(3000), 0)[name].value
    held = {"patients": 0, "views": 0}
    for seed in range(60):
        real, fake = views(10 + seed, 40, 0.4), views(1000 + seed, 300, 0.0)[::8]
        for way, groups in (("patients", np.repeat(np.arange(40), 8)), ("views", np.arange(320))):
            found = kernel_distances(real, fake, groups, seed)[name]
            held[way] += found.low <= truth <= found.high
    assert held["patients"] >= 53
    assert held["views"] < held["patients"] - 5


def test_a_gaussian_kernel_sees_what_three_moments_do_not() -> None:
    """Gaussian features against a discrete law of the same first three moments (±1 with equal odds, in each feature)."""
    real = cloud(0, 600, 2)
    fake = np.random.default_rng(1).choice([-1.0, 1.0], size=(600, 2))
    found = kernel_distances(real, fake, np.arange(600), 0)
    assert found["kid"].low < 0 < found["kid"].high
    assert found["mmd"].low > 0


def test_a_wide_enough_sample_sets_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more real views than the width is taken from; one patient has nearly all of them."""
    real, fake = cloud(0, 200), cloud(1, 50)
    patients = np.array([0] * 199 + [1])
    every = kernel_distances(real, fake, patients, 0)["mmd"].value
    monkeypatch.setattr(f"{MODULE}.WIDTH_VIEWS", 40)
    assert kernel_distances(real, fake, patients, 0)["mmd"].value == pytest.approx(every, rel=0.5)


def test_what_cannot_be_compared_is_refused_with_the_numbers() -> None:
    bad = cloud(0, 20)
    bad[4, 2] = np.nan
    with pytest.raises(UserError, match=r"synthetic views: 1 of 20 rows"):
        kernel_distances(cloud(1, 20), bad, np.arange(20), 0)
    with pytest.raises(UserError, match=r"real views 8, synthetic views 9"):
        kernel_distances(cloud(1, 20), cloud(1, 20, 9), np.arange(20), 0)
    with pytest.raises(UserError, match="at least 2 patients and 2 synthetic views, there are 1 and 20"):
        kernel_distances(cloud(0, 20), cloud(1, 20), np.zeros(20), 0)
    same = np.repeat(cloud(1, 5), [16, 1, 1, 1, 1], axis=0)
    with pytest.raises(UserError, match="more than half of the real views have the same features"):
        kernel_distances(same, cloud(0, 20), np.arange(20), 0)
