"""A workflow that learns nothing must fail: signal on the demo's phantoms (and none where there can be none).

The part of the demo that these tests read runs in the repository itself, into results/demo; where `make demo` has run,
nothing is left to do.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.shared import REPOSITORY, start_run
from tests.workflow.study import Study
from workflow_scripts.core.files import read_csv, read_npy, read_rows
from workflow_scripts.diffusion.pipeline import load_pipeline
from workflow_scripts.diffusion.process import GaussianProcess, spaced_timesteps
from workflow_scripts.diffusion.sampler import image_noise, reverse_steps, to_grey
from workflow_scripts.networks.cross_validation import CrossValidation, cross_validate, initial_classifiers
from workflow_scripts.study.config.finetuning import FinetuningRecipe
from workflow_scripts.synthesis.features import embed, load_encoder
from workflow_scripts.synthesis.metrics import frechet, moments
from workflow_scripts.synthesis.neighbours import inside, radii
from workflow_scripts.tools.plan import read_config

pytestmark = pytest.mark.slow
DEMO_CONFIG = REPOSITORY / "studies" / "demo.yaml"


@pytest.fixture(scope="module")
def demo() -> Path:
    """The results of the demo."""
    files = ["audit/votes.csv", "embedding/labelled.npy", "embedding/synthetic.npy", "finetuning/ud-complete/seed0.csv",
             "finetuning/ud-flipped/seed0.csv"]  # fmt: skip
    Study(REPOSITORY, [DEMO_CONFIG]).snakemake("--cores", "2", *(f"results/demo/{file}" for file in files))
    return REPOSITORY / "results" / "demo"


@pytest.fixture(scope="module")
def settings() -> dict:
    return read_config([REPOSITORY / "config.yaml", DEMO_CONFIG])


@pytest.fixture(scope="module")
def truth() -> dict[str, str]:
    """The class that each frame was drawn with."""
    return {row["image_id"]: row["truth"] for row in read_rows(REPOSITORY / "data_manifest.csv")}


def is_truly_positive(view_ids, truth) -> np.ndarray:
    return np.array([truth[view_id.partition("#")[0]] == "inhomogeneous" for view_id in view_ids])


@pytest.mark.parametrize("experiment", ["ud-complete", "ud-flipped"])
def test_out_of_fold_predictions_know_the_true_texture(demo: Path, truth, experiment: str):
    table = read_csv(demo / "finetuning" / experiment / "seed0.csv")
    assert roc_auc_score(is_truly_positive(table["view_id"], truth), table["probability"]) >= 0.8


def test_shuffled_labels_teach_nothing(demo: Path, settings, tmp_path: Path):
    index = read_csv(demo / "views" / "labelled.csv")
    views = np.array(read_npy(demo / "views" / "labelled.npy"))
    folds = index["view_id"].map(read_csv(demo / "folds" / "seed0.csv").set_index("view_id")["fold"]).to_numpy()
    labels = (index["label"] == "inhomogeneous").to_numpy(np.int64)
    recipe = FinetuningRecipe(**{**settings["finetuning"]["recipe"], "epochs": 4})
    backbone, weights = settings["model"]["backbone"], demo / "pretraining" / "ud" / "backbone.safetensors"
    areas = []
    for seed in range(4):
        # Over views, not patients: there are enough of them for an area near 0.5.
        shuffled = np.random.default_rng(seed).permutation(labels)
        models = initial_classifiers(backbone, "timm", [weights], seed, range(3))
        task = CrossValidation(torch.from_numpy(views), dict.fromkeys(models, shuffled), folds, recipe, seed)
        results = cross_validate(models, task, start_run(tmp_path / str(seed), threads=2))
        probabilities = np.full(len(labels), np.nan)
        for result in results:
            probabilities[result.test] = result.probabilities
        areas.append(roc_auc_score(shuffled, probabilities))
    assert 0.4 <= np.mean(areas) <= 0.6


def features_of(views: np.ndarray, demo: Path, settings) -> np.ndarray:
    encoder = load_encoder(
        settings["model"]["backbone"], demo / "pretraining" / "ud" / "backbone.safetensors", torch.device("cpu")
    )
    return np.concatenate(list(embed(views, encoder, 32)))


def noise_images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


def test_samples_are_nearer_to_real_views_than_noise_and_an_untrained_model(demo: Path, settings):
    real = moments(read_npy(demo / "embedding" / "labelled.npy"))
    trained = read_npy(demo / "embedding" / "synthetic.npy")
    size = settings["data"]["size"]
    unet, betas = load_pipeline(demo / "diffusion" / "model")
    torch.manual_seed(0)
    for module in unet.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    process = GaussianProcess(betas, spaced_timesteps(len(betas), 10), torch.device("cpu"))
    x = image_noise(0, 0, range(48), size, torch.device("cpu"))
    for _, state in reverse_steps(unet, process, x, 0, range(48), 0, "ancestral"):
        x = state
    untrained = features_of(to_grey(x), demo, settings)
    noise = features_of(noise_images(48, size), demo, settings)
    ours = frechet(real, moments(trained))
    assert ours < 0.5 * frechet(real, moments(noise))
    assert ours < 0.5 * frechet(real, moments(untrained))


def test_the_filter_removes_noise_images_mixed_in(demo: Path, settings):
    real, k = np.asarray(read_npy(demo / "embedding" / "labelled.npy")), settings["manifold"]["recipe"]["filter_k"]
    noise = features_of(noise_images(40, settings["data"]["size"]), demo, settings)
    mixed = np.concatenate([read_npy(demo / "embedding" / "synthetic.npy"), noise])
    kept = inside(real, radii(real, k), mixed)[0]
    assert not kept[-40:].any()
    assert kept[:-40].mean() > 0.3


def test_contrastive_loss_falls_well_below_chance(demo: Path, settings):
    rows = [json.loads(line) for line in (demo / "pretraining" / "ud" / "metrics.jsonl").read_text().splitlines()]
    chance = math.log(2 * settings["pretraining"]["recipe"]["batch_size"] - 1)
    assert rows[-1]["loss_con"] < chance - 0.5


def test_the_audit_finds_planted_labels_better_than_chance(demo: Path, truth):
    votes = read_csv(demo / "audit" / "votes.csv")
    wrong = is_truly_positive(votes["view_id"], truth) != (votes["label"] == "inhomogeneous").to_numpy()
    assert roc_auc_score(wrong, votes["votes"]) > 0.7
