"""The copy audit on textured views: it finds planted copies, and lets other patients' views pass."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from tests.shared import SHARED, needs_real
from workflow_scripts.core.errors import UserError
from workflow_scripts.privacy import audit_privacy as stage
from workflow_scripts.privacy import copies as privacy
from workflow_scripts.privacy import draw_closest_pairs as privacy_figure
from workflow_scripts.privacy import planted

SIZE, TRAINING, HELD_OUT, FRESH = 64, 60, 30, 40


def textured(seed: int, patients: int) -> np.ndarray:
    """Two views per patient: anatomy of their own (alike within the patient) under fresh speckle, uint8 (N, SIZE,
    SIZE)."""
    generator = np.random.default_rng(seed)
    anatomy = gaussian_filter(generator.standard_normal((patients, SIZE, SIZE)), 5, axes=(1, 2))
    anatomy /= anatomy.std(axis=(1, 2), keepdims=True)
    common = gaussian_filter(np.random.default_rng(0).standard_normal((SIZE, SIZE)), 8)
    speckle = gaussian_filter(generator.standard_normal((2 * patients, SIZE, SIZE)), 0.8, axes=(1, 2))
    image = np.repeat(anatomy, 2, axis=0) + 2 * common / common.std() + speckle / speckle.std()
    return np.clip(110 + 25 * image, 0, 255).astype(np.uint8)


def features(views: np.ndarray) -> np.ndarray:
    """A stand-in for a network: random projections of the shrunk view."""
    small = privacy.shrink(views, 16).reshape(len(views), -1)
    return (small @ np.random.default_rng(1).standard_normal((small.shape[1], 32))).astype(np.float32)


def encoded(views: np.ndarray) -> np.ndarray:
    """Stand-ins for the features of the audit's networks, of whole views only (N, networks, 1, 32)."""
    own = features(views)
    return np.stack([own, own[:, ::-1] * np.linspace(0.5, 1, 32, dtype="f4")], axis=1)[:, :, None]


def seen(views: np.ndarray, *patients: np.ndarray) -> privacy.Views:
    """Views as the detectors take them."""
    found = encoded(views)
    return privacy.Views(views, {name: found[:, number] for number, name in enumerate(privacy.ENCODERS)}, *patients)


