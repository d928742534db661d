"""Metrics against reference values, closed forms and conventions; the stage's rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.shared import SHARED, needs_golden
from workflow_scripts.core.errors import UserError
from workflow_scripts.synthesis import measure_generation as generation_metrics
from workflow_scripts.synthesis import metrics
from workflow_scripts.synthesis.checks import require_comparable
from workflow_scripts.synthesis.metrics import (
    Generated,
    coverage,
    extrapolated_frechet,
    frechet,
    moments,
    precision_density,
    recall,
    reference_batches,
)
from workflow_scripts.synthesis.neighbours import radii


def cloud(seed: int, count: int, width: int = 8, offset: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((count, width)) + offset).astype(np.float32)


@needs_golden
def test_parity_with_prdc_and_the_reference_fid() -> None:
    golden = np.load(SHARED / "golden" / "manifold.npz")
    real, fake = golden["real"], golden["fake"]
    for batch, expected in enumerate(golden["pr_k3"]):
        rows = slice(64 * batch, 64 * batch + 64)
        small = Generated(fake[rows], 3).against(real[rows])
        large = Generated(fake[:1000], 3).against(real[rows])
        values = [
            small["precision"],
            small["recall"],
            *(large[m] for m in ("precision", "recall", "density", "coverage")),
        ]
        np.testing.assert_allclose(values, expected, atol=1e-12)
    assert frechet(moments(real), moments(fake)) == pytest.approx(float(golden["fid"]), rel=1e-6)


def test_mode_collapse_is_precise_without_recall_and_scatter_the_reverse() -> None:
    real = cloud(0, 300)
    collapsed, scattered = real[:1] + cloud(1, 300, scale=0.01), cloud(2, 300, scale=4.0)
    assert precision_density(real, collapsed, 3)[0] == 1
    assert recall(real, collapsed, radii(collapsed, 3)) < 0.05
    assert coverage(real, collapsed, 3) < 0.05
    assert precision_density(real, scattered, 3)[0] < 0.2
    assert recall(real, scattered, radii(scattered, 3)) > 0.9


def test_the_same_distribution_has_density_about_one() -> None:
    assert precision_density(cloud(0, 2000), cloud(1, 2000), 5)[1] == pytest.approx(1, abs=0.1)


def test_frechet_closed_forms() -> None:
    features = cloud(0, 50)
    assert frechet(moments(features), moments(features)) == pytest.approx(0, abs=1e-9)
    assert frechet(moments(features), moments(features + 2)) == pytest.approx(4 * features.shape[1], rel=1e-6)
    # Commuting covariances: |m1 - m2|² + sum (s1 - s2)².
    centred = features - features.mean(axis=0, dtype=np.float64)
    assert frechet(moments(centred), moments(3 * centred)) == pytest.approx(
        4 * centred.var(axis=0, ddof=1).sum(), rel=1e-9
    )


def test_frechet_with_fewer_views_than_features_equals_the_matrix_square_root() -> None:
    first, second = cloud(0, 20, 30).astype(np.float64), cloud(1, 25, 30, 0.3).astype(np.float64)
    covariances = np.cov(first.T), np.cov(second.T)
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.where(values > 1e-9, values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    expected = (
        np.square(first.mean(0) - second.mean(0)).sum() + sum(np.trace(c) for c in covariances)
        - 2 * np.sqrt(product[product > 1e-9]).sum()
    )  # fmt: skip
    assert frechet(moments(first), moments(second)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("scales", "squared"), [(np.ones(12), True), (np.logspace(0, -7, 12), False), (np.r_[np.ones(11), 0], False)]
)
def test_squares_are_used_where_they_keep_the_digits(
    scales: np.ndarray, squared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Well-conditioned, badly conditioned and dependent features; the reference forms no square."""
    sets = [cloud(i, 400, 12).astype(np.float64) * scales for i in range(2)]
    assert (metrics._cholesky(sets[0] - sets[0].mean(axis=0)) is not None) == squared
    ours = frechet(moments(sets[0]), moments(sets[1] + 0.1))
    monkeypatch.setattr(metrics, "SMALLEST_SQUARE", np.inf)
    assert ours == pytest.approx(frechet(moments(sets[0]), moments(sets[1] + 0.1)), rel=1e-12)


