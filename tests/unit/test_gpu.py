"""On a real GPU: results, precision, repetition, resuming, memory (`make test-gpu`). Elsewhere everything here is skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.network_stages import STAGES, Results, trainer, values
from tests.shared import REPOSITORY, start_run
from tests.textures import textures
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_csv, write_npy
from workflow_scripts.core.randomness import normals
from workflow_scripts.diffusion import sampler
from workflow_scripts.diffusion.training import Trainer, TrainingViews, train
from workflow_scripts.networks.backbone import Classifier, create_backbone
from workflow_scripts.networks.cross_validation import CrossValidation, cross_validate
from workflow_scripts.pretraining.loop import make_encoder, pretrain
from workflow_scripts.pretraining.mix import ViewUnion
from workflow_scripts.runtime.arguments import flags
from workflow_scripts.runtime.device import to_device
from workflow_scripts.runtime.processes import Processes
from workflow_scripts.study.config.diffusion import DiffusionRecipe
from workflow_scripts.study.config.finetuning import FinetuningRecipe
from workflow_scripts.study.config.pretraining import PretrainingRecipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that PyTorch can use"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two processes over NCCL need two GPUs")
CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
# Largest |ours - CPU| / |CPU| of what a stage computes. TF32 rounds a product to 5e-4, bf16 to 4e-3; a step of AdamW or
# LARS moves weights by so little that faults show in losses, means and features first.
TOLERANCE = {
    "diffusion, bf16": 0.05,
    "diffusion, fp16": 0.02,
    "pretraining": 0.05,
    "fine-tuning": 0.05,
    "Grad-CAM++": 0.05,
}
GIB = 2**30
SIDE = 256  # of the study's views


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Every test begins with nothing allocated, and leaves PyTorch's switches as they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before[:3]
    torch.use_deterministic_algorithms(before[3])
    torch.cuda.set_per_process_memory_fraction(1.0)


def assert_near(ours: Results, theirs: Results, tolerance: float) -> None:
    for name, expected in theirs.items():
        size = np.sqrt(np.nansum(expected.astype(np.float64) ** 2))
        distance = np.sqrt(np.nansum((ours[name].astype(np.float64) - expected) ** 2))
        assert np.isfinite(distance), name
        assert distance <= tolerance * size + 1e-6, f"{name}: {distance / max(size, 1e-12):.2g}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_computes_what_it_computes_on_a_cpu(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same_noise(seed: int, step: int, images: range, side: int, device: torch.device) -> torch.Tensor:
        return to_device(normals(seed, sampler.STREAM, step, images, (1, side, side)), device)

    monkeypatch.setattr(sampler, "image_noise", same_noise)
    for name in ("cpu", "cuda"):
        (tmp_path / name).mkdir()
    expected = STAGES[stage](tmp_path / "cpu", CPU)
    torch.use_deterministic_algorithms(False)
    ours = STAGES[stage](tmp_path / "cuda", CARD)
    assert_near(ours, expected, TOLERANCE.get(stage, TOLERANCE.get(stage.partition(",")[0], 0.01)))


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_training_repeats_itself_and_resumes(precision: str) -> None:
    """Two runs of a seed agree, and so does one that continues a checkpoint; the rest is the order of sums."""
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16")
    changes: dict[str, Any] = {"precision": precision, "dropout": 0.2, "augment": "small_data", "steps": 6}
    torch.backends.cudnn.benchmark = False
    runs = [trainer(CARD, 2, **changes) for _ in range(3)]
    for run in runs[:2]:
        for step in range(6):
            run.step(step)
    for step in range(3):
        runs[2].step(step)
    resumed = trainer(CARD, 2, **changes)
    resumed.load(runs[2].state())
    for step in range(3, 6):
        resumed.step(step)
    first, again, continued = (values(run.unet.state_dict()) for run in (runs[0], runs[1], resumed))
    assert_near(again, first, 1e-3)
    assert_near(continued, first, 1e-3)


@pytest.mark.parametrize("kind", ["ancestral", "ddim", "dpmsolver++", "sde_dpm_solver"])
def test_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    from tests.network_stages import DIFFUSION
    from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas
    from workflow_scripts.diffusion.training import unet_of

    unet = unet_of(DiffusionRecipe(**DIFFUSION), 8).to(CARD).eval()
    process = GaussianProcess(schedule_betas("cosine", 50), sampler.kept_timesteps(50, 5, kind), CARD)

    def drawn(images: range) -> np.ndarray:
        state = sampler.image_noise(0, 0, images, 8, CARD)
        for _, following in sampler.reverse_steps(unet, process, state, 0, images, 0, kind):
            state = following
        return sampler.to_grey(state).astype(np.int64)

    together = drawn(range(6))
    assert np.abs(together[4:] - drawn(range(4, 6))).max() <= 1
    assert np.array_equal(together, drawn(range(6)))


def test_too_little_memory_names_the_way_out(tmp_path: Path) -> None:
    recipe = DiffusionRecipe(batch_size=16, steps=1, grid_every=0)
    run = start_run(tmp_path, "cuda")
    model = Trainer(TrainingViews(textures(16, 256, seed=1), np.arange(16)), recipe, CARD, Processes())
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 0.5 * GIB) / total)
    with pytest.raises(UserError, match="too little memory for 16 views per step in 1 parts; raise .*accumulate"):
        train(model, run)


def peak() -> float:
    return torch.cuda.max_memory_allocated() / GIB


def test_shipped_recipes_fit_their_cards(tmp_path: Path) -> None:
    """Of the profile's cards: pretraining, diffusion and sampling have 48 GB; fine-tuning and embedding have 11."""
    large, small = 44, 9.5  # GiB that are left of 48 and 11 GB when the driver and the CUDA context have theirs
    views = textures(64, SIDE, seed=1)
    peaks = {}

    model = Trainer(TrainingViews(views, np.arange(64)), DiffusionRecipe(steps=1, grid_every=0), CARD, Processes())
    model.step(0)
    model.grid()
    peaks["diffusion"] = (peak(), large)
    del model

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    recipe = PretrainingRecipe(steps=1)
    rows = np.arange(recipe.batch_size) % len(views)
    mix = ViewUnion([views], [rows], [np.arange(len(rows)) % 2])
    pretrain(
        make_encoder(create_backbone("resnet18"), 2, mix, recipe),
        mix,
        recipe,
        start_run(tmp_path / "pretraining", "cuda"),
    )
    peaks["pretraining"] = (peak(), large)

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    tuning = FinetuningRecipe(epochs=1)
    study = textures(880, SIDE, seed=1)
    labels = np.arange(len(study)) % 2
    task = CrossValidation(to_device(study, CARD), {0: labels}, np.arange(len(study)) % 5, tuning, 0)
    cross_validate({0: Classifier(create_backbone("resnet18"), 0)}, task, start_run(tmp_path / "finetuning", "cuda"))
    peaks["fine-tuning"] = (peak(), small)

    print({name: round(used, 2) for name, (used, _) in peaks.items()})
    assert {name: used for name, (used, limit) in peaks.items() if used > limit} == {}