def planted_features(copies: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same of planted copies, by network (kinds, N, 1, 32)."""
    found = [seen(pixels).features for pixels in copies.values()]
    return {name: np.stack([one[name] for one in found]) for name in privacy.ENCODERS}


PATIENTS = np.arange(TRAINING) // 2
TRAINED, UNSEEN, OTHERS = textured(1, TRAINING // 2), textured(2, HELD_OUT // 2), textured(3, FRESH // 2)


@pytest.fixture(autouse=True)
def few_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted, "COPIES", 10)


@pytest.fixture(scope="module")
def audit() -> tuple[privacy.Detectors, privacy.Calibration]:
    detectors = privacy.Detectors(seen(TRAINED, PATIENTS), 4)
    return detectors, detectors.calibrated(seen(UNSEEN, np.arange(HELD_OUT) // 2), 0.01)


Audit = tuple[privacy.Detectors, privacy.Calibration]


@pytest.mark.parametrize("name", ["exact", "mirrored", "noise 5 %", "noise 15 %", "shifted", "gamma 0.7", "blurred"])
def test_planted_copies_are_flagged_and_traced(audit: Audit, name: str) -> None:
    detectors, calibration = audit
    found = detectors.closeness(seen(planted.planted_copies(TRAINED, 4, seed=0)[name]))
    scores = detectors.scale.score(found.evidence)
    flagged = scores.max(axis=1) > calibration.threshold
    assert flagged.mean() >= 0.9
    nearest = found.rows[np.arange(TRAINING), scores.argmax(axis=1)]
    assert (nearest == np.arange(TRAINING))[flagged].mean() >= 0.9


def test_other_patients_pass(audit: Audit) -> None:
    detectors, calibration = audit
    assert (detectors.scores(seen(OTHERS)).max(axis=1) > calibration.threshold).mean() <= 0.1


def test_power_tells_kinds_and_detectors(audit: Audit) -> None:
    detectors, calibration = audit
    copies = planted.planted_copies(TRAINED[:20], 4, seed=0)
    rows = planted.power(copies, planted_features(copies), detectors, calibration.threshold)
    found = {row["kind"]: row["share"] for row in rows}
    assert found["exact"] == found["mirrored"] == 1
    assert len(found) == 12
    for row in rows:
        assert list(row["by"]) == ["pixels", "copy encoder", "patient encoder"]
        assert max(row["by"].values()) <= row["share"] <= sum(row["by"].values())
        assert row["copies"] == round(20 * row["share"])
    blind = planted.power(copies, planted_features(copies), detectors, np.inf)
    assert {row["copies"] for row in blind} == {0}


def test_each_detector_is_judged_by_one_threshold_that_other_patients_set(audit: Audit) -> None:
    detectors, calibration = audit
    control = detectors.shares(calibration.control)
    assert control["views"] == HELD_OUT
    assert control["share"] <= 0.1
    top = calibration.scores.max(axis=1)
    assert calibration.threshold == top.max()  # 1 % of 30 views is none
    # Only the patient who set the threshold lies above that of the others.
    first = calibration.patients == calibration.patients[top.argmax()]
    assert calibration.alarms.tolist() == (first & (top > top[~first].max())).tolist()


def test_the_scale_looks_at_other_patients_only() -> None:
    views = seen(np.repeat(TRAINED[::2], 2, axis=0), PATIENTS)  # a patient's two views are the same picture
    found = privacy.closeness_within(views, 4)
    assert (PATIENTS[found.rows] != PATIENTS[:, None]).all()
    assert found.correlation.max() < 0.9
    # As if each patient's views were compared with a set that lacks her.
    for patient in (0, 7):
        own = patient == PATIENTS
        alone = privacy.closeness(views.select(own), views.select(~own), 4)
        np.testing.assert_allclose(found.evidence[own], alone.evidence, rtol=1e-5)
    with pytest.raises(UserError, match="one patient"):
        privacy.closeness_within(seen(TRAINED, np.zeros(TRAINING)), 4)


def test_a_view_is_as_near_as_its_nearest_crop() -> None:
    random = np.random.default_rng(0)
    points, reference = random.normal(size=(7, 5)).astype("f4"), random.normal(size=(9, 4, 5)).astype("f4")
    distance, rows = privacy.nearest_crops(points, reference, 6)
    slow = np.linalg.norm(points[:, None, None].astype(float) - reference, axis=3).min(axis=2)
    np.testing.assert_array_equal(rows, np.argsort(slow, axis=1)[:, :6])
    np.testing.assert_allclose(distance, np.sort(slow, axis=1)[:, :6])


def test_correlation_equals_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy, "BLOCK", 3)
    views, training = OTHERS[:4], TRAINED[:5]
    found, rows = privacy.nearest_by_correlation(views, training, 2, 3)
    smooth = [privacy.high_pass(privacy.shrink(v, SIZE)) for v in (views, training)]
    expected = np.zeros((4, 5))
    for i, view in enumerate(smooth[0][:, 2:-2, 2:-2]):
        for j, image in enumerate(smooth[1]):
            expected[i, j] = max(
                np.corrcoef(candidate.ravel(), image[y : y + SIZE - 4, x : x + SIZE - 4].ravel())[0, 1]
                for candidate in (view, view[:, ::-1]) for y in range(5) for x in range(5)
            )  # fmt: skip
    np.testing.assert_allclose(found, -np.sort(-expected, axis=1)[:, :3], atol=1e-5)
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :3])


def test_a_view_without_contrast_resembles_nothing() -> None:
    flat = np.full((1, SIZE, SIZE), 90, dtype=np.uint8)
    assert abs(privacy.nearest_by_correlation(flat, TRAINED, 2, 1)[0].item()) < 1e-6


def test_shrinking_averages_areas() -> None:
    view = np.arange(36, dtype=np.uint8).reshape(1, 6, 6)
    np.testing.assert_allclose(privacy.shrink(view, 3)[0], view[0].reshape(3, 2, 3, 2).mean(axis=(1, 3)), rtol=1e-6)
    np.testing.assert_allclose(privacy.shrink(view, 4).mean(), view.mean(), rtol=1e-6)
    np.testing.assert_allclose(privacy.shrink(view, 6), view, rtol=1e-6)


@pytest.mark.parametrize(("views", "rate", "alarms"), [(50, 0.01, 0), (100, 0.01, 1), (200, 0.1, 20)])
def test_threshold_allows_just_the_false_alarms(views: int, rate: float, alarms: int) -> None:
    scores = np.random.default_rng(0).standard_normal(views)
    assert (scores > privacy.threshold_of(scores, rate)).sum() == alarms


def test_bound_of_false_alarms_holds() -> None:
    assert privacy.false_alarm_bound(300, 0.001) == pytest.approx(1 - 0.05 ** (1 / 300))  # the rule of three
    generator = np.random.default_rng(0)
    thresholds = np.array([privacy.threshold_of(generator.random(60), 0.05) for _ in range(2000)])
    # The true rate of a threshold on uniform scores is 1 - threshold.
    assert np.mean(1 - thresholds <= privacy.false_alarm_bound(60, 0.05)) == pytest.approx(0.95, abs=0.02)


def test_the_control_is_cross_fitted() -> None:
    scores, patients = np.array([9.0, 8.0, 1.0, 2.0, 3.0]), np.array(["a", "a", "b", "b", "c"])
    assert privacy.cross_fitted_thresholds(scores, patients, 0.01).tolist() == [3, 3, 9, 9, 9]


def test_duplicates_under_another_patient_do_not_calibrate() -> None:
    unseen = privacy.really_unseen(np.array([0.1, 0.99, 0.2, 0.3]), np.array(["a", "a", "b", "c"]))
    assert unseen.tolist() == [False, False, True, True]


def write_study(folder: Path, generated: np.ndarray, unseen: np.ndarray = UNSEEN) -> None:
    real = np.concatenate([TRAINED, unseen])
    patients = [f"t{i // 2:02d}" for i in range(TRAINING)] + [f"h{i // 2:02d}" for i in range(len(unseen))]
    np.save(folder / "views.npy", real)
    np.save(folder / "real.npy", features(real))
    np.save(folder / "synthetic_views.npy", generated)
    np.save(folder / "synthetic.npy", features(generated))
    views = [f"{p}#{i % 2}" for i, p in enumerate(patients)]
    pd.DataFrame({"view_id": views, "patient_id": patients}).to_csv(folder / "index.csv", index=False)
    pd.DataFrame({"patient_id": sorted({p for p in patients if p[0] == "h"})}).to_csv(
        folder / "holdout.csv", index=False
    )
    chosen = TRAINED[planted.planted_rows(TRAINING, 0)]
    np.save(folder / "planted.npy", np.stack([encoded(c) for c in planted.planted_copies(chosen, 4, 0).values()]))
    np.save(folder / "copy_real.npy", encoded(real))
    np.save(folder / "copy_synthetic.npy", encoded(generated))
    errors = np.random.default_rng(4).normal(0.1, 0.01, len(views))
    denoising = {"view_id": views, "patient_id": patients, "held_out": 0, "error": errors, "secmi": errors[::-1]}
    pd.DataFrame(denoising)[::-1].to_csv(folder / "denoising.csv", index=False)
    inside = (np.arange(len(generated)) % 4 > 0).astype(int)
    pd.DataFrame({"index": range(len(generated)), "inside": inside, "distance_ratio": 0.5}).to_csv(
        folder / "filter.csv", index=False
    )


def run_audit(folder: Path, *more: str) -> tuple[pd.DataFrame, dict]:
    stage.main(stage.parser().parse_args([
        "--real", f"{folder}/real.npy", "--real-views", f"{folder}/views.npy", "--real-index", f"{folder}/index.csv",
        "--synthetic", f"{folder}/synthetic.npy", "--synthetic-views", f"{folder}/synthetic_views.npy",
        "--denoising", f"{folder}/denoising.csv", "--filter", f"{folder}/filter.csv",
        "--holdout", f"{folder}/holdout.csv", "--shift", "4",
        "--copy-real", f"{folder}/copy_real.npy", "--copy-synthetic", f"{folder}/copy_synthetic.npy",
        "--copy-planted", f"{folder}/planted.npy", "--output-page", f"{folder}/privacy.html",
        "--output-privacy", f"{folder}/privacy.csv", "--output-summary", f"{folder}/privacy.json", *more,
    ]))  # fmt: skip
    return pd.read_csv(folder / "privacy.csv"), json.loads((folder / "privacy.json").read_text())


def test_stage_tells_copies_from_fresh_views(tmp_path: Path) -> None:
    copies = planted.planted_copies(TRAINED[:20], 4, seed=5)["noise 5 %"]
    write_study(tmp_path, np.concatenate([OTHERS, copies]))
    table, summary = run_audit(tmp_path, "--origin", "PHANTOM")
    columns = "index nearest_view feature_distance correlation detector score copy authentic"
    assert list(table.columns) == columns.split()
    # A copy lies nearer to its original than the original's nearest neighbour does.
    assert table["authentic"][FRESH:].mean() < 0.1
    assert summary["authentic"]["unfiltered"] == pytest.approx(table["authentic"].mean())
    assert 0.2 < summary["authentic"]["held_out"] <= 1
    page = (tmp_path / "privacy.html").read_text()
    assert all(
        text in page for text in ("rotated 8°", "by patient encoder", "PHANTOM", "attack by", "Do not share what")
    )
    # 20 copies, of which the filter keeps every view but each fourth: 15 of 45.
    found = summary["risks"]
    assert found["singling_out"]["attack"] == {
        "successes": int(table["copy"][table["index"] % 4 > 0].sum()),
        "targets": 45,
    }
    assert 0.05 < found["singling_out"]["low"] < found["singling_out"]["value"] < 0.4
    assert found["inference_error"]["low"] == found["inference_secmi"]["low"] == 0
    assert found["linkability"]["control"]["targets"] == HELD_OUT // 2
    assert table["copy"][FRESH:].mean() >= 0.9
    assert table["copy"][:FRESH].mean() <= 0.1
    assert table["nearest_view"][FRESH] == "t00#0"
    flagged = summary["flagged"]["unfiltered"]
    assert flagged["views"] == 60
    assert flagged["copies"] == table["copy"].sum()
    assert flagged["share"] == pytest.approx(table["copy"].mean())
    assert set(flagged["by"]) == {"pixels", "copy encoder", "patient encoder"}
    assert set(table["detector"]) <= set(flagged["by"])
    assert summary["flagged"]["filtered"]["views"] == 45
    assert summary["origin"] == "PHANTOM"
    assert summary["excess"]["unfiltered"]["low"] > 0.1
    # 30 held-out views are fewer than 1 / 0.01.
    assert not summary["rate_certified"]
    assert "cannot be certified" in summary["caveats"]
    assert "anonymous" in summary["may_not_say"]
    for attack in summary["generator"].values():
        assert attack["auc"]["low"] < 0.5 < attack["auc"]["high"]
    assert "does not exclude stronger attacks on its weights" in summary["caveats"]
    assert all(text in page for text in ("denoising error", "SecMI"))
    _, looser = run_audit(tmp_path, "--false-alarms", "0.1")
    assert looser["rate_certified"]
    assert "cannot be certified" not in looser["caveats"]


def test_stage_sees_a_memoriser_by_its_membership_auc(tmp_path: Path) -> None:
    write_study(tmp_path, TRAINED)
    assert run_audit(tmp_path)[1]["membership_auc"]["unfiltered"]["low"] > 0.9
    write_study(tmp_path, OTHERS)
    auc = run_audit(tmp_path)[1]["membership_auc"]["unfiltered"]
    assert 0.3 < auc["value"] < 0.7


@pytest.mark.parametrize("attack", ["error", "secmi"])
def test_stage_sees_what_the_weights_give_away(tmp_path: Path, attack: str) -> None:
    write_study(tmp_path, OTHERS)
    table = pd.read_csv(tmp_path / "denoising.csv")
    table.loc[table["patient_id"].str.startswith("t"), attack] -= 0.03
    table.to_csv(tmp_path / "denoising.csv", index=False)
    summary = run_audit(tmp_path)[1]
    assert summary["generator"][attack]["auc"]["low"] > 0.9
    assert summary["generator"][attack]["caught"][0]["value"] > 0.8
    assert summary["generator"][attack]["training_patients"] == TRAINING // 2
    assert summary["risks"][f"inference_{attack}"]["low"] > 0.3
    assert "Share the views, not the generator" in summary["caveats"]


def test_stage_survives_a_duplicate_among_the_held_out(tmp_path: Path) -> None:
    """A training view under a held-out patient's id would raise the threshold above every copy."""
    write_study(tmp_path, TRAINED, np.concatenate([UNSEEN[:-1], TRAINED[:1]]))
    table, summary = run_audit(tmp_path)
    assert table["copy"].mean() >= 0.9
    assert summary["same_pictures"] == 1
    assert summary["held_out_patients"] == HELD_OUT // 2 - 1
    assert "Remove duplicates" in summary["caveats"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: pd.DataFrame({"patient_id": ["h00"]}).to_csv(f / "holdout.csv", index=False),
            r"1 held-out.*diffusion.holdout_patients",
        ),
        (lambda f: np.save(f / "synthetic.npy", np.zeros((3, 32), "f4")), r"synthetic.npy 3"),
        (lambda f: np.save(f / "real.npy", np.zeros((90, 7), "f4")), r"7"),
        (
            lambda f: np.save(f / "planted.npy", np.load(f / "planted.npy")[1:]),
            r"planted.npy.*of 12 views or kinds have the shape \(12, .*embed",
        ),
        (
            lambda f: np.save(f / "planted.npy", np.load(f / "planted.npy") * np.nan),
            r"planted.npy: features are finite numbers",
        ),
        (lambda f: np.save(f / "planted.npy", np.load(f / "planted.npy").astype(str)), r"planted.npy: .*are <U"),
        (lambda f: pd.read_csv(f / "denoising.csv")[:80].to_csv(f / "denoising.csv"), r"denoising.csv lacks 10 of"),
    ],
)
def test_stage_refuses(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_study(tmp_path, OTHERS)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        run_audit(tmp_path)
    assert not list(tmp_path.glob("privacy.*"))


def test_without_held_out_patients_the_page_says_so_and_no_view_is_judged(tmp_path: Path) -> None:
    write_study(tmp_path, np.concatenate([OTHERS, TRAINED[:4]]))
    pd.DataFrame({"patient_id": []}).to_csv(tmp_path / "holdout.csv", index=False)
    table, summary = run_audit(tmp_path)
    assert not summary["possible"]
    assert table["copy"].isna().all()
    # The order of the pairs needs no held-out patients: the four copies come first.
    assert set(table["score"].nlargest(4).index) == set(range(len(OTHERS), len(OTHERS) + 4))
    assert "not possible: no patient was held out" in (tmp_path / "privacy.html").read_text()
    privacy_figure.main(privacy_figure.parser().parse_args([
        "--privacy", f"{tmp_path}/privacy.csv", "--real-views", f"{tmp_path}/views.npy", "--real-index",
        f"{tmp_path}/index.csv",
        "--synthetic-views", f"{tmp_path}/synthetic_views.npy", "--output-figure", f"{tmp_path}/pairs.png",
    ]))  # fmt: skip
    from PIL import Image

    picture = np.asarray(Image.open(tmp_path / "pairs.png").convert("RGB")).astype(int)
    assert not (picture == [0xD7, 0x19, 0x1C]).all(axis=2).any()


def test_shift_must_leave_something(tmp_path: Path) -> None:
    write_study(tmp_path, OTHERS)
    with pytest.raises(UserError, match=r"shift = 17.*64 pixels.*at most 16"):
        run_audit(tmp_path, "--shift", "17")


def test_figure_shows_the_closest_pairs(tmp_path: Path) -> None:
    write_study(tmp_path, np.concatenate([OTHERS, TRAINED[:4]]))
    run_audit(tmp_path)
    privacy_figure.main(privacy_figure.parser().parse_args([
        "--privacy", f"{tmp_path}/privacy.csv", "--real-views", f"{tmp_path}/views.npy", "--real-index",
        f"{tmp_path}/index.csv",
        "--synthetic-views", f"{tmp_path}/synthetic_views.npy", "--output-figure", f"{tmp_path}/pairs.png", "--origin",
        "PHANTOM",
    ]))  # fmt: skip
    from PIL import Image

    picture = np.asarray(Image.open(tmp_path / "pairs.png").convert("RGB")).astype(int)
    assert (picture == [0xD7, 0x19, 0x1C]).all(axis=2).sum() > 1000
    index = pd.read_csv(tmp_path / "index.csv")
    index["view_id"] += "x"
    index.to_csv(tmp_path / "index.csv", index=False)
    with pytest.raises(UserError, match="run the audit again"):
        privacy_figure.main(privacy_figure.parser().parse_args([
            "--privacy", f"{tmp_path}/privacy.csv", "--real-views", f"{tmp_path}/views.npy", "--real-index",
            f"{tmp_path}/index.csv",
            "--synthetic-views", f"{tmp_path}/synthetic_views.npy", "--output-figure", f"{tmp_path}/no.png",
        ]))  # fmt: skip


@pytest.mark.parametrize(
    ("column", "cell"), [("score", "high"), ("correlation", "r"), ("copy", "maybe"), ("score", None)]
)
def test_figure_of_a_damaged_audit_is_refused(tmp_path: Path, column: str, cell: str | None) -> None:
    write_study(tmp_path, OTHERS[:4])
    table = pd.DataFrame({
        "index": range(4), "nearest_view": "t00#0", "correlation": 0.5, "score": 1.0, "copy": 0,
    })  # fmt: skip
    table = table.drop(columns=column) if cell is None else table.assign(**{column: [cell, *table[column][1:]]})
    table.to_csv(tmp_path / "privacy.csv", index=False)
    with pytest.raises(UserError, match=rf"privacy.csv(, column {column}, row 1|.* has no column '{column}')"):
        privacy_figure.main(privacy_figure.parser().parse_args([
            "--privacy", f"{tmp_path}/privacy.csv", "--real-views", f"{tmp_path}/views.npy", "--real-index",
            f"{tmp_path}/index.csv",
            "--synthetic-views", f"{tmp_path}/synthetic_views.npy", "--output-figure", f"{tmp_path}/no.png",
        ]))  # fmt: skip
    assert not (tmp_path / "no.png").exists()


@needs_real
def test_planted_copies_of_real_ultrasound_are_found() -> None:
    from PIL import Image

    table = pd.read_csv(SHARED / "real" / "manifest.csv", dtype=str)
    table = table[table["organ"] == "thyroid"]

    def crop(path: str) -> np.ndarray:
        image = Image.open(SHARED / "real" / path).convert("L")
        width, height = image.size
        box = (
            int(0.2 * width),
            int(0.12 * height),
            int(0.8 * width),
            int(0.88 * height),
        )  # away from the burnt-in text
        return np.asarray(image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    views = np.stack([crop(path) for path in table["path"]])
    patients = table["patient_id"].to_numpy()
    group = (
        np.random.default_rng(0).permutation(len(np.unique(patients)))[np.unique(patients, return_inverse=True)[1]] % 4
    )
    training, unseen, others = views[group < 2], views[group == 2], views[group == 3]
    detectors = privacy.Detectors(seen(training, patients[group < 2]), 2)
    threshold = detectors.calibrated(seen(unseen, patients[group == 2]), 0.01).threshold
    copies = planted.planted_copies(training[planted.planted_rows(len(training), 0)], 2, seed=0)
    power = {row["kind"]: row["share"] for row in planted.power(copies, planted_features(copies), detectors, threshold)}
    for name in ("exact", "mirrored", "noise 5 %", "shifted", "gamma 0.7", "blurred", "elastic"):
        assert power[name] >= 0.9, name
    assert (detectors.scores(seen(others)).max(axis=1) > threshold).mean() <= 0.1
