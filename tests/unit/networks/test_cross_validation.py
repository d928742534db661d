"""Fine-tuning: sampling, augmentation, folds, what is learnt, and the stage: artefacts, resumption, mistakes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from tests.shared import replace, start_run
from tests.textures import textures
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, sha256, write_csv, write_npy
from workflow_scripts.core.randomness import uniforms
from workflow_scripts.finetuning import finetune
from workflow_scripts.networks import cross_validation as finetuning
from workflow_scripts.networks import released_augmentation
from workflow_scripts.networks.backbone import (
    Classifier,
    create_backbone,
    load_classifier,
    normalise,
    standardise,
    to_unit,
)
from workflow_scripts.networks.cross_validation import (
    CrossValidation,
    augment,
    augmentation_draws,
    batch_bounds,
    coupled_loss,
    cross_validate,
    draw_order,
    draw_samples,
    initial_classifier,
    initial_classifiers,
    mean_per_view,
    partners,
    predict,
    re_estimate_batch_norm,
    train_fold,
)
from workflow_scripts.networks.fold_inputs import join_tables, training_targets, weights_by_fold
from workflow_scripts.runtime import run as runs
from workflow_scripts.runtime import work
from workflow_scripts.study.config.finetuning import FinetuningAugmentation, FinetuningRecipe

CLASSES = ("fine", "coarse")
PLAIN = FinetuningAugmentation(markers=0, rotation=0, flip=0, shift=0)
FULL = FinetuningAugmentation(markers=0.5, rotation=20, flip=0.5, shift=0.1)
TINY = replace(FinetuningRecipe(), epochs=2, batch_size=8, backbone_lr=1e-3, head_lr=1e-2)


@pytest.fixture(autouse=True)
def _deterministic():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class StopAfter(work.Clock):
    """A clock that is over when it has been asked `steps` times."""

    def __init__(self, steps: float = float("inf")) -> None:
        self.steps = steps

    def is_over(self) -> bool:
        self.steps -= 1
        return self.steps <= 0


class KillAfter(StopAfter):
    """A machine that dies when the clock has been asked `steps` times."""

    def is_over(self) -> bool:
        if super().is_over():
            raise KeyboardInterrupt
        return False


def study(patients: int = 12, views: int = 2, folds: int = 3) -> pd.DataFrame:
    """One row per view; a quarter of the patients is positive, as many in every fold."""
    rows = [
        {"view_id": f"p{p:02}#{v}", "patient_id": f"p{p:02}", "label": CLASSES[p % 4 == 0], "fold": p % folds}
        for p in range(patients)
        for v in range(views)
    ]
    return pd.DataFrame(rows)


def pictures(table: pd.DataFrame, size: int = 32) -> np.ndarray:
    """Views that show the class of their row."""
    both = [textures(len(table), size, seed=3, coarse=coarse) for coarse in (False, True)]
    return np.where((table["label"] == CLASSES[1]).to_numpy()[:, None, None], both[1], both[0])


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_weighted_sampler_draws_each_class_and_each_of_its_views_equally_often():
    labels = np.repeat([0, 1], [90, 10])
    orders = np.stack([draw_order(labels, "weighted", 0, "fold0", epoch) for epoch in range(100)])
    assert orders.shape == (100, 100)
    # 10 000 fair coins: three standard deviations are 0.015.
    assert labels[orders].mean() == pytest.approx(0.5, abs=0.015)
    counts = np.bincount(orders.ravel(), minlength=100)
    # Expected: 500 draws of each of the ten, 56 of each of the ninety.
    assert np.abs(counts[90:] - 500).max() < 100
    assert np.abs(counts[:90] - 56).max() < 34


def test_shuffle_draws_every_view_once():
    order = draw_order(np.repeat([0, 1], [9, 4]), "shuffle", 0, "fold0", 3)
    assert sorted(order) == list(range(13))


@pytest.mark.parametrize("sampler", ["weighted", "shuffle"])
def test_order_is_a_function_of_seed_fold_and_epoch(sampler):
    labels = np.repeat([0, 1], [20, 20])
    first = draw_order(labels, sampler, 0, "fold0", 0)
    np.testing.assert_array_equal(first, draw_order(labels, sampler, 0, "fold0", 0))
    for other in ((1, "fold0", 0), (0, "fold1", 0), (0, "fold0", 1)):
        assert (first != draw_order(labels, sampler, *other)).any()


def test_a_view_drawn_again_is_augmented_afresh():
    samples = draw_samples(np.array([2, 0, 2, 1, 2]), np.array([10, 20, 30]), total=100)
    np.testing.assert_array_equal(samples, [30, 10, 130, 20, 230])


def test_no_view_is_dropped_and_no_batch_is_of_one():
    assert batch_bounds(8, 4) == [(0, 4), (4, 8)]
    assert batch_bounds(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert batch_bounds(9, 4) == [(0, 4), (4, 9)]
    assert batch_bounds(3, 4) == [(0, 3)]


def test_losses_are_means_over_draws():
    losses = mean_per_view(np.array([2, 0, 2, 3]), np.array([1.0, 5.0, 2.0, 0.5]))
    np.testing.assert_array_equal(losses, [5.0, np.nan, 1.5, 0.5])


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_augmentation_does_not_depend_on_the_batch():
    images = torch.rand(9, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    draws = uniforms(0, "fold0/augmentation", 0, np.arange(9), augmentation_draws(FULL))
    together = augment(images, draws, FULL)
    for part in (slice(0, 1), slice(2, 7), slice(8, 9)):
        assert torch.equal(augment(images[part], draws[part], FULL), together[part])
    assert not torch.equal(together, images)


def test_each_image_has_parameters_of_its_own():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)).expand(16, -1, -1, -1)
    for settings in (replace(PLAIN, markers=0.3), replace(PLAIN, rotation=10), replace(PLAIN, shift=0.05)):
        draws = uniforms(0, "x", 0, np.arange(16), augmentation_draws(settings))
        assert len({images.numpy().tobytes() for images in augment(image, draws, settings)}) > 8


def test_augmentation_switches():
    images = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    draws = uniforms(0, "x", 0, np.arange(8), augmentation_draws(FULL))
    assert torch.equal(augment(images, draws, PLAIN), images)
    torch.testing.assert_close(augment(images, draws, replace(PLAIN, flip=1)), images.flip(-1))
    shifted = augment(images, np.tile(np.float32([0.5, 0, 1, 0.5]), (8, 1)), replace(PLAIN, shift=0.25))
    # The largest shift is a quarter of the side; what comes in is black.
    torch.testing.assert_close(shifted[..., :24], images[..., 8:])
    assert not shifted[..., 24:].any()
    mirrored = augment(
        images, np.tile(np.float32([0.5, 0, 1, 0.5]), (8, 1)), replace(PLAIN, shift=0.25, outside="reflected")
    )
    torch.testing.assert_close(mirrored, torch.cat([images[..., 8:], images[..., 24:].flip(-1)], dim=-1))
    turned = augment(images, np.tile(np.float32([1, 0, 0, 0]), (8, 1)), replace(PLAIN, rotation=90))
    torch.testing.assert_close(turned, torch.rot90(images, 1, (-2, -1)))


RELEASED = FinetuningAugmentation(preset="released")


def test_the_released_augmentation_does_not_depend_on_the_batch():
    images = torch.rand(9, 1, 60, 60, generator=torch.Generator().manual_seed(0))
    draws = uniforms(0, "x", 0, np.arange(9), augmentation_draws(RELEASED))
    together = augment(images, draws, RELEASED)
    for part in (slice(0, 1), slice(2, 7)):
        assert torch.equal(augment(images[part], draws[part], RELEASED), together[part])


def test_the_released_augmentation_cuts_flips_marks_and_shifts():
    ramp = torch.arange(300.0).expand(1, 1, 300, 300) / 300

    def released(**values):
        draws = np.full((1, released_augmentation.UNIFORMS), 0.99, np.float32)
        for place, value in values.items():
            draws[0, int(place[1:])] = value
        return augment(ramp, draws, RELEASED)

    torch.testing.assert_close(released(), ramp, atol=1e-5, rtol=0)
    # 25 pixels off the left, off the right, or both: the rest is stretched over the side.
    for cuts, low, high in (({"_0": 0}, 25, 300), ({"_1": 0}, 0, 275), ({"_0": 0, "_1": 0}, 25, 275)):
        row = 300 * released(**cuts)[0, 0, 0]
        assert float(row[0]) == pytest.approx(low, abs=1)
        assert float(row[-1]) == pytest.approx(high - 1, abs=1)
    torch.testing.assert_close(released(_2=0), ramp.flip(-1), atol=1e-5, rtol=0)
    down = released(_3=0)
    assert float(down[0, 0, :59].max()) < 1e-5
    torch.testing.assert_close(down[..., 59:, :], ramp[..., :241, :], atol=1e-4, rtol=0)
    # Up to four circles and plus signs, and three lines: each writes on the image.
    circles, lines = (released(_5=0) != ramp).sum(), (released(_59=0) != ramp).sum()
    assert circles > 100
    assert lines > 100


# --- training ---------------------------------------------------------------------------------------------------------


def run_folds(table, labels, recipe, path, kept=None):
    folds = table["fold"].to_numpy()
    models = initial_classifiers("test_resnet", "scratch", [], 0, sorted(set(folds.tolist())))
    kept = np.ones(len(table), bool) if kept is None else kept
    targets = {fold: np.where(kept, labels, -1) for fold in models}
    task = CrossValidation(torch.from_numpy(pictures(table)), targets, folds, recipe, seed=0)
    return cross_validate(models, task, start_run(path))


def one_fold(views, labels, rows, recipe, record="training"):
    """Fold 0 of a cross-validation, which trains on `rows` alone."""
    known = np.isin(np.arange(len(labels)), rows)
    return CrossValidation(views, {0: np.where(known, labels, -1)}, np.where(known, 1, 0), recipe, 0, record)


def test_learns_textures_and_nothing_from_shuffled_labels(tmp_path):
    table = study(patients=36, views=4)
    truth = (table["label"] == CLASSES[1]).to_numpy(np.int64)
    recipe = replace(TINY, epochs=6, batch_size=16, backbone_lr=3e-3, head_lr=3e-3)
    shuffled = np.random.default_rng(0).permutation(truth)

    def auroc(labels, path):
        probabilities = np.full(len(table), np.nan)
        for fold in run_folds(table, labels, recipe, path):
            probabilities[fold.test] = fold.probabilities
        return roc_auc_score(labels, probabilities)

    assert auroc(truth, tmp_path / "true") > 0.9
    assert 0.35 < auroc(shuffled, tmp_path / "shuffled") < 0.65


@pytest.mark.parametrize("settings", [PLAIN, FULL])
def test_recorded_losses_are_those_of_the_augmented_batch_before_its_step(tmp_path, settings):
    table = study()
    views, labels = torch.from_numpy(pictures(table)), (table["label"] == CLASSES[1]).to_numpy(np.int64)
    rows = np.arange(2, 14)
    recipe = replace(TINY, epochs=2, batch_size=12, sampler="shuffle", augmentation=settings)
    model = initial_classifier("test_resnet", "scratch", None, 0, 0).train()
    # By row of the store: what a view is turned into does not depend on when in the epoch it is drawn.
    draws = uniforms(0, "fold0/augmentation", 0, rows, augmentation_draws(settings))
    with torch.no_grad():
        logits = model(standardise(augment(to_unit(views[rows]), draws, settings)))
        expected = F.cross_entropy(logits, torch.from_numpy(labels[rows]), reduction="none")
    fresh = initial_classifier("test_resnet", "scratch", None, 0, 0)
    losses = train_fold(fresh, one_fold(views, labels, rows, recipe), 0, start_run(tmp_path / "w"))
    np.testing.assert_allclose(losses[0], expected.numpy(), rtol=1e-4)
    assert losses.shape == (2, 12)
    assert losses[1].mean() < losses[0].mean()


def test_the_partner_of_a_view_is_another_one_of_its_organ_side():
    assert partners(np.array([5, 2, 5, 7, 2, 2])).tolist() == [2, 4, 0, 3, 5, 1]


def test_the_coupled_loss_is_cross_entropy_and_symmetric_divergence():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    targets = torch.tensor([1, 0, 0, 0])
    entropy = F.cross_entropy(logits, targets, reduction="none")
    p, q = logits[0].softmax(0), logits[2].softmax(0)
    divergence = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
    expected = torch.stack([(entropy[0] + entropy[2]) / 2 + 0.7 * divergence, (entropy[1] + entropy[3]) / 2])
    torch.testing.assert_close(coupled_loss(logits, targets, 0.7), expected)


def test_both_views_of_a_side_are_trained_together_and_a_dropped_one_is_not_seen(tmp_path):
    table = study()
    views, labels = torch.from_numpy(pictures(table)), (table["label"] == CLASSES[1]).to_numpy(np.int64)
    rows = np.arange(2, 14)
    recipe = replace(TINY, epochs=1, batch_size=12, sampler="shuffle", augmentation=FULL, coupled=0.5)
    organ_side = np.arange(len(labels)) // 4
    partner = partners(organ_side)
    seen = np.where(np.isin(partner, rows), partner, np.arange(len(labels)))[rows]
    assert (seen == rows).any()
    assert (seen != rows).any()
    model = initial_classifier("test_resnet", "scratch", None, 0, 0).train()
    count = augmentation_draws(FULL)
    draws = [uniforms(0, f"fold0/{name}", 0, rows, count) for name in ("augmentation", "partner")]
    with torch.no_grad():
        images = [augment(to_unit(views[shown]), draw, FULL) for shown, draw in zip((rows, seen), draws, strict=True)]
        logits = model(standardise(torch.cat(images)))
        expected = coupled_loss(logits, torch.from_numpy(labels[np.concatenate([rows, seen])]), 0.5)
    task = dataclasses.replace(one_fold(views, labels, rows, recipe), partners=partner)
    fresh = initial_classifier("test_resnet", "scratch", None, 0, 0)
    losses = train_fold(fresh, task, 0, start_run(tmp_path / "w"))
    np.testing.assert_allclose(losses[0], expected.numpy(), rtol=1e-4)


def test_weighted_sampler_leaves_views_without_a_loss(tmp_path):
    table = study()
    labels = (table["label"] == CLASSES[1]).to_numpy(np.int64)
    for fold in run_folds(table, labels, TINY, tmp_path / "w"):
        assert fold.losses.shape == (2, 16)
        order = draw_order(labels[fold.training], "weighted", 0, f"fold{fold.fold}", 0)
        np.testing.assert_array_equal(np.isfinite(fold.losses[0]), np.isin(np.arange(16), order))


def test_dropped_views_are_predicted_but_not_trained_on(tmp_path):
    table = study()
    kept = np.arange(len(table)) % 5 != 0
    results = run_folds(table, (table["label"] == CLASSES[1]).to_numpy(np.int64), TINY, tmp_path / "w", kept=kept)
    patients = table["patient_id"].to_numpy()
    for fold in results:
        assert kept[fold.training].all()
        assert not set(patients[fold.training]) & set(patients[fold.test])
        assert len(fold.training) == (kept & (table["fold"] != fold.fold)).sum()
    assert sorted(np.concatenate([fold.test for fold in results])) == list(range(len(table)))


def test_the_two_learning_rates_and_the_start_of_each_fold(tmp_path):
    table = study()
    labels = (table["label"] == CLASSES[1]).to_numpy(np.int64)
    results = run_folds(table, labels, replace(TINY, backbone_lr=0, weight_decay=0.1), tmp_path / "w")
    for fold in results:
        start = initial_classifier("test_resnet", "scratch", None, 0, fold.fold).state_dict()
        for name, value in fold.weights.items():
            if name.startswith("head."):
                assert not torch.equal(value, start[name])
            elif "running" not in name and "tracked" not in name:
                assert torch.equal(value, start[name])
    assert not torch.equal(results[0].weights["backbone.conv1.0.weight"], results[1].weights["backbone.conv1.0.weight"])


def test_the_folds_of_a_seed_share_a_start_where_the_recipe_says_so():
    shared = replace(TINY, shared_start=True)
    models = initial_classifiers("test_resnet", "scratch", [], 3, [0, 1], shared)
    first, second = (model.state_dict() for model in models.values())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = initial_classifier("test_resnet", "scratch", None, 4, 0, shared).state_dict()
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_frozen_backbone_stays_as_it_starts(tmp_path):
    table = study()
    labels = (table["label"] == CLASSES[1]).to_numpy(np.int64)
    for fold in run_folds(table, labels, replace(TINY, freeze_backbone=True), tmp_path / "w"):
        start = initial_classifier("test_resnet", "scratch", None, 0, fold.fold).state_dict()
        for name, value in fold.weights.items():
            # Running statistics too.
            assert torch.equal(value, start[name]) != name.startswith("head.")


def test_re_estimated_statistics_are_those_of_the_views_and_no_weight_changes():
    network = initial_classifier("test_resnet", "scratch", None, 0, 0).eval()
    views = torch.from_numpy(textures(24, 32))
    weights = {name: value.clone() for name, value in network.named_parameters()}
    re_estimate_batch_norm(network, views)
    assert not network.training
    for name, value in network.named_parameters():
        assert torch.equal(value, weights[name]), name
    first = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(normalise(views))
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, seen[0].mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_folds_predict_with_statistics_of_their_training_views_as_they_are(tmp_path):
    table = study()
    labels = (table["label"] == CLASSES[1]).to_numpy(np.int64)
    views = torch.from_numpy(pictures(table))
    shifted = replace(TINY, augmentation=FULL)
    running = run_folds(table, labels, replace(shifted, batch_norm="running"), tmp_path / "running")
    for before, after in zip(running, run_folds(table, labels, shifted, tmp_path / "again"), strict=True):
        model = initial_classifier("test_resnet", "scratch", None, 0, before.fold)
        model.load_state_dict(before.weights)
        re_estimate_batch_norm(model, views[before.training])
        for name, value in model.state_dict().items():
            assert torch.equal(value, after.weights[name]), name
        assert not torch.equal(before.weights["backbone.bn1.running_mean"], after.weights["backbone.bn1.running_mean"])
        np.testing.assert_array_equal(after.probabilities, predict(model, views[after.test]))


def test_divergence_names_fold_and_epoch(tmp_path):
    table = study()
    with pytest.raises(UserError, match=r"fold 0, epoch 2.*Lower head_lr"):
        run_folds(
            table, (table["label"] == CLASSES[1]).to_numpy(np.int64),
            replace(TINY, epochs=3, batch_size=16, head_lr=1e38), tmp_path / "w",
        )  # fmt: skip


def test_predictions_do_not_depend_on_the_batch():
    model = Classifier(create_backbone("test_resnet"), 0)
    views = torch.from_numpy(textures(70))
    together = predict(model, views)
    assert together.shape == (70,)
    assert not model.training
    np.testing.assert_allclose(predict(model, views[:3]), together[:3], rtol=1e-5)
    np.testing.assert_allclose(predict(model, views[65:]), together[65:], rtol=1e-5)


def test_a_recorded_evaluation_is_the_loss_of_what_the_model_predicts(tmp_path):
    table = study()
    labels = (table["label"] == CLASSES[1]).to_numpy(np.int64)
    rows = np.flatnonzero(table["fold"] != 0)
    views = torch.from_numpy(pictures(table))
    model = initial_classifier("test_resnet", "scratch", None, 0, 0)
    losses = train_fold(model, one_fold(views, labels, rows, TINY, "evaluation"), 0, start_run(tmp_path / "w"))
    probability = predict(model, views[rows])
    expected = -np.log(np.where(labels[rows] == 1, probability, 1 - probability))
    np.testing.assert_allclose(losses[-1], expected, rtol=1e-4)
    assert not np.allclose(losses[0], losses[-1])


# --- inputs -----------------------------------------------------------------------------------------------------------


def tables():
    table = study()
    return (
        table[["view_id", "patient_id", "label"]],
        table[["view_id", "patient_id", "fold"]],
        table[["view_id", "label"]].assign(keep=1),
    )


SOURCES = ("index.csv", "folds.csv", "labels.csv")


def test_tables_are_joined_in_the_order_of_the_index():
    index, folds, labels = tables()
    labels.loc[0, ["label", "keep"]] = ["fine", 0]
    joined = join_tables(index, folds.iloc[::-1], labels.sample(frac=1, random_state=0), CLASSES, SOURCES)
    assert joined["view_id"].tolist() == index["view_id"].tolist()
    assert joined["fold"].tolist() == study()["fold"].tolist()
    assert joined["label_original"].tolist() == index["label"].tolist()
    assert joined.loc[0, ["label_original", "label_policy", "keep"]].tolist() == ["coarse", "fine", 0]
    alone = join_tables(index, folds, None, CLASSES, SOURCES)
    assert (alone["label_policy"] == index["label"]).all()
    assert alone["keep"].all()


def test_labels_made_per_fold_train_their_fold_and_score_their_own():
    index, folds, labels = tables()
    per_fold = pd.concat([labels.assign(fold=fold) for fold in range(3)], ignore_index=True)
    own = per_fold["fold"].to_numpy() == np.tile(study()["fold"], 3)
    # Every label of a training part is changed, none of a test part; and the first view is left out of training in fold 1.
    changed = np.where(per_fold["label"] == "fine", "coarse", "fine")
    per_fold["label"] = per_fold["label"].where(own, changed)
    per_fold.loc[(per_fold["view_id"] == "p00#0") & (per_fold["fold"] == 1), "keep"] = 0
    joined = join_tables(index, folds, per_fold.sample(frac=1, random_state=0), CLASSES, SOURCES)
    assert (joined["label_policy"] == joined["label_original"]).all()
    assert joined["keep"].all()
    targets = training_targets(joined, per_fold, CLASSES[1])
    truth = (index["label"] == CLASSES[1]).to_numpy(np.int64)
    for fold in range(3):
        test = (study()["fold"] == fold).to_numpy()
        expected = np.where(test, -1, 1 - truth)
        if fold == 1:
            expected[0] = -1
        np.testing.assert_array_equal(targets[fold], expected)
    with pytest.raises(UserError, match=r"24 views of index.csv are not in labels.csv"):
        join_tables(index, folds, per_fold[per_fold["fold"] > 0], CLASSES, SOURCES)
    one = training_targets(join_tables(index, folds, labels, CLASSES, SOURCES), labels, CLASSES[1])
    assert all((one[fold] == np.where(study()["fold"] == fold, -1, truth)).all() for fold in range(3))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda i, f, b: (i, f[1:], b), "1 views of index.csv are not in folds.csv, for example 'p00#0'"),
        (lambda i, f, b: (i[2:], f, b[2:]), "2 views of folds.csv are not in index.csv, for example 'p00#0'"),
        (lambda i, f, b: (i, f, b[1:]), "1 views of index.csv are not in labels.csv, for example 'p00#0'"),
        (
            lambda i, f, b: (i, pd.concat([f, f[:1].assign(fold=1)]), b),
            "folds.csv: view_id p00#0 has more than one row",
        ),
        (lambda i, f, b: (pd.concat([i, i[:1]]), f, b), "index.csv: view_id p00#0 has more than one row"),
        (
            lambda i, f, b: (i, f, b.assign(label="other")),
            "labels.csv: 24 views have a label other than fine and coarse",
        ),
        (lambda i, f, b: (i, f, b.assign(keep=2)), "labels.csv: column keep must be 0 or 1"),
        (lambda i, f, b: (i, f, b.drop(columns="keep")), "labels.csv lacks the columns keep"),
        (lambda i, f, b: (i, f.assign(fold=0), b), "all 24 views are in one fold"),
        (
            lambda i, f, b: (i, f, b.assign(keep=(b["label"] == "fine").astype(int))),
            "fold 0 would train on 12 fine and 0 coarse",
        ),
    ],
)
def test_tables_that_disagree_are_refused(mistake, message):
    with pytest.raises(UserError) as error:
        join_tables(*mistake(*tables()), CLASSES, SOURCES)
    assert message in str(error.value)


def test_weights_by_fold():
    a, b = Path("a"), Path("b")
    assert weights_by_fold([], [0, 1], "scratch") == {0: None, 1: None}
    assert weights_by_fold([a], [0, 1], "timm") == {0: a, 1: a}
    assert weights_by_fold([a, b], [0, 1], "timm") == {0: a, 1: b}
    with pytest.raises(UserError, match="2 files for 3 folds"):
        weights_by_fold([a, b], [0, 1, 2], "timm")
    with pytest.raises(UserError, match="needs --weights"):
        weights_by_fold([], [0, 1], "timm")


# --- the stage --------------------------------------------------------------------------------------------------------

SETTINGS = ["--epochs", "2", "--batch-size", "8", "--backbone-lr", "1e-3", "--head-lr", "1e-2"]


@pytest.fixture
def inputs(tmp_path):
    table = study()
    index, folds, labels = tables()
    write_npy(pictures(table), tmp_path / "views.npy")
    write_csv(index, tmp_path / "index.csv")
    write_csv(folds, tmp_path / "folds.csv")
    # One view dropped, one flipped.
    labels.loc[3, "keep"] = 0
    labels.loc[5, "label"] = "coarse"
    write_csv(labels, tmp_path / "labels.csv")
    return tmp_path


def call(inputs: Path, output: Path, *more: str) -> None:
    words = [
        *("--views", inputs / "views.npy", "--index", inputs / "index.csv", "--labels", inputs / "labels.csv"),
        *("--folds", inputs / "folds.csv", "--seed", 0, "--classes", *CLASSES, "--backbone", "test_resnet"),
        *("--output-predictions", output / "seed0.csv", "--output-weights"),
        *(output / f"seed0_fold{fold}.safetensors" for fold in range(3)),
        *("--output-training", output / "seed0_training.csv"),
        *("--work-dir", output / "work", "--device", "cpu", *SETTINGS, *more),
    ]
    finetune.main(finetune.parser().parse_args([str(word) for word in words]))


def contents(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(output.iterdir()) if file.is_file()}


def test_stage_predicts_every_view_once_and_describes_itself(inputs):
    call(inputs, inputs / "out")
    table = read_csv(inputs / "out" / "seed0.csv")
    assert list(table.columns) == [
        "view_id", "patient_id", "fold", "seed", "label_original", "label_policy", "kept", "probability", "prediction",
    ]  # fmt: skip
    assert table["view_id"].tolist() == study()["view_id"].tolist()
    assert table["fold"].tolist() == study()["fold"].tolist()
    assert table["probability"].between(0, 1).all()
    assert table["probability"].nunique() > 20
    np.testing.assert_array_equal(table["prediction"] == "coarse", table["probability"] > 0.5)
    assert table.loc[table["kept"] == 0, "view_id"].tolist() == ["p01#1"]
    changed = table["label_original"] != table["label_policy"]
    assert table.loc[changed, "view_id"].tolist() == ["p02#1"]
    assert not (inputs / "out" / "work").exists()

    training = read_csv(inputs / "out" / "seed0_training.csv")
    assert training["rate_factor"].tolist() == [1, 1, 1]
    assert training["fold"].tolist() == [0, 1, 2]
    assert training["weights_moved"].between(1e-4, 1).all()
    assert training[["loss_before", "loss_last"]].gt(0.1).all(axis=None)

    views = torch.from_numpy(pictures(study()))
    for fold in range(3):
        model, parameters = load_classifier(inputs / "out" / f"seed0_fold{fold}.safetensors")
        assert (parameters["seed"], parameters["fold"], parameters["settings"]["epochs"]) == (0, fold, 2)
        assert parameters["classes"] == list(CLASSES)
        assert parameters["inputs"]["labels"] == sha256(inputs / "labels.csv")
        assert parameters["versions"]["torch"] == torch.__version__
        test = np.flatnonzero(table["fold"] == fold)
        np.testing.assert_allclose(predict(model, views[test]), table.loc[test, "probability"], rtol=1e-5)


def test_stage_learns_from_fewer_patients_and_predicts_all(inputs):
    call(inputs, inputs / "out", "--training-percent", "50")
    table = read_csv(inputs / "out" / "seed0.csv")
    assert table["view_id"].tolist() == study()["view_id"].tolist()
    assert table["probability"].between(0, 1).all()
    _, parameters = load_classifier(inputs / "out" / "seed0_fold0.safetensors")
    assert parameters["training_percent"] == 50


def test_stage_chooses_learning_rates_on_an_inner_split(inputs):
    call(inputs, inputs / "plain")
    # Neither trial is the recipe; the second diverges.
    call(inputs, inputs / "own", "--rate-factors", "10", "1e30", "--rate-holdout", "0.3")
    training = read_csv(inputs / "own" / "seed0_training.csv")
    assert training["rate_factor"].tolist() == [10, 10, 10]
    assert (training["weights_moved"] > read_csv(inputs / "plain" / "seed0_training.csv")["weights_moved"]).all()
    own, plain = (read_csv(inputs / name / "seed0.csv") for name in ("own", "plain"))
    assert own["view_id"].tolist() == plain["view_id"].tolist()
    assert (own["probability"] != plain["probability"]).all()
    _, parameters = load_classifier(inputs / "own" / "seed0_fold0.safetensors")
    assert (parameters["rate_factors"], parameters["rate_holdout"]) == ([10, 1e30], 0.3)
    with pytest.raises(UserError, match="--rate-factors are tried on real views alone"):
        call(inputs, inputs / "mixed", *synthetic(inputs), "--synthetic-percent", "10", "--rate-factors", "1", "10")


def synthetic(folder: Path) -> list[str]:
    """48 synthetic views, every other one coarse, and the flags that name them."""
    labels = [CLASSES[row % 2] for row in range(48)]
    table = pd.DataFrame({"view_id": [f"s{row}" for row in range(48)], "label": labels})
    write_npy(pictures(study().sample(48, replace=True, random_state=0)), folder / "synthetic.npy")
    write_csv(table, folder / "synthetic.csv")
    return ["--synthetic-views", str(folder / "synthetic.npy"), "--synthetic-index", str(folder / "synthetic.csv")]


def test_stage_learns_synthetic_views_alone_and_predicts_the_real_ones(inputs):
    files = [*synthetic(inputs), "--training-percent", "0", "--synthetic-percent", "100"]
    call(inputs, inputs / "asked", *files)
    call(inputs, inputs / "shuffled", *files, "--synthetic-labels", "shuffled")
    asked, mixed = (read_csv(inputs / name / "seed0.csv") for name in ("asked", "shuffled"))
    assert asked["view_id"].tolist() == study()["view_id"].tolist()
    assert asked["probability"].between(0, 1).all()
    assert (asked["probability"] != mixed["probability"]).all()


def test_stage_relabels_by_the_networks_of_the_same_folds(inputs):
    call(inputs, inputs / "real")
    weights = [str(inputs / "real" / f"seed0_fold{fold}.safetensors") for fold in range(3)]
    files = [*synthetic(inputs), "--synthetic-percent", "10", "--synthetic-labels", "relabelled"]
    with pytest.raises(UserError, match="may have learnt the test patients of seed 0, fold 0"):
        call(inputs, inputs / "out", *files, "--labellers", *weights[::-1])
    with pytest.raises(UserError, match="relabelled takes 3 --labellers, not 0"):
        call(inputs, inputs / "out", *files)


@pytest.mark.parametrize("clock", [StopAfter, KillAfter])
@pytest.mark.parametrize("interval", [1e-9, 60.0])
def test_interrupted_equals_uninterrupted_bit_for_bit(inputs, monkeypatch, clock, interval):
    call(inputs, inputs / "whole")
    monkeypatch.setattr(finetuning, "CHECKPOINT_SECONDS", interval)
    tries = 0
    # Two batches an epoch, two epochs a fold: interruptions lie inside epochs, between them and between folds.
    for steps in (1, 2, 3, 4, 5, 6, 7, float("inf")):
        monkeypatch.setattr(runs, "Clock", lambda _, steps=steps: clock(steps))
        try:
            call(inputs, inputs / "parts")
        except (work.Interrupted, KeyboardInterrupt):
            assert not (inputs / "parts" / "seed0.csv").exists()
            tries += 1
            # Two deaths before a checkpoint end a training (tests of WorkDir); here it shall go on.
            state = inputs / "parts" / "work" / "state.json"
            state.write_text(json.dumps({**json.loads(state.read_text()), "barren_tries": 0}))
        else:
            break
    assert tries >= 3
    assert contents(inputs / "parts") == contents(inputs / "whole")


def test_finished_folds_are_not_trained_again(inputs, monkeypatch):
    # Four steps a fold; the clock is not asked after the last one.
    monkeypatch.setattr(runs, "Clock", lambda _: StopAfter(5))
    with pytest.raises(work.Interrupted, match=r"step 2 of 4 \(seed 0, fold 1\)"):
        call(inputs, inputs / "out")
    trained = []

    def draw_and_note(labels, sampler, seed, stream, epoch):
        trained.append((stream, epoch))
        return draw_order(labels, sampler, seed, stream, epoch)

    monkeypatch.setattr(finetuning, "draw_order", draw_and_note)
    monkeypatch.setattr(runs, "Clock", lambda _: StopAfter())
    call(inputs, inputs / "out")
    assert trained == [("fold1", 1), ("fold2", 0), ("fold2", 1)]


def test_metrics_of_later_folds_survive_that_finished_ones_are_passed(inputs, monkeypatch):
    for asked in (5, 1):  # inside fold 1, and one step later
        monkeypatch.setattr(runs, "Clock", lambda _, asked=asked: StopAfter(asked))
        with pytest.raises(work.Interrupted):
            call(inputs, inputs / "out")
    rows = [json.loads(line) for line in (inputs / "out" / "work" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["fold"], row["epoch"]) for row in rows] == [(2, 0, 1), (4, 0, 2), (6, 1, 1)]


def test_another_setting_starts_afresh(inputs, monkeypatch):
    call(inputs, inputs / "whole")
    monkeypatch.setattr(runs, "Clock", lambda _: StopAfter(3))
    with pytest.raises(work.Interrupted):
        call(inputs, inputs / "other", "--head-lr", "2e-2")
    monkeypatch.setattr(runs, "Clock", lambda _: StopAfter())
    call(inputs, inputs / "other")
    assert contents(inputs / "other") == contents(inputs / "whole")


def test_each_fold_may_have_weights_of_its_own(inputs):
    files = []
    for fold in range(3):
        state = create_backbone("test_resnet", seed=10 + fold).state_dict()
        files.append(inputs / f"backbone{fold}.safetensors")
        save_file({name: value.contiguous() for name, value in state.items()}, files[-1])
    weights = [str(file) for file in files]
    call(inputs, inputs / "out", "--layout", "timm", "--weights", *weights, "--backbone-lr", "0")
    for fold, file in enumerate(files):
        trained = load_file(inputs / "out" / f"seed0_fold{fold}.safetensors")
        assert torch.equal(trained["backbone.conv1.0.weight"], load_file(file)["conv1.0.weight"])


def test_mistakes_are_found_before_anything_is_trained(inputs, monkeypatch):
    def never(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr(finetuning, "cross_validate", never)
    save_file({"stem.weight": torch.zeros(1)}, inputs / "wrong.safetensors")
    with pytest.raises(UserError, match=r"wrong\.safetensors.*stem\.weight"):
        call(inputs, inputs / "out", "--layout", "timm", "--weights", str(inputs / "wrong.safetensors"))
    with pytest.raises(UserError, match="names 1 files"):
        call(inputs, inputs / "out", "--output-weights", "one.safetensors")
    write_npy(textures(5), inputs / "views.npy")
    with pytest.raises(UserError, match=r"different numbers of rows: .*views.npy 5, .*index.csv 24"):
        call(inputs, inputs / "out")
