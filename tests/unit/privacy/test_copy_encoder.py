"""The copy encoder and its stage: what a copy keeps, it recognises."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.textures import textures
from workflow_scripts.core.errors import UserError
from workflow_scripts.privacy import embed_copies as stage
from workflow_scripts.privacy.copy_encoder import (
    CopyTraining,
    PatientTraining,
    altered,
    copy_features,
    info_nce,
    windows,
)
from workflow_scripts.privacy.planted import planted_copies
from workflow_scripts.runtime import run as run_module
from workflow_scripts.runtime.work import Clock, Interrupted

CPU = torch.device("cpu")


def trained(views: np.ndarray, steps: int) -> torch.nn.Module:
    training = CopyTraining(views, np.arange(len(views)), steps, 0, CPU)
    for step in range(steps):
        training.step(step)
    return training.network


def whole(network: torch.nn.Module, views: np.ndarray) -> np.ndarray:
    """Features (N, D) of whole views."""
    return copy_features(network, views, CPU)[:, 0]


def test_a_trained_encoder_finds_rotated_copies_better_than_a_fresh_one() -> None:
    random = np.random.default_rng(0)
    views = np.kron(random.integers(30, 220, (24, 4, 4)), np.ones((8, 8))).astype(np.uint8)
    copies = planted_copies(views, 2, seed=0)["rotated 8°"]

    def right(network: torch.nn.Module) -> float:
        similar = whole(network, copies) @ whole(network, views).T
        return float((similar.argmax(axis=1) == np.arange(24)).mean())

    def margin(network: torch.nn.Module) -> float:
        similar = whole(network, copies) @ whole(network, views).T
        own = similar[np.arange(24), np.arange(24)].copy()
        np.fill_diagonal(similar, -1)
        return float((own - similar.max(axis=1)).mean())

    before, after = trained(views, 1), trained(views, 25)
    assert right(after) >= 0.9
    assert margin(after) > margin(before) + 0.1


def test_features_are_unit_vectors_that_ignore_mirroring_gain_and_batches() -> None:
    views = textures(6)
    network = trained(views, 2)
    plain = whole(network, views)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(whole(network, views[:, :, ::-1]), plain, atol=1e-4)
    np.testing.assert_allclose(whole(network, views[2:3]), plain[2:3], atol=1e-5)
    dim = (views // 2).astype(np.uint8)
    assert (whole(network, dim) * plain).sum(axis=1).min() > 0.99


def test_training_is_repeatable() -> None:
    views = textures(8)
    first, second = (whole(trained(views, 3), views) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_loss_is_chance_for_equal_features_and_small_for_right_pairs() -> None:
    same = torch.nn.functional.normalize(torch.ones(5, 3), dim=1)
    assert info_nce(same, same).item() == pytest.approx(np.log(9), rel=1e-5)
    apart = torch.eye(5)
    assert info_nce(apart, apart).item() < 1e-4


def test_alterations_change_every_image_and_stay_finite() -> None:
    images = torch.from_numpy(textures(6)).float()[:, None] / 255
    changed = altered(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert torch.isfinite(changed).all()
    assert (changed - images).abs().mean(dim=(1, 2, 3)).min() > 0.02


@pytest.fixture
def study(tmp_path: Path) -> Path:
    np.save(tmp_path / "real.npy", textures(12))
    np.save(tmp_path / "synthetic.npy", textures(5, seed=1))
    patients = [f"p{i // 2}" for i in range(12)]
    pd.DataFrame({"view_id": [f"v{i}" for i in range(12)], "patient_id": patients}).to_csv(
        tmp_path / "real.csv", index=False
    )
    pd.DataFrame({"patient_id": ["p5"]}).to_csv(tmp_path / "holdout.csv", index=False)
    return tmp_path


def run_stage(study: Path, names: str = "abc") -> list[np.ndarray]:
    outputs = [study / f"{name}.npy" for name in names]
    flags = ("--output-copy-real", "--output-copy-synthetic", "--output-copy-planted")
    stage.main(stage.parser().parse_args([
        "--views", f"{study}/real.npy", "--index", f"{study}/real.csv", "--synthetic-views", f"{study}/synthetic.npy",
        "--holdout", f"{study}/holdout.csv", *(word for pair in zip(flags, map(str, outputs), strict=True) for word in pair),
        "--device", "cpu", "--encoder-steps", "4", "--shift", "2", "--work-dir", f"{study}/work",
    ]))  # fmt: skip
    return [np.load(file) for file in outputs]


def test_a_crop_lies_nearest_to_the_same_crop_of_its_view() -> None:
    views = textures(8)
    network = trained(views, 2)
    size = views.shape[1]
    found = windows(size)
    assert found[0] == (slice(0, size), slice(0, size))
    known = copy_features(network, views, CPU, crops=True)
    assert known.shape[:2] == (8, len(found))
    np.testing.assert_array_equal(known[:, 0], whole(network, views))
    rows, columns = found[-1]
    assert (rows.stop, columns.stop) == (size, size)  # the lower right corner
    # As a whole view of its own, magnified without smoothing, the corner is that crop but for the pixels' grid.
    corner = views[:, rows, columns].repeat(4, axis=1).repeat(4, axis=2)
    similar = np.einsum("nd,ncd->nc", copy_features(network, corner, CPU)[:, 0], known)
    assert (similar.argmax(axis=1) == len(found) - 1).mean() >= 0.75


def test_a_patients_pairs_are_her_own_views() -> None:
    patients = np.array([f"p{i}" for i in (0, 1, 1, 2, 2, 2, 3)])
    training = PatientTraining(textures(7), patients, 1, 0, CPU)
    drawn = [training.pairs(torch.Generator().manual_seed(seed)) for seed in range(40)]
    for first, second in drawn:
        assert sorted(patients[first]) == ["p0", "p1", "p2", "p3"]
        assert (patients[first] == patients[second]).all()
    same = torch.stack([first == second for first, second in drawn])
    assert 0.3 < same[:, [i for i in range(4)]].float().mean() < 0.8
    with pytest.raises(UserError, match="at least 4 patients, there are 3"):
        PatientTraining(textures(6), np.arange(6) // 2, 1, 0, CPU)


def test_stage_embeds_all_views_and_copies_of_training_views(study: Path) -> None:
    real, synthetic, planted = run_stage(study)
    assert [len(real), len(synthetic), len(planted)] == [12, 5, 12]
    assert real.shape[1:] == (2, len(windows(32)), synthetic.shape[3])
    assert planted.shape[1:4] == (10, 2, 1)  # of the ten training views, by both networks
    np.testing.assert_allclose(planted[0], real[:10, :, :1], atol=1e-5)


def test_an_interrupted_stage_goes_on(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_stage(study)

    class OverSoon(Clock):
        asked = 0

        def is_over(self) -> bool:
            self.asked += 1
            return self.asked == 2

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "Clock", OverSoon)
        with pytest.raises(Interrupted, match=r"step 2 of 8 \(encoders\)"):
            run_stage(study, "def")
    assert not (study / "d.npy").exists()
    for again, features in zip(run_stage(study, "def"), whole, strict=True):
        np.testing.assert_array_equal(again, features)
    assert "continuing" in capsys.readouterr().err
    assert not (study / "work").exists()


def test_stage_refuses_files_that_do_not_belong_together(study: Path) -> None:
    np.save(study / "real.npy", textures(11))
    with pytest.raises(UserError, match=r"11.*12"):
        run_stage(study)
    with pytest.raises(UserError, match="at least 4, there are 3"):
        trained(textures(3), 1)
