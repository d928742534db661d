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

from tests.network_stages import STAGES, trainer
from tests.pretend_gpu import CARD, PretendGPU, WrongDeviceError
from workflow_scripts.core.errors import UserError
from workflow_scripts.diffusion import training
from workflow_scripts.networks.markers import _templates
from workflow_scripts.runtime.device import Ahead, to_device


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """What a run on a card allows is not left behind."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    yield
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


# A function of each path whose copies to the card are forgotten, for the negative control.
FORGOTTEN = {
    "fine-tuning": "train_fold",
    "pretraining": "augment_by",
    "pretraining, chunks": "augment_by",
    "pretraining, checkpointed": "augment_by",
    "pretraining, released views": "_templates",
    "diffusion": "_add_gradient",
    "diffusion, conditional": "_add_gradient",
    "diffusion, augmented": "_add_gradient",
    "diffusion, accumulated": "_add_gradient",
    "ancestral sampling": "__init__",
    "guided sampling": "labels",
    "DDIM": "__init__",
    "DPM-Solver++": "__init__",
    "SDE-DPM-Solver++": "__init__",
    "denoising errors": "denoising_errors",
    "encoder's features": "network",
    "Inception's features": "network",
    "copy encoder": "step",
    "Grad-CAM++": "explanation",
    "packed classifier": "classifier",
}
# Functions that read values from the card, and so wait for it: reports, checkpoints, results.
READERS = {
    "_metrics", "accuracies", "copy_features", "cross_validate", "denoising_errors", "embed", "evaluate", "forward",
    "heat_maps", "means", "network", "positive_probability", "predict", "require_finite", "state", "to_grey", "values",
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_mixes_no_devices_and_waits_for_nothing(stage: str, tmp_path: Path) -> None:
    """A card is waited for where something is read from it, and nowhere else."""
    _templates.cache_clear()
    with PretendGPU() as card:
        STAGES[stage](tmp_path, CARD)
    others = Counter(wait for wait in card.waits if wait[0] not in READERS)
    if stage.startswith("fine-tuning"):
        assert others.pop(("train_fold", "copy to the CPU")) == 1  # the losses of its one epoch of two batches
    if stage.endswith("DPM-Solver++"):
        assert others.pop(("__init__", "copy to the CPU")) == 1  # Diffusers' schedule, before the first step
    if stage == "diffusion, fp16":
        # PyTorch's fused optimiser sees the real device of its parameters, and takes the scaler's flag there.
        assert others.pop(("step", "copy to the CPU")) == 1
    assert not others


@pytest.mark.parametrize(("stage", "forgotten"), FORGOTTEN.items())
def test_a_tensor_left_on_the_cpu_is_found(stage: str, forgotten: str, tmp_path: Path) -> None:
    _templates.cache_clear()
    with PretendGPU(forgotten), pytest.raises(WrongDeviceError):
        STAGES[stage](tmp_path, CARD)


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
            model = trainer(device, 2, augment="small_data", accumulate=2, dropout=0.2)
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
        trainer(CARD).step(0)
    assert places
    assert not any(places)
