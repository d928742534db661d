"""The optimisers of pretraining, and that the paper's LARS learning rate does not train."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.textures import textures
from workflow_scripts.networks.backbone import create_backbone, feature_count
from workflow_scripts.networks.contrastive import Encoder, nt_xent
from workflow_scripts.pretraining.optimisers import learning_rate, make_optimiser

BATCH = 64
DEFAULT_LARS = 0.075 * BATCH**0.5


def train(lr: float, steps: int = 25) -> tuple[float, float]:
    """Contrast shifted noisy copies of toy textures; the fall of the loss and the relative change of the weights."""
    backbone = create_backbone("test_resnet")
    model = Encoder(backbone, feature_count(backbone), [128, 64], None, seed=0)
    before = torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim > 1])
    images = torch.from_numpy(textures(BATCH)).float()[:, None] / 255
    generator = torch.Generator().manual_seed(0)
    optimiser = make_optimiser([model], "lars", lr, 1e-6)
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, lr, 0.1)
        noisy = [images + 0.05 * torch.randn(images.shape, generator=generator) for _ in range(2)]
        shifts = torch.randint(0, 8, (2, 2), generator=generator).tolist()
        views = torch.cat([view.roll(tuple(shift), (2, 3)) for view, shift in zip(noisy, shifts, strict=True)])
        first, second = model(((views - 0.5) / 0.25).expand(-1, 3, -1, -1))[0].chunk(2)
        loss = nt_xent(first, second, 0.5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    after = torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim > 1])
    return sum(losses[:3]) / 3 - sum(losses[-3:]) / 3, ((after - before).norm() / before.norm()).item()


def test_default_lars_rate_trains() -> None:
    fall, change = train(DEFAULT_LARS)
    assert fall > 0.5
    assert change > 0.01


def test_lars_at_the_papers_rate_does_not_train() -> None:
    """Why the default departs from the paper's 1e-3."""
    fall, change = train(1e-3)
    assert fall < 0.15
    assert change < 3e-4


@pytest.mark.parametrize(("name", "weight_decay"), [("lars", 0.1), ("lars", 0.0), ("adamw", 0.1)])
def test_biases_and_norms_are_neither_decayed_nor_adapted(name: str, weight_decay: float) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    model[3].weight.requires_grad_(False)
    weights, others = make_optimiser([model], name, 0.5, weight_decay).param_groups
    assert [p.ndim for p in weights["params"]] == [4]
    assert [p.ndim for p in others["params"]] == [1, 1, 1, 1]
    assert (weights["weight_decay"], others["weight_decay"]) == (weight_decay, 0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_one_lars_step_by_hand(weight_decay: float) -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).reshape(2, 3) + 1)
        layer.bias.copy_(torch.tensor([1.0, 2.0]))
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    gradient = torch.full((2, 3), 0.5)
    layer.weight.grad, layer.bias.grad = gradient.clone(), torch.tensor([0.5, -0.5])
    make_optimiser([layer], "lars", 2.0, weight_decay).step()
    trust = 1e-3 * weight.norm() / (gradient.norm() + weight_decay * weight.norm())
    torch.testing.assert_close(layer.weight.detach(), weight - 2.0 * trust * (gradient + weight_decay * weight))
    torch.testing.assert_close(layer.bias.detach(), bias - 2.0 * torch.tensor([0.5, -0.5]))


def test_released_steps_are_adams_on_scaled_gradients() -> None:
    """By hand: LARC's scaling, the weight decay inside it, then torch's Adam without decay."""
    layer = nn.Linear(3, 2)
    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    ours = make_optimiser([layer], "released", 1e-3, 1e-4)
    by_hand = torch.optim.Adam(weights, lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for own, other in zip(layer.parameters(), weights, strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            size, slope = other.detach().norm(), own.grad.norm()
            scale = 1e-3 * size / (slope + 1e-4 * size + 1e-8)
            other.grad = scale * (own.grad + 1e-4 * other.detach())
        ours.step()
        by_hand.step()
    for own, other in zip(layer.parameters(), weights, strict=True):
        torch.testing.assert_close(own, other)
    assert ours.param_groups[0]["weight_decay"] == 1e-4


def test_released_optimiser_leaves_gradients_of_zero_weights_as_they_are() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    layer.weight.grad = torch.ones(1, 1)
    make_optimiser([layer], "released", 1e-3, 1e-4).step()
    assert layer.weight.item() == pytest.approx(-1e-3)


def test_unknown_optimiser_is_refused() -> None:
    with pytest.raises(ValueError, match="'sgd'"):
        make_optimiser([nn.Linear(1, 1)], "sgd", 0.1, 0.0)


def test_rate_warms_up_linearly_then_falls_linearly_to_zero() -> None:
    rates = [learning_rate(step, 100, 2.4, 0.1) for step in range(100)]
    assert max(rates) == rates[10] == 2.4
    assert 0 < rates[0] < 0.3
    rises = [b - a for a, b in pairwise(rates[:11])]
    falls = [a - b for a, b in pairwise([*rates[10:], 0.0])]
    assert rises == pytest.approx([rises[0]] * 10)
    assert falls == pytest.approx([2.4 / 90] * 90)


@pytest.mark.parametrize(("steps", "share"), [(1, 0.0), (1, 1.0), (3, 1.0), (7, 0.0)])
def test_rate_at_the_ends_of_its_settings(steps: int, share: float) -> None:
    rates = [learning_rate(step, steps, 1.0, share) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert share == 1.0 or rates[0] == 1.0