@two_gpus
def test_two_processes_over_nccl_train_what_one_trains(tmp_path: Path) -> None:
    import pandas as pd
    from safetensors.torch import load_file

    from tests.network_stages import DIFFUSION

    views = tmp_path / "views.npy"
    write_npy(textures(8, 8, seed=1), views)
    index = pd.DataFrame({
        "view_id": [f"v{i}" for i in range(8)], "image_id": [f"i{i}" for i in range(8)],
        "patient_id": [f"p{i}" for i in range(8)], "organ": "testicle", "label": "a", "view": "radial",
    })  # fmt: skip
    write_csv(index, tmp_path / "views.csv")
    weights = {}
    for processes, accumulate in ((1, 2), (2, 1)):
        model = tmp_path / f"model{processes}"
        settings = {**DIFFUSION, "steps": 3, "grid_every": 0, "accumulate": accumulate}
        command = [
            sys.executable, "-m", "workflow_scripts.diffusion.train_diffusion", f"--views={views}",
            f"--index={tmp_path / 'views.csv'}", f"--output-model={model}", f"--output-metrics={model}.jsonl",
            f"--work-dir={tmp_path / f'work{processes}'}", f"--processes={processes}", "--device=cuda", *flags(settings),
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
        (file,) = (model / "unet").glob("*.safetensors")
        weights[processes] = values(load_file(file))
    assert_near(weights[2], weights[1], 1e-3)
