"""Faults that only a GPU would show, found without one: every network stage takes a step on a pretended card."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.pretend_gpu import PretendGPU, WrongDeviceError
from tests.shared import start_run
from tests.textures import textures
from workflow_scripts.core.errors import UserError
from workflow_scripts.diffusion import training
from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas
from workflow_scripts.diffusion.sampler import Condition, image_noise, kept_timesteps, reverse_steps, to_grey
from workflow_scripts.diffusion.snapshots import denoising_errors, drawn_images
from workflow_scripts.diffusion.training import Labels, Trainer, TrainingViews, unet_of
from workflow_scripts.finetuning.explanation import heat_maps, last_stage, positive_probability
from workflow_scripts.networks.backbone import Classifier, create_backbone, normalise, save_weights
from workflow_scripts.networks.cross_validation import CrossValidation, cross_validate
from workflow_scripts.networks.markers import _templates
from workflow_scripts.pretraining.loop import make_encoder, pretrain
from workflow_scripts.pretraining.mix import ViewUnion
from workflow_scripts.privacy.copy_encoder import CopyTraining, copy_features
from workflow_scripts.runtime.device import Ahead, to_device
from workflow_scripts.runtime.processes import Processes
from workflow_scripts.study.config.diffusion import DiffusionRecipe
from workflow_scripts.study.config.finetuning import FinetuningRecipe
from workflow_scripts.study.config.pretraining import PretrainingAugmentation, PretrainingRecipe
from workflow_scripts.synthesis.features import embed, load_encoder, load_inception

CARD = torch.device("cuda", 0)
BACKBONE = "test_resnet"
DIFFUSION = {
    "channel_multipliers": [1, 1], "base_channels": 32, "residual_blocks": 1, "attention_resolutions": [4], "heads": 2,
    "dropout": 0.2, "timesteps": 50, "batch_size": 4, "precision": "float32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """What a run on a card allows is not left behind."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    yield
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def finetuning(folder: Path, **changes: object) -> None:
    """An epoch of fine-tuning with evaluation of the clean views, and the prediction of the fold."""
    views, labels = textures(12, 16, seed=1), np.arange(12) % 2
    recipe = FinetuningRecipe(epochs=1, batch_size=4)
    task = CrossValidation(
        to_device(views, CARD), {0: labels}, np.arange(12) % 3, recipe, 0, str(changes.get("record", "training"))
    )
    cross_validate({0: Classifier(create_backbone(BACKBONE), 0)}, task, start_run(folder, "cuda"))


def pretraining(folder: Path, **changes: object) -> None:
    """Two steps of pretraining."""
    size = 96 if changes.get("augmentation") else 16
    stores = [textures(6, size, seed=1), textures(6, size, seed=2, coarse=True)]
    views = ViewUnion(stores, [np.arange(6)] * 2, [np.zeros(6), np.ones(6)])
    recipe = PretrainingRecipe(steps=2, batch_size=4, projection=[16, 8], **changes)  # type: ignore[arg-type]
    pretrain(make_encoder(create_backbone(BACKBONE), 2, views, recipe), views, recipe, start_run(folder, "cuda"))


def trainer(classes: int = 0, device: torch.device = CARD, **changes: object) -> Trainer:
    """A trainer of a tiny diffusion model on the card."""
    views = textures(8, 8, seed=1)
    labels = Labels(np.arange(8) % classes, classes) if classes else None
    recipe = DiffusionRecipe(**{**DIFFUSION, **changes})
    return Trainer(TrainingViews(views, np.arange(8), labels), recipe, device, Processes())


def diffusion(_folder: Path, classes: int = 0, **changes: object) -> None:
    """A step of diffusion training, what a report and a checkpoint read."""
    model = trainer(classes, CARD, **changes)
    model.step(0)
    model.means(1, whole_report=True)
    model.load(model.state())


def sampling(_folder: Path, sampler: str, guidance: float = 0.0) -> None:
    """A few images by a sampler."""
    condition = Condition(2, guidance) if guidance else None
    unet = unet_of(DiffusionRecipe(**DIFFUSION), 8, 3 if guidance else None).to(CARD).eval()
    betas = schedule_betas("cosine", 50)
    process = GaussianProcess(betas, kept_timesteps(50, 5, sampler), CARD)
    state = image_noise(0, 0, range(3), 8, CARD)
    for _, following in reverse_steps(unet, process, state, 0, range(3), 0, sampler, condition):
        state = following
    to_grey(state)


