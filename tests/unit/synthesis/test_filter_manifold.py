"""The manifold filter, its stage and its figure."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.shared import REPOSITORY
from workflow_scripts.core.errors import UserError
from workflow_scripts.study.config import load_config
from workflow_scripts.study.config.manifold import ManifoldRecipe
from workflow_scripts.study.protocol import metric_facts
from workflow_scripts.synthesis import draw_filter, filter_manifold
from workflow_scripts.synthesis.figures import evenly_of, principal_axes
from workflow_scripts.synthesis.filter_manifold import filter_manifold as apply_filter
from workflow_scripts.synthesis.filter_manifold import resolved_k

GOOD, NOISE, SIZE = 60, 30, 24


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """40 patients x 2 views; generated views from the same distribution, then noise far away."""
    generator = np.random.default_rng(0)
    np.save(tmp_path / "labelled.npy", generator.standard_normal((80, 6)).astype(np.float32))
    patients = np.repeat([f"{i:03d}" for i in range(40)], 2)
    pd.DataFrame({"view_id": [f"{p}#{i}" for i, p in enumerate(patients)], "patient_id": patients}).to_csv(
        tmp_path / "labelled.csv", index=False
    )
    features = np.concatenate([generator.standard_normal((GOOD, 6)), 30 + generator.standard_normal((NOISE, 6))])
    np.save(tmp_path / "synthetic.npy", features.astype(np.float32))
    np.save(tmp_path / "views.npy", generator.integers(0, 256, (GOOD + NOISE, SIZE, SIZE)).astype(np.uint8))
    pd.DataFrame({
        "view_id": [f"synthetic_{i:06d}" for i in range(GOOD + NOISE)], "image_id": "", "patient_id": "",
        "organ": "testicle",
        "label": "", "view": "synthetic",
    }).to_csv(tmp_path / "views.csv", index=False)  # fmt: skip
    pd.DataFrame({"patient_id": [f"{i:03d}" for i in range(6)]}).to_csv(tmp_path / "holdout.csv", index=False)
    folded = [{"view_id": f"v{i}", "patient_id": f"{i:03d}", "fold": i % 4} for i in range(40)]
    pd.DataFrame(folded).to_csv(tmp_path / "folds.csv", index=False)
    return tmp_path


def run_filter(study: Path, *more: str) -> pd.DataFrame:
    filter_manifold.main(filter_manifold.parser().parse_args([
        "--real", f"{study}/labelled.npy", "--real-index", f"{study}/labelled.csv", "--synthetic",
        f"{study}/synthetic.npy",
        "--views", f"{study}/views.npy", "--index", f"{study}/views.csv", "--output-filter", f"{study}/filter.csv",
        "--output-curve", f"{study}/curve.csv", "--output-views", f"{study}/filtered.npy",
        "--output-index", f"{study}/filtered.csv", "--filter-k", "10", *more,
    ]))  # fmt: skip
    return pd.read_csv(study / "filter.csv")


def test_noise_is_discarded_and_the_kept_views_are_stored(study: Path) -> None:
    answers = run_filter(study)
    assert list(answers.columns) == ["index", "inside", "distance_ratio"]
    assert answers["inside"][:GOOD].mean() > 0.9
    assert answers["inside"][GOOD:].sum() == 0
    assert ((answers["distance_ratio"] <= 1) == (answers["inside"] == 1)).all()
    kept = answers.index[answers["inside"] == 1]
    np.testing.assert_array_equal(np.load(study / "filtered.npy"), np.load(study / "views.npy")[kept])
    assert list(pd.read_csv(study / "filtered.csv")["view_id"]) == [f"synthetic_{i:06d}" for i in kept]


def test_curve_rises_with_k_and_has_a_yardstick(study: Path) -> None:
    answers = run_filter(study, "--holdout", f"{study}/holdout.csv")
    curve = pd.read_csv(study / "curve.csv")
    neighbours = curve[curve["rule"] == "neighbours"]
    assert list(neighbours["k"]) == [1, 3, 5, 10, 20, 50]
    assert neighbours["share"].is_monotonic_increasing
    assert neighbours.set_index("k").loc[10, "kept"] == answers["inside"].sum()
    calibrated = curve[curve["rule"] == "calibrated"]
    assert len(calibrated) == 1
    assert calibrated["held_out_share"].item() >= 0.95
    assert set(curve.columns) >= {"precision", "recall"}
    # At k = 3, the metrics' own, the filter and precision ask the same.
    assert neighbours.set_index("k").loc[3, "precision"] == 1
    assert neighbours["precision"].is_monotonic_decreasing
    assert curve["recall"].between(0.5, 1).all()


def test_calibrated_radii_let_held_out_patients_pass(study: Path) -> None:
    answers = run_filter(study, "--holdout", f"{study}/holdout.csv", "--filter-rule", "calibrated")
    curve = pd.read_csv(study / "curve.csv")
    row = curve[curve["rule"] == "calibrated"].iloc[0]
    assert answers["inside"].sum() == row["kept"]
    assert ((answers["distance_ratio"] <= 1) == (answers["inside"] == 1)).all()
    plain = run_filter(study, "--holdout", f"{study}/holdout.csv")["distance_ratio"]
    np.testing.assert_allclose(answers["distance_ratio"], plain / row["scale"])
    with pytest.raises(UserError, match=r"there are 0 views.*diffusion.holdout_patients"):
        run_filter(study, "--filter-rule", "calibrated")


def test_without_a_rule_every_view_is_kept(study: Path) -> None:
    answers = run_filter(study, "--filter-rule", "none")
    assert answers["inside"].all()
    assert (answers["distance_ratio"][GOOD:] > 1).all()
    np.testing.assert_array_equal(np.load(study / "filtered.npy"), np.load(study / "views.npy"))


def test_auto_k_keeps_the_papers_proportion(study: Path) -> None:
    assert [resolved_k("auto", views) for views in (880, 748, 264, 5)] == [50, 42, 15, 1]
    run_filter(study, "--filter-k", "auto")
    assert 5 in set(pd.read_csv(study / "curve.csv")["k"])  # 50 / 880 of 80
    with pytest.raises(UserError, match="--filter-k.*'often'"):
        run_filter(study, "--filter-k", "often")


def test_left_out_patients_are_no_part_of_the_manifold(study: Path) -> None:
    real, generated = np.load(study / "labelled.npy"), np.load(study / "synthetic.npy")
    patients = np.repeat(np.arange(40), 2)
    nobody = real[:0]
    everyone = run_filter(study)["distance_ratio"]
    np.testing.assert_allclose(everyone, apply_filter(real, generated, nobody, ManifoldRecipe(filter_k=10)).ratio)
    held = run_filter(study, "--holdout", f"{study}/holdout.csv")["distance_ratio"]
    np.testing.assert_allclose(
        held, apply_filter(real[patients >= 6], generated, nobody, ManifoldRecipe(filter_k=10)).ratio
    )
    both = run_filter(
        study, "--holdout", f"{study}/holdout.csv", "--folds", f"{study}/folds.csv", "--exclude-fold", "2"
    )["distance_ratio"]  # fmt: skip
    members = (patients >= 6) & (patients % 4 != 2)
    np.testing.assert_allclose(both, apply_filter(real[members], generated, nobody, ManifoldRecipe(filter_k=10)).ratio)


def test_nothing_kept_and_impossible_k_are_refused_with_numbers(study: Path) -> None:
    with pytest.raises(UserError, match=r"80-th nearest .* there are 80: lower k to at most 79"):
        run_filter(study, "--filter-k", "80")
    np.save(study / "synthetic.npy", np.load(study / "synthetic.npy") + 1000)
    with pytest.raises(UserError, match=r"none of 90 .* k = 10 of 80"):
        run_filter(study)
    assert not (study / "filtered.npy").exists()


def test_figure(study: Path) -> None:
    run_filter(study, "--holdout", f"{study}/holdout.csv")
    arguments = [
        "--real", f"{study}/labelled.npy", "--synthetic", f"{study}/synthetic.npy", "--views", f"{study}/views.npy",
        "--filter", f"{study}/filter.csv", "--curve", f"{study}/curve.csv",
    ]  # fmt: skip
    from PIL import Image

    pictures = {}
    for name, more in {"plain": [], "again": [], "stamped": ["--origin", "PHANTOM"]}.items():
        draw_filter.main(draw_filter.parser().parse_args([*arguments, "--output-figure", f"{study}/{name}.png", *more]))
        pictures[name] = np.asarray(Image.open(study / f"{name}.png").convert("RGB")).astype(int)
    np.testing.assert_array_equal(pictures["plain"], pictures["again"])
    assert (pictures["stamped"] != pictures["plain"]).any()
    red = (pictures["plain"] == [0xD7, 0x19, 0x1C]).all(axis=2).sum()
    green = (pictures["plain"] == [0x1A, 0x96, 0x41]).all(axis=2).sum()
    assert min(red, green) > 1000


def test_the_figure_says_how_its_views_were_made_and_filtered(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_filter(study, "--holdout", f"{study}/holdout.csv")
    facts = metric_facts(load_config(yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8")), []))
    titles = []
    monkeypatch.setattr("workflow_scripts.core.figures.save", lambda figure, path: titles.append(figure.get_suptitle()))
    draw_filter.main(draw_filter.parser().parse_args([
        "--real", f"{study}/labelled.npy", "--synthetic", f"{study}/synthetic.npy", "--views", f"{study}/views.npy",
        "--filter", f"{study}/filter.csv", "--curve", f"{study}/curve.csv", "--protocol", json.dumps(facts),
        "--output-figure", f"{study}/figure4.png",
    ]))  # fmt: skip
    size = pd.read_csv(study / "curve.csv")["real_views"][0]
    assert "ancestral sampler, 250 steps; checkpoint: best; 15% of the patients held out" in titles[0]
    assert f"rule calibrated, k = 50 of {size} real views, features of inception (input resized by clean)" in titles[0]


def test_principal_axes_are_orthonormal_and_point_along_the_variance() -> None:
    features = np.random.default_rng(0).standard_normal((200, 5)) * [1, 9, 1, 3, 1]
    mean, axes = principal_axes(features)
    np.testing.assert_allclose(mean, features.mean(axis=0))
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    assert axes[0, 1] > 0.99
    assert axes[1, 3] > 0.99


def test_an_even_subset_takes_both_ends() -> None:
    assert list(evenly_of(np.arange(10), 4)) == [0, 3, 6, 9]
    assert list(evenly_of(np.arange(3), 4)) == [0, 1, 2]