def test_extrapolated_frechet_does_not_depend_on_the_size_of_the_set() -> None:
    """Of the same distribution FID itself is far above 0 and falls with the size; its limit is the real views' share."""
    real = moments(cloud(0, 20_000, 16))
    few, many = ([cloud(seed, size, 16) for seed in range(1, 13)] for size in (600, 2400))
    plain = [np.mean([frechet(real, moments(set_)) for set_ in sets]) for sets in (few, many)]
    limit = [np.mean([extrapolated_frechet(real, set_, 0) for set_ in sets]) for sets in (few, many)]
    assert plain[0] > 3 * plain[1] > 0.05
    assert abs(limit[0]) < 0.15 * plain[0]
    assert abs(limit[1]) < 0.3 * plain[1]
    assert extrapolated_frechet(real, few[0], 0) == extrapolated_frechet(real, few[0], 0)
    with pytest.raises(UserError, match="2 synthetic views are too few"):
        extrapolated_frechet(real, cloud(0, 2, 16), 0)


def test_what_cannot_be_compared_is_refused_with_the_numbers() -> None:
    bad = cloud(0, 20)
    bad[4, 2] = np.nan
    with pytest.raises(UserError, match=r"features: 1 of 20 rows hold NaN .* row 4"):
        moments(bad)
    with pytest.raises(UserError) as caught:
        require_comparable({"real views": bad, "one": np.ones((5, 9)), "other": cloud(1, 5, 3)})
    for words in ("real views: 1 of 20", "one: all 5 views have the same 9", "real views 8, one 9, other 3"):
        assert words in str(caught.value)


def test_batches_are_disjoint_and_too_few_views_are_refused_with_numbers() -> None:
    batches = reference_batches(200, 3, 64, seed=0)
    assert batches.shape == (3, 64)
    assert len(np.unique(batches)) == 192
    np.testing.assert_array_equal(batches, reference_batches(200, 3, 64, seed=0))
    assert (batches != reference_batches(200, 3, 64, seed=1)).any()
    with pytest.raises(UserError, match=r"192 views.*191.*at most 63"):
        reference_batches(191, 3, 64, seed=0)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """30 patients with 4 views, the last 5 held out; 150 generated views, every third outside."""
    patients = np.repeat([f"p{i:02d}" for i in range(30)], 4)
    np.save(tmp_path / "labelled.npy", cloud(0, 120))
    pd.DataFrame({"view_id": [f"v{i}" for i in range(120)], "patient_id": patients}).to_csv(
        tmp_path / "labelled.csv", index=False
    )
    np.save(tmp_path / "synthetic.npy", cloud(1, 150))
    pd.DataFrame({"index": range(150), "inside": [int(i % 3 > 0) for i in range(150)], "distance_ratio": 0.5}).to_csv(
        tmp_path / "filter.csv", index=False
    )
    pd.DataFrame({"patient_id": [f"p{i:02d}" for i in range(25, 30)]}).to_csv(tmp_path / "holdout.csv", index=False)
    folded = [{"view_id": f"v{i}", "patient_id": f"p{i:02d}", "fold": i % 3} for i in range(30)]
    pd.DataFrame(folded).to_csv(tmp_path / "folds.csv", index=False)
    return tmp_path


def run_metrics(study: Path, *more: str) -> pd.DataFrame:
    arguments = generation_metrics.parser().parse_args([
        "--real", f"{study}/labelled.npy", "--real-index", f"{study}/labelled.csv", "--synthetic",
        f"{study}/synthetic.npy",
        "--filter", f"{study}/filter.csv", "--output-metrics", f"{study}/metrics.csv", "--metric-batch-size", "20", *more,
    ])  # fmt: skip
    generation_metrics.main(arguments)
    return pd.read_csv(study / "metrics.csv")


def test_stage_writes_every_set(study: Path) -> None:
    table = run_metrics(study, "--holdout", f"{study}/holdout.csv")
    whole = table[table["batch"].isna()].set_index(["set", "metric"])["value"]
    sizes = {"unfiltered": 150, "filtered": 100, "real": 20, "unfiltered_equal": 20, "filtered_equal": 20}
    assert {name: int(whole[name, "size"]) for name in sizes} == sizes
    assert set(table["set"]) == set(sizes)
    for name in sizes:
        more = {"fid_infinity"} if name in ("unfiltered", "filtered") else set()
        common = {"precision", "recall", "fid", "density", "coverage", "size"}
        common |= {f"{kernel}{end}" for kernel in ("kid", "mmd") for end in ("", "_low", "_high")}
        assert common | more == set(whole[name].index)
        for kernel in ("kid", "mmd"):
            assert whole[name, f"{kernel}_low"] < whole[name, kernel] < whole[name, f"{kernel}_high"]
    assert sorted(table["batch"].dropna().unique()) == [0, 1, 2]
    # The unbatched values are those of all training views.
    real, fake = np.load(study / "labelled.npy")[:100], np.load(study / "synthetic.npy")
    assert whole["unfiltered", "precision"] == precision_density(real, fake, 3)[0]
    assert whole["unfiltered", "fid"] == pytest.approx(frechet(moments(real), moments(fake)))