def snapshots(_folder: Path) -> None:
    """Denoising errors of real views, and the samples of a snapshot."""
    unet = unet_of(DiffusionRecipe(**DIFFUSION), 8, 3).to(CARD).eval()
    process = GaussianProcess(schedule_betas("cosine", 50), device=CARD)
    next(denoising_errors(unet, process, textures(3, 8, seed=1), 3, 0))
    short = GaussianProcess(schedule_betas("cosine", 50), kept_timesteps(50, 3, "ancestral"), CARD)
    next(drawn_images(unet, short, 2, 2, 0, Condition(2)))


def embedding(folder: Path, network: str) -> None:
    """Features of an embedding network."""
    if network == "inception":
        from workflow_scripts.synthesis.inception import fid_inception

        torch.save(fid_inception().state_dict(), folder / "weights.pth")
        function = load_inception(folder / "weights.pth", CARD)
    else:
        save_weights(create_backbone(BACKBONE).state_dict(), {}, folder / "weights.safetensors")
        function = load_encoder(BACKBONE, folder / "weights.safetensors", CARD)
    next(embed(textures(1, 16, seed=1), function, 1))


def copies(_folder: Path) -> None:
    """A step of the copy encoder, and its features."""
    training = CopyTraining(textures(6, 16, seed=1), 4, 0, CARD)
    training.step(0)
    copy_features(training.network, textures(3, 16, seed=2), CARD)


def explanation(_folder: Path) -> None:
    """Grad-CAM++ and probabilities."""
    model = Classifier(create_backbone(BACKBONE), 0).to(CARD)
    images = normalise(to_device(textures(3, 32, seed=1), CARD))
    heat_maps(model, last_stage(model.backbone), images, target=1)
    positive_probability(model, images)


RELEASED = PretrainingAugmentation(views="released")
# What is run, and the function of which a copy to the card is forgotten for the negative control.
STAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "fine-tuning": (finetuning, "train_fold"),
    "fine-tuning, losses of clean views": (lambda folder: finetuning(folder, record="evaluation"), "cross_validate"),
    "pretraining": (pretraining, "augment_by"),
    "pretraining, chunks": (lambda folder: pretraining(folder, chunk=2), "augment_by"),
    "pretraining, checkpointed": (lambda folder: pretraining(folder, activation_checkpointing=True), "augment_by"),
    "pretraining, released views": (lambda folder: pretraining(folder, augmentation=RELEASED), "_templates"),
    "diffusion": (diffusion, "_add_gradient"),
    "diffusion, conditional": (lambda folder: diffusion(folder, classes=2), "_add_gradient"),
    "diffusion, augmented": (lambda folder: diffusion(folder, augment="small_data"), "_add_gradient"),
    "diffusion, accumulated": (lambda folder: diffusion(folder, accumulate=2), "_add_gradient"),
    "diffusion, bf16": (lambda folder: diffusion(folder, precision="bf16"), "_add_gradient"),
    "diffusion, fp16": (lambda folder: diffusion(folder, precision="fp16"), "_add_gradient"),
    "ancestral sampling": (lambda folder: sampling(folder, "ancestral"), "__init__"),
    "guided sampling": (lambda folder: sampling(folder, "ancestral", guidance=2.0), "labels"),
    "DDIM": (lambda folder: sampling(folder, "ddim"), "__init__"),
    "DPM-Solver++": (lambda folder: sampling(folder, "dpmsolver++"), "__init__"),
    "denoising errors": (snapshots, "denoising_errors"),
    "encoder's features": (lambda folder: embedding(folder, "encoder"), "network"),
    "Inception's features": (lambda folder: embedding(folder, "inception"), "network"),
    "copy encoder": (copies, "step"),
    "Grad-CAM++": (explanation, "explanation"),
}  # fmt: skip


