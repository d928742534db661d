"""Learning rates chosen on an inner split: what a row reaches at rates of its own, beside the paper's rates for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.core.randomness import philox
from workflow_scripts.networks.backbone import Classifier
from workflow_scripts.networks.cross_validation import CrossValidation, Diverged, cross_validate
from workflow_scripts.runtime.run import Run
from workflow_scripts.study.config.finetuning import FinetuningRecipe


def scaled(recipe: FinetuningRecipe, factor: float) -> FinetuningRecipe:
    """The recipe with both learning rates times `factor`."""
    return recipe.model_copy(update={"backbone_lr": recipe.backbone_lr * factor, "head_lr": recipe.head_lr * factor})


def inner_split(task: CrossValidation, fold: int, patients: Sequence[str], share: float) -> CrossValidation:
    """A training on the fold's training patients but a `share` of them, whose views it tests; the test fold is in neither.

    `patients` (N,) are the views'. Drawn by fold and seed, separately among patients with a positive view and the others,
    rounded up. Raises `UserError` where a group has fewer than two patients.
    """
    learnt, names = task.targets[fold], np.asarray(patients)
    positive = sorted(set(names[learnt == 1]))
    held: list[str] = []
    for what, group in (("positive", positive), ("negative", sorted(set(names[learnt == 0]) - set(positive)))):
        if len(group) < 2:
            raise UserError(
                f"fold {fold} trains on {len(group)} {what} patients; an inner split that chooses learning rates takes two"
            )
        order = philox(task.seed, f"fold{fold}/inner_split").permutation(len(group))
        count = min(len(group) - 1, -(-len(group) * share // 1))
        held += [group[i] for i in order[: int(count)]]
    is_held = np.isin(names, held) & (learnt >= 0)
    return replace(task, targets={fold: np.where(is_held, -1, learnt)}, folds=np.where(is_held, fold, -1))


def choose_factor(
    task: CrossValidation,
    fold: int,
    patients: Sequence[str],
    factors: Sequence[float],
    share: float,
    start: Callable[[], Classifier],
    run: Run,
    earlier: int,
) -> float:
    """The factor on both learning rates with the largest AUROC on the views of an inner split; the smaller loss where two tie.

    `start` makes the classifier that the fold starts from. `earlier` counts the steps that `run` did before. A factor whose
    training diverges is not chosen; `UserError` where all do.
    """
    from sklearn.metrics import log_loss, roc_auc_score

    inner = inner_split(task, fold, patients, share)
    truth = task.targets[fold][inner.test(fold)]
    scores: dict[float, tuple[float, float]] = {}
    for number, factor in enumerate(factors):
        before = earlier + number * inner.steps(fold)
        trial = replace(inner, recipe=scaled(task.recipe, factor), trial=f"_trial{number}", earlier=before)
        try:
            (result,) = cross_validate({fold: start()}, trial, run)
            # The last step may lead out of what numbers hold, and no loss after it says so.
            is_finite = bool(np.isfinite(result.probabilities).all())
        except Diverged:
            is_finite = False
        if not is_finite:
            say(f"seed {task.seed}, fold {fold}: learning rates times {factor:g} diverge")
            continue
        area, loss = roc_auc_score(truth, result.probabilities), log_loss(truth, result.probabilities, labels=[0, 1])
        say(f"seed {task.seed}, fold {fold}: learning rates times {factor:g} reach AUROC {area:.3f} on the inner split")
        scores[factor] = (float(area), -float(loss))
    if not scores:
        raise UserError(
            f"seed {task.seed}, fold {fold}: every factor of finetuning.own_rate diverges; add smaller ones"
        )
    return max(scores, key=lambda factor: scores[factor])


def trial_steps(
    task: CrossValidation, patients: Sequence[str], factors: Sequence[float], share: float
) -> dict[int, int]:
    """Optimisation steps of all trials of each fold."""
    return {fold: len(factors) * inner_split(task, fold, patients, share).steps(fold) for fold in task.targets}


def with_own_rates(
    task: CrossValidation,
    patients: Sequence[str],
    factors: Sequence[float],
    share: float,
    start: Callable[[int], Classifier],
    run: Run,
) -> tuple[dict[int, float], CrossValidation]:
    """The factor chosen for each fold, and `task` as it goes on after the trials."""
    steps, chosen, earlier = trial_steps(task, patients, factors, share), dict[int, float](), 0
    for fold in sorted(task.targets):
        chosen[fold] = choose_factor(task, fold, patients, factors, share, partial(start, fold), run, earlier)
        earlier += steps[fold]
    return chosen, replace(task, earlier=earlier)


def at_rates(task: CrossValidation, chosen: Mapping[int, float]) -> dict[int, CrossValidation]:
    """The training of each fold at the rates that were chosen for it."""
    return {fold: replace(task, recipe=scaled(task.recipe, chosen.get(fold, 1.0))) for fold in task.targets}