def test_published_features_are_a_second_reference(study: Path) -> None:
    published = cloud(5, 88, offset=0.3)
    np.savez(study / "ref_acts.npz", published)
    table = run_metrics(study, "--published", f"{study}/ref_acts.npz")
    fake = np.load(study / "synthetic.npy")
    whole = table[table["batch"].isna()].set_index(["set", "metric"])["value"]
    for name, features in (("unfiltered_published", fake), ("filtered_published", fake[np.arange(150) % 3 > 0])):
        assert whole[name, "fid"] == pytest.approx(frechet(moments(published), moments(features)))
        assert whole[name, "precision"] == precision_density(published, features, 3)[0]
    batches = table[(table["set"] == "filtered_published") & (table["metric"] == "fid")]["batch"].dropna()
    assert sorted(batches) == [0, 1, 2]
    # What the study's own views say stays as it was.
    plain = run_metrics(study)
    pd.testing.assert_frame_equal(plain, table[~table["set"].str.endswith("published")].reset_index(drop=True))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"acts": np.zeros((9, 8))}, "has no array arr_0"),
        ({"arr_0": np.zeros((9, 8, 8, 3), np.uint8)}, r"shape \(9, 8, 8, 3\) of uint8"),
        ({"arr_0": np.full((90, 8), np.nan)}, "90 of 90 rows hold NaN"),
        ({"arr_0": np.random.default_rng(0).standard_normal((90, 5))}, "features per view"),
        ({"arr_0": np.array([{}], dtype=object)}, "has no array arr_0"),
    ],
)
def test_published_features_that_cannot_be_are_refused(study: Path, arrays: dict, message: str) -> None:
    np.savez(study / "ref_acts.npz", **arrays)
    with pytest.raises(UserError, match=message):
        run_metrics(study, "--published", f"{study}/ref_acts.npz")


def test_views_that_were_filtered_before_are_one_set(study: Path) -> None:
    table = run_metrics(study, "--filter-rule", "none", "--holdout", f"{study}/holdout.csv")
    assert set(table["set"]) == {"filtered", "filtered_equal", "real"}


def test_real_views_against_themselves_are_perfect() -> None:
    real = cloud(0, 100)
    values = Generated(real, 3).against(real)
    assert values["precision"] == values["recall"] == values["coverage"] == 1
    assert values["fid"] == pytest.approx(0, abs=1e-6)


def test_views_that_all_look_alike_to_the_network_are_refused(study: Path) -> None:
    np.save(study / "labelled.npy", np.ones((120, 8), "f4"))
    with pytest.raises(UserError, match=r"all 120 views have the same 8 features"):
        run_metrics(study)


def test_a_generator_that_draws_one_image_is_refused(study: Path) -> None:
    synthetic = np.load(study / "synthetic.npy")
    np.save(study / "synthetic.npy", np.repeat(synthetic[:1], len(synthetic), axis=0))
    with pytest.raises(
        UserError, match=rf"unfiltered synthetic set: all {len(synthetic)} views have the same 8 features"
    ):
        run_metrics(study)


def test_stage_leaves_patients_out(study: Path) -> None:
    without = run_metrics(study)
    assert "real" not in set(without["set"])
    fold = run_metrics(
        study, "--holdout", f"{study}/holdout.csv", "--folds", f"{study}/folds.csv", "--exclude-fold", "1"
    )
    row = fold[(fold["set"] == "real") & (fold["metric"] == "size")]
    assert row["value"].item() == 4 * sum(i % 3 != 1 for i in range(25, 30))


def test_stage_refuses_what_does_not_fit(study: Path) -> None:
    with pytest.raises(UserError, match=r"240 views.*learnt from 120.*at most 40"):
        run_metrics(study, "--metric-batch-size", "80")
    with pytest.raises(UserError, match="no fold 7"):
        run_metrics(study, "--folds", f"{study}/folds.csv", "--exclude-fold", "7")
    with pytest.raises(UserError, match="give both"):
        run_metrics(study, "--exclude-fold", "0")
    pd.DataFrame({"patient_id": ["p00", "stranger"]}).to_csv(study / "holdout.csv", index=False)
    with pytest.raises(UserError, match="stranger"):
        run_metrics(study, "--holdout", f"{study}/holdout.csv")
    np.save(study / "synthetic.npy", cloud(1, 149))
    with pytest.raises(UserError, match=r"149.*150"):
        run_metrics(study)
    pd.DataFrame({"index": range(149), "inside": 0, "distance_ratio": 2.0}).to_csv(study / "filter.csv", index=False)
    with pytest.raises(UserError, match=r"filtered set has 0"):
        run_metrics(study)