# Functions that read values from the card, and so wait for it: reports, checkpoints, results.
READERS = {
    "_metrics", "accuracies", "copy_features", "cross_validate", "denoising_errors", "evaluate", "forward", "heat_maps", "means",
    "network", "positive_probability", "predict", "require_finite", "state", "to_grey",
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_mixes_no_devices_and_waits_for_nothing(stage: str, tmp_path: Path) -> None:
    """A card is waited for where something is read from it, and nowhere else."""
    _templates.cache_clear()
    with PretendGPU() as card:
        STAGES[stage][0](tmp_path)
    others = Counter(wait for wait in card.waits if wait[0] not in READERS)
    if stage.startswith("fine-tuning"):
        assert others.pop(("train_fold", "copy to the CPU")) == 1  # the losses of its one epoch of two batches
    if stage == "DPM-Solver++":
        assert others.pop(("__init__", "copy to the CPU")) == 1  # Diffusers' schedule, before the first step
    if stage == "diffusion, fp16":
        # PyTorch's fused optimiser sees the real device of its parameters, and takes the scaler's flag there.
        assert others.pop(("step", "copy to the CPU")) == 1
    assert not others


@pytest.mark.parametrize("stage", [stage for stage in STAGES if not stage.endswith(("bf16", "fp16", "clean views"))])
def test_a_tensor_left_on_the_cpu_is_found(stage: str, tmp_path: Path) -> None:
    function, forget = STAGES[stage]
    _templates.cache_clear()
    with PretendGPU(forget), pytest.raises(WrongDeviceError):
        function(tmp_path)


@pytest.mark.parametrize(
    ("reads", "why"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: x[x > 0], "aten.index"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x.cpu(), "copy to the CPU"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x + torch.from_numpy(np.ones(3, np.float32)).to(CARD), "not pinned"),
        (lambda x: torch.tensor([1, 2], device=CARD), "values"),
    ],
)
def test_waits_are_counted(reads: Callable[[torch.Tensor], object], why: str) -> None:
    with PretendGPU() as card:
        x = torch.arange(3, device=CARD)
        assert not card.waits
        reads(x)
    assert len(card.waits) == 1
    assert why in card.waits[0][1]


def test_the_pretended_card_computes_what_the_cpu_computes() -> None:
    """Draws, augmentation, labels and dropout included: the device changes where a step computes, not what."""
    states = []
    for device in (torch.device("cpu"), CARD):
        with PretendGPU():
            model = trainer(2, device, augment="small_data", accumulate=2)
            model.step(0)
            model.step(1)
            states.append({name: value.cpu().numpy() for name, value in model.unet.state_dict().items()})
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


# --- draws ahead of the step that needs them --------------------------------------------------------------------------


def test_the_next_batch_is_drawn_while_a_step_computes() -> None:
    """When a step asks, its batch has been drawn by the other thread: what is waited for here is the step before."""
    here, drawn = threading.get_ident(), {number: threading.Event() for number in range(4)}
    threads = {}

    def draw(number: int) -> list[torch.Tensor]:
        threads[number] = threading.get_ident()
        drawn[number].set()
        return [torch.full((2,), number)]

    with PretendGPU() as card:
        ahead = Ahead(draw, CARD, end=4)
        for number in range(4):
            (values,) = ahead(number)
            # Within this step, the following ones are drawn without being asked for.
            for following in range(number, min(number + 3, 4)):
                assert drawn[following].wait(60)
            assert not any(event.is_set() for later, event in drawn.items() if later > number + 2)
            assert to_device(values, CARD).cpu().tolist() == [number] * 2
    assert [why for _, why in card.waits] == ["copy to the CPU"] * 4  # none for memory that is not pinned
    assert sorted(threads) == [0, 1, 2, 3]
    assert here not in threads.values()


def test_on_a_cpu_nothing_is_drawn_ahead() -> None:
    asked = []
    ahead = Ahead(lambda number: asked.append(number) or number, torch.device("cpu"), end=9)
    assert [ahead(3), ahead(4)] == [3, 4] == asked


def test_an_error_while_drawing_reaches_the_step() -> None:
    def draw(number: int) -> int:
        raise UserError(f"no views for step {number}")

    with PretendGPU(), pytest.raises(UserError, match="no views for step 5"):
        Ahead(draw, CARD, end=9)(5)


def test_draws_of_a_training_step_come_from_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No random number of diffusion training is drawn in the thread that feeds the card."""
    here, places = threading.get_ident(), []
    original = training.draw_batch

    def spy(*arguments: Any) -> Any:
        places.append(threading.get_ident() == here)
        return original(*arguments)

    monkeypatch.setattr(training, "draw_batch", spy)
    with PretendGPU():
        trainer().step(0)
    assert places
    assert not any(places)
