"""Non-leaking augmentation of the generator's views: its draws, its pictures, and that a zero label is a plain model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.unit.diffusion.test_training import CPU, TINY, WEIGHTS, StoppingClock, command, run_tiny, write_study
from workflow_scripts.diffusion import augmentation, train_diffusion
from workflow_scripts.diffusion.augmentation import LABELS, AugmentationConditionedUNet, draw_labels, transform
from workflow_scripts.diffusion.pipeline import load_pipeline
from workflow_scripts.diffusion.training import Trainer, TrainingViews
from workflow_scripts.diffusion.unet import build_unet
from workflow_scripts.runtime.cli import run
from workflow_scripts.runtime.processes import Processes
from workflow_scripts.runtime.work import Interrupted
from workflow_scripts.study.config.diffusion import DiffusionRecipe

SMALL = {**TINY, "augment": "small_data", "dropout": 0.25}


def test_labels_are_mostly_zero_and_belong_to_step_and_place() -> None:
    labels = draw_labels(0, 3, range(2000))
    drawn = (labels != 0).float().mean(dim=0)
    assert torch.all((drawn - 0.15).abs() < 0.03)
    assert torch.equal(labels[:, 3] != 0, labels[:, 4] != 0)  # a shift goes both ways
    assert labels[labels != 0].std() == pytest.approx(1, abs=0.1)
    assert torch.equal(draw_labels(0, 3, range(700, 720)), labels[700:720])
    assert not torch.equal(draw_labels(0, 4, range(2000)), labels)


def test_views_are_changed_as_their_labels_say() -> None:
    side = 64
    rows, columns = np.mgrid[:side, :side]
    disc = 2.0 * ((rows - 20) ** 2 + (columns - 31.5) ** 2 < 64) - 1  # above the middle
    names = ("untouched", "larger", "turned", "stretched", "shifted")
    labels = torch.zeros(5, LABELS)
    labels[1, 0], labels[2, 1], labels[3, 2] = 2.0, 3.0, 2.0
    labels[4, 3:] = torch.tensor([0.5, 1.0])
    images = torch.from_numpy(disc).float().expand(5, 1, side, side)
    changed = transform(images, labels)
    assert torch.equal(changed[0], images[0])
    light = ((changed[:, 0] + 1) / 2).double()
    mass = light.sum((1, 2))
    down = (light * torch.from_numpy(rows)).sum((1, 2)) / mass
    right = (light * torch.from_numpy(columns)).sum((1, 2)) / mass
    area = dict(zip(names, (mass / mass[0]).tolist(), strict=True))
    assert area == pytest.approx({**dict.fromkeys(names, 1.0), "larger": 2 ** (2 * 0.2 * 2)}, rel=0.05)
    assert (right[4] - right[0]).item() == pytest.approx(0.5 * side / 8, abs=0.1)
    assert (down[4] - down[0]).item() == pytest.approx(side / 8, abs=0.1)
    spread = [((light[n] * torch.from_numpy((columns - 31.5) ** 2)).sum() / mass[n]).item() for n in (0, 3)]
    assert spread[1] / spread[0] == pytest.approx(2 ** (2 * 0.2 * 2), rel=0.05)
    assert float(torch.hypot(down[2] - 31.5, right[2] - 31.5)) == pytest.approx(11.5, abs=0.2)
    assert abs(float(right[2]) - 31.5) == pytest.approx(11.5 * np.sin(np.deg2rad(15)), abs=0.2)


def test_a_zero_label_adds_exactly_nothing() -> None:
    torch.manual_seed(0)
    unet = build_unet(8, 32, [1, 1], 1, [4], 2, 0.0).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # a fresh one predicts zero for any label
    x, t, names = torch.randn(3, 1, 8, 8), torch.tensor([0, 20, 40]), list(unet.state_dict())
    with torch.no_grad():
        plain = unet(x, t).sample
        conditioned = AugmentationConditionedUNet(unet)
        torch.nn.init.normal_(conditioned.label_projection.weight)
        assert torch.equal(conditioned(x, t, None, torch.zeros(3, LABELS)).sample, plain)
        assert not torch.allclose(conditioned(x, t, None, torch.ones(3, LABELS)).sample, plain, atol=1e-3)
        assert torch.equal(unet(x, t).sample, plain)  # a forward pass leaves no label behind
    assert list(unet.state_dict()) == names


def test_interrupted_equals_uninterrupted(tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(True)
    whole = run_tiny(tmp_path / "whole", StoppingClock(), SMALL)
    with pytest.raises(Interrupted):
        run_tiny(tmp_path / "parts", StoppingClock(5), SMALL)
    parts = run_tiny(tmp_path / "parts", StoppingClock(), SMALL)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    plain = run_tiny(tmp_path / "plain", StoppingClock(), {**SMALL, "augment": "none"})
    assert whole.keys() == plain.keys()
    assert any(not torch.equal(whole[name], plain[name]) for name in whole)
    saved = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts")]
    assert saved[0]["label_projection"]["weight"].abs().max() > 0
    assert torch.equal(saved[0]["label_projection"]["weight"], saved[1]["label_projection"]["weight"])


def test_the_command_writes_a_plain_model(tmp_path: Path) -> None:
    words = [*write_study(tmp_path), *command({**SMALL, "steps": 1})]
    run(train_diffusion.main, train_diffusion.parser(), words)
    unet, _ = load_pipeline(tmp_path / "model")
    assert unet.state_dict().keys() == load_file(tmp_path / "model" / "unet" / WEIGHTS).keys()
    assert "| augment | small_data |" in (tmp_path / "model" / "README.md").read_text()


def test_without_a_label_the_network_expects_untouched_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on shifted stripes, it removes noise better where the label is true: samples of label zero are not shifted."""
    monkeypatch.setattr(augmentation, "SHIFT_SIDES", 0.5)
    monkeypatch.setattr("workflow_scripts.diffusion.training.draw_labels", lambda *key: draw_labels(*key, 0.7))
    views = np.zeros((16, 8, 8), dtype=np.uint8)
    views[:, 2:4] = 255
    settings = {**TINY, "batch_size": 16, "dropout": 0.0, "lr": 3e-3, "flip": 0.0, "augment": "small_data"}
    trainer = Trainer(TrainingViews(views, np.arange(16)), DiffusionRecipe(**settings), CPU, Processes())
    for step in range(200):
        trainer.step(step)
    network = trainer.network.eval()
    x0 = torch.from_numpy(views.astype(np.float32) / 127.5 - 1)[:, None].repeat(8, 1, 1, 1)
    noise, t = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)), torch.full((len(x0),), 15)
    errors = []
    for labels in (torch.zeros(len(x0), LABELS), draw_labels(9, 0, range(len(x0)), 1.0)):
        with torch.no_grad():
            predicted = network(trainer.process.q_sample(x0, t, noise), t, None, labels).sample[:, :1]
        errors.append(float(((predicted - noise) ** 2).mean()))
    assert errors[0] < 0.9 * errors[1], errors
