"""Attacks that ask who was trained on: closed forms, and a generator that learnt its views by heart."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.unit.diffusion.test_training import TINY, command
from tests.unit.privacy.test_checkpoint_selection import trained, write_study
from workflow_scripts.diffusion import train_diffusion
from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas
from workflow_scripts.diffusion.snapshots import denoising_errors, reverse_step_errors
from workflow_scripts.privacy import measure_denoising
from workflow_scripts.privacy.membership import attack_on_weights, membership_auc
from workflow_scripts.runtime import run as run_module
from workflow_scripts.runtime.cli import run
from workflow_scripts.runtime.work import Clock

__all__ = ["trained"]  # a fixture


def test_membership_auc_closed_forms() -> None:
    patients = np.repeat(np.arange(10), 2)
    near, far = np.arange(20.0), np.arange(100.0, 120.0)
    assert membership_auc(near, patients, far, patients, 0) == (1, 1, 1)
    value, low, high = membership_auc(near, patients, near, patients, 0)
    assert value == 0.5
    assert low < 0.5 < high


def test_weights_that_know_their_patients_are_found_out() -> None:
    patients = np.repeat(np.arange(40), 2)
    held_out = patients >= 20
    known = attack_on_weights(np.where(held_out, 0.2, 0.1), patients, held_out, 0)
    assert known["auc"] == {"value": 1, "low": 1, "high": 1}
    # A hundredth of 20 patients is nobody.
    assert known["caught"] == [{"false_alarms": 0.1, "value": 1, "low": 1, "high": 1}]
    assert (known["training_patients"], known["held_out_patients"]) == (20, 20)
    other_way = attack_on_weights(np.where(held_out, 0.1, 0.2), patients, held_out, 0)
    assert other_way["auc"]["value"] == other_way["caught"][0]["value"] == 0


def test_two_of_twenty_unseen_patients_may_be_taken_for_members() -> None:
    patients = np.arange(40)
    errors = np.concatenate([np.arange(20) + 0.5, np.arange(20)])
    # Unseen patients 0 and 1 lie below the threshold 2, and training patients 0.5 and 1.5.
    assert attack_on_weights(errors, patients, patients >= 20, 0)["caught"][0]["value"] == pytest.approx(2 / 20)


def test_one_of_a_hundred_unseen_patients_may_be_taken_for_a_member() -> None:
    patients = np.arange(110)
    errors = np.concatenate([np.arange(10) + 0.5, np.arange(100)])
    caught = attack_on_weights(errors, patients, patients >= 10, 0)["caught"]
    assert [found["false_alarms"] for found in caught] == [0.1, 0.01]
    assert caught[1]["value"] == pytest.approx(1 / 10)  # below the second smallest, 1: patient 0.5


def test_a_patient_counts_once_and_few_patients_have_no_tenth() -> None:
    errors = np.array([0.1, 0.1, 0.1, 0.9, 0.5, 0.6])
    patients = np.array(["a", "a", "a", "b", "c", "d"])
    result = attack_on_weights(errors, patients, np.array([0, 0, 0, 0, 1, 1], dtype=bool), 0)
    assert result["auc"]["value"] == 0.5
    assert result["caught"] == []


def test_intervals_hold_what_they_promise() -> None:
    generator = np.random.default_rng(0)
    patients, held_out = np.arange(60), np.arange(60) >= 30
    covered = []
    for seed in range(100):
        errors = generator.standard_normal(60) + held_out  # P(smaller) = Phi(1 / sqrt 2)
        auc = attack_on_weights(errors, patients, held_out, seed)["auc"]
        covered.append(auc["low"] <= 0.760 <= auc["high"])
    assert np.mean(covered) > 0.85


def measured(study: list[str], model: Path, folder: Path, name: str = "errors") -> pd.DataFrame:
    words = [*study, "--model", str(model), "--noises", "4", "--batch-size", "10", "--work-dir", str(folder / "work")]
    run(measure_denoising.main, measure_denoising.parser(), [*words, "--output-denoising", str(folder / f"{name}.csv")])
    return pd.read_csv(folder / f"{name}.csv", dtype={"patient_id": str})


def test_an_interrupted_measurement_goes_on(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, study = trained
    table = measured(study, folder / "model", tmp_path, "whole")
    assert list(table.columns) == ["view_id", "patient_id", "held_out", "error", "secmi"]
    assert table["held_out"].sum() == 8

    class OverSoon(Clock):
        asked = 0

        def is_over(self) -> bool:
            self.asked += 1
            return self.asked == 6  # in the second of four rounds

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "Clock", OverSoon)
        with pytest.raises(SystemExit):
            measured(study, folder / "model", tmp_path, "interrupted")
    assert "batch 6 of 20 (denoising)" in capsys.readouterr().err
    measured(study, folder / "model", tmp_path, "interrupted")
    assert "continuing" in capsys.readouterr().err
    assert (tmp_path / "interrupted.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_views_of_another_size_are_refused(
    trained: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, study = trained
    np.save(tmp_path / "labelled.npy", np.zeros((32, 24, 24), dtype=np.uint8))
    with pytest.raises(SystemExit):
        measured([*study, "--views", str(tmp_path / "labelled.npy")], folder / "model", tmp_path)
    assert "was trained on views of 16 pixels" in capsys.readouterr().err


class Kernels(torch.nn.Module):
    """The exact denoiser of views (N, S, S) in [-1, 1] under noise of the deviation `width`: what a generator that knows them
    by heart would be, and of one view of zeros and wide noise, one that knows the distribution and no view."""

    def __init__(self, views: np.ndarray, width: float, process: GaussianProcess) -> None:
        super().__init__()
        self.known = torch.nn.Parameter(torch.from_numpy(views).float().flatten(1))
        self.width, self.levels = width, torch.from_numpy(process.alphas_cumprod).float()
        self.config = SimpleNamespace(num_class_embeds=None)

    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None) -> SimpleNamespace:
        assert class_labels is None
        left = self.levels[t][:, None]
        flat, centres = x.flatten(1), left.sqrt()[:, None] * self.known
        variance = left * self.width**2 + 1 - left
        near = ((flat[:, None] - centres) ** 2).sum(dim=2)
        middle = torch.einsum("nm,md->nd", (-near / (2 * variance)).softmax(dim=1), self.known)
        x0 = middle + left.sqrt() * self.width**2 / variance * (flat - left.sqrt() * middle)
        return SimpleNamespace(sample=((flat - left.sqrt() * x0) / (1 - left).sqrt()).view_as(x))


@pytest.mark.parametrize("by_heart", [True, False])
def test_both_attacks_tell_what_is_known_by_heart_and_nothing_else(by_heart: bool) -> None:
    process = GaussianProcess(schedule_betas("cosine", 100))
    drawn = np.random.default_rng(0).normal(127.5, 40, (600, 6, 6))
    views = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
    held_out, scaled = np.arange(600) >= 300, views / 127.5 - 1
    unet: Any = Kernels(scaled[:300], 0.1, process) if by_heart else Kernels(np.zeros((1, 6, 6)), 40 / 127.5, process)
    for attack in (
        denoising_errors(unet, process, views, 300, 0),
        reverse_step_errors(unet, process, views, 300),
    ):
        found = attack_on_weights(np.concatenate(list(attack)), np.arange(600), held_out, 0)
        assert found["auc"]["value"] >= 0.9 if by_heart else 0.45 <= found["auc"]["value"] <= 0.55
        assert [caught["false_alarms"] for caught in found["caught"]] == [0.1, 0.01]
        assert found["caught"][1]["value"] >= 0.5 if by_heart else found["caught"][1]["value"] <= 0.06


@pytest.mark.slow
def test_a_generator_that_learnt_by_heart_gives_its_patients_away(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    words = [*study, "--output-model", str(tmp_path / "model"), "--output-metrics", str(tmp_path / "metrics.jsonl")]
    settings = {**TINY, "steps": 800, "batch_size": 16, "dropout": 0.0, "checkpoint_every": 1000, "ema": 0.9}
    settings |= {"attention_resolutions": [8]}
    run(train_diffusion.main, train_diffusion.parser(), [*words, "--work-dir", str(tmp_path / "w"), *command(settings)])
    table = measured(study, tmp_path / "model", tmp_path)
    patients, held_out = table["patient_id"].to_numpy(), table["held_out"].to_numpy() == 1
    auc = attack_on_weights(table["error"].to_numpy(), patients, held_out, 0)["auc"]
    assert auc["value"] > 0.8
    assert auc["low"] > 0.5
