"""Learning rates on an inner split: who is in it, which factor is taken, and that an interruption changes nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.shared import start_run
from tests.textures import textures
from workflow_scripts.core.errors import UserError
from workflow_scripts.finetuning import rates
from workflow_scripts.finetuning.rates import at_rates, choose_factor, inner_split, scaled, with_own_rates
from workflow_scripts.networks.backbone import Classifier
from workflow_scripts.networks.cross_validation import CrossValidation, Fold, initial_classifier
from workflow_scripts.runtime.run import Run
from workflow_scripts.runtime.work import Interrupted
from workflow_scripts.study.config.finetuning import FinetuningRecipe

PATIENTS = [f"p{i // 2:02}" for i in range(144)]
LABELS = np.array([int(name[1:]) % 3 == 0 for name in PATIENTS], dtype=np.int64)
FOLDS = np.array([int(name[1:]) // 3 % 2 for name in PATIENTS])
RECIPE = FinetuningRecipe(
    epochs=10, batch_size=16, backbone_lr=1e-5, head_lr=1e-4,
    augmentation={"markers": 0, "rotation": 0, "flip": 0, "shift": 0},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _deterministic():
    torch.use_deterministic_algorithms(True)


@pytest.fixture(scope="module")
def task() -> CrossValidation:
    """Textures that tell the label, two folds of 36 patients; nothing of a fold is learnt by its model."""
    both = [textures(len(PATIENTS), 32, seed=3, coarse=coarse) for coarse in (False, True)]
    views = torch.from_numpy(np.where(LABELS[:, None, None] == 1, both[1], both[0]))
    return CrossValidation(views, {fold: np.where(fold == FOLDS, -1, LABELS) for fold in (0, 1)}, FOLDS, RECIPE, seed=0)


def start(fold: int) -> Classifier:
    return initial_classifier("test_resnet", "scratch", None, 0, fold, RECIPE)


def test_an_inner_split_divides_the_training_patients_and_leaves_the_test_fold_alone(task: CrossValidation):
    inner = inner_split(task, 0, PATIENTS, 0.25)
    names = np.array(PATIENTS)
    learnt, held = set(names[inner.training(0)]), set(names[inner.test(0)])
    outer = set(names[task.training(0)])
    assert learnt | held == outer
    assert not learnt & held
    # A quarter of the twelve positive and of the twenty-four negative patients.
    assert len(held) == 9
    assert sum(LABELS[names == name].max() for name in held) == 3
    again = inner_split(task, 0, PATIENTS, 0.25)
    np.testing.assert_array_equal(inner.folds, again.folds)
    assert (inner_split(replace(task, seed=1), 0, PATIENTS, 0.25).folds != inner.folds).any()


def test_an_inner_split_takes_two_patients_of_a_class(task: CrossValidation):
    few = {
        0: np.where((task.targets[0] == 1) & (np.array(PATIENTS) != PATIENTS[task.training(0)[0]]), -1, task.targets[0])
    }
    with pytest.raises(UserError, match=r"fold 0 trains on [01] positive patients"):
        inner_split(replace(task, targets=few), 0, PATIENTS, 0.25)


def test_the_factor_that_learns_is_taken_and_one_that_diverges_is_not(task: CrossValidation, tmp_path: Path):
    factor = choose_factor(
        task, 0, PATIENTS, [1e-3, 100.0, 1e12], 0.25, lambda: start(0), start_run(tmp_path / "work"), 0
    )
    assert factor == 100.0
    assert not (tmp_path / "work" / "metrics.jsonl").exists()
    with pytest.raises(UserError, match="every factor"):
        choose_factor(task, 0, PATIENTS, [1e20, 1e30], 0.25, lambda: start(0), start_run(tmp_path / "other"), 0)


def test_a_trial_whose_last_step_leaves_no_numbers_is_not_chosen(task: CrossValidation, tmp_path: Path, monkeypatch):
    task = replace(task, recipe=RECIPE.model_copy(update={"epochs": 1}))
    trained = rates.cross_validate

    def broken(models: dict, trial: CrossValidation, run: Run) -> list[Fold]:
        (result,) = trained(models, trial, run)
        lost = np.full_like(result.probabilities, np.nan)
        return [replace(result, probabilities=lost) if trial.trial == "_trial1" else result]

    monkeypatch.setattr(rates, "cross_validate", broken)
    start_fold = partial(start, 0)
    assert choose_factor(task, 0, PATIENTS, [1e-3, 100.0], 0.25, start_fold, start_run(tmp_path / "work"), 0) == 1e-3


def test_each_fold_is_trained_at_its_own_rates(task: CrossValidation):
    trained = at_rates(task, {0: 10.0})
    assert trained[0].recipe == scaled(RECIPE, 10.0)
    assert trained[1].recipe == RECIPE
    assert (trained[0].recipe.backbone_lr, trained[0].recipe.head_lr) == pytest.approx((1e-4, 1e-3))


def test_a_choice_that_was_interrupted_is_the_same(task: CrossValidation, tmp_path: Path):
    task = replace(task, recipe=RECIPE.model_copy(update={"epochs": 2}))

    class StopAfter:
        steps = 3

        def is_over(self) -> bool:
            self.steps -= 1
            return self.steps <= 0

    whole = with_own_rates(task, PATIENTS, [1.0, 100.0], 0.25, start, start_run(tmp_path / "whole"))
    interruptions = 0
    while True:
        run = start_run(tmp_path / "parts")
        run.clock = StopAfter()
        try:
            parts = with_own_rates(task, PATIENTS, [1.0, 100.0], 0.25, start, run)
            break
        except Interrupted:
            interruptions += 1
            run.work.lock.close()
    assert interruptions > 2
    assert parts[0] == whole[0]
    assert parts[1].earlier == whole[1].earlier > 0
