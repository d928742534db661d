"""NT-Xent, the organ loss, the heads and the two diagnostics."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.shared import SHARED, needs_golden
from workflow_scripts.networks.contrastive import (
    Encoder,
    alignment,
    nt_xent,
    organ_loss,
    projection_head,
    spread,
    uniformity,
)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def nt_xent_anchor_by_anchor(
    first: torch.Tensor, second: torch.Tensor, temperature: float, added: float = 0.0
) -> float:
    """Eq. 1-2 as they are printed, anchor by anchor in float64; `added` to each probability before its logarithm."""
    n = len(first)
    views = [row / np.linalg.norm(row) for row in torch.cat([first, second]).double().numpy()]
    losses = []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        denominator = sum(math.exp(views[i] @ views[k] / temperature) for k in range(2 * n) if k != i)
        losses.append(-math.log(math.exp(views[i] @ views[j] / temperature) / denominator + added))
    return sum(losses) / (2 * n)


@pytest.mark.parametrize("n", [2, 7, 64])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_identical_embeddings_give_log_2n_minus_1(n: int, temperature: float) -> None:
    same = torch.ones(n, 8)
    assert nt_xent(same, same, temperature).item() == pytest.approx(math.log(2 * n - 1), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_nt_xent_equals_the_loop_over_anchors(temperature: float) -> None:
    first, second = normal(9, 5, seed=1), normal(9, 5, seed=2)
    assert nt_xent(first, second, temperature).item() == pytest.approx(
        nt_xent_anchor_by_anchor(first, second, temperature), rel=1e-12
    )


@needs_golden
def test_losses_equal_the_reference_values() -> None:
    golden = {key: torch.from_numpy(value) for key, value in np.load(SHARED / "golden" / "simclr_losses.npz").items()}
    first, second = golden["projections_first"].double(), golden["projections_second"].double()
    for temperature in (0.5, 0.1):
        # The reference adds 1e-8 to each probability; with it the loop reproduces the value, without it ours.
        expected = golden[f"con_{temperature}"].item()
        assert nt_xent_anchor_by_anchor(first, second, temperature, added=1e-8) == pytest.approx(expected, rel=1e-12)
        exact = nt_xent_anchor_by_anchor(first, second, temperature)
        assert nt_xent(first, second, temperature).item() == pytest.approx(exact, rel=1e-12)
        assert exact == pytest.approx(expected, rel=1e-5)
    logits = torch.cat([golden["logits_first"], golden["logits_second"]]).double()
    loss = organ_loss(logits, golden["labels"].repeat(2)).item()
    assert loss == pytest.approx(golden["sup_eq3"].item(), rel=1e-9)
    assert 2 * loss == pytest.approx(golden["sup_released_code"].item(), rel=1e-9)


def test_order_and_scale_of_embeddings_do_not_matter() -> None:
    first, second = normal(12, 6, seed=3), normal(12, 6, seed=4)
    loss = nt_xent(first, second, 0.5)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nt_xent(second, first, 0.5), loss)
    torch.testing.assert_close(nt_xent(first[order], second[order], 0.5), loss)
    torch.testing.assert_close(nt_xent(7 * first, 0.1 * second, 0.5), loss)
    assert not torch.isclose(nt_xent(first, second[order], 0.5), loss, rtol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_bf16_input_is_computed_in_float32(scale: float) -> None:
    first = (scale * normal(64, 32, seed=5)).bfloat16()
    second = (first + scale * 2 * normal(64, 32, seed=6)).bfloat16()
    loss = nt_xent(first, second, 0.05)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(nt_xent_anchor_by_anchor(first, second, 0.05), rel=1e-5)


def test_autocast_does_not_lower_the_precision_of_the_loss() -> None:
    first, second = normal(64, 32, seed=5, dtype=torch.float32), normal(64, 32, seed=6, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = nt_xent(first, second, 0.05), uniformity(first)
    assert torch.equal(cast[0], nt_xent(first, second, 0.05))
    assert torch.equal(cast[1], uniformity(first))


def test_zero_and_huge_embeddings_stay_finite() -> None:
    assert nt_xent(torch.zeros(4, 3), torch.zeros(4, 3), 0.5).item() == pytest.approx(math.log(7))
    huge = normal(4, 3, dtype=torch.float32) * 1e15
    assert torch.isfinite(nt_xent(huge, huge, 0.01))


def test_gradients() -> None:
    first, second = normal(5, 4, seed=7).requires_grad_(), normal(5, 4, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (first, second))
    logits = normal(6, 3, seed=9).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: organ_loss(a, torch.tensor([0, 1, 2, 2, 1, 0])), (logits,))


def test_organ_loss_of_undecided_logits_is_log_of_the_organs() -> None:
    assert organ_loss(torch.zeros(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])).item() == pytest.approx(math.log(3))


def test_alignment_uniformity_and_spread_at_their_ends() -> None:
    embeddings = normal(2000, 3, seed=10, dtype=torch.float32)
    assert alignment(embeddings, 3 * embeddings).item() == pytest.approx(0, abs=1e-6)
    assert alignment(embeddings, -embeddings).item() == pytest.approx(4, rel=1e-6)
    # Uniform on the sphere in three dimensions, cos is uniform in [-1, 1]: E exp(4 cos - 4) = (1 - exp(-8)) / 8.
    assert uniformity(embeddings).item() == pytest.approx(math.log((1 - math.exp(-8)) / 8), abs=0.02)
    assert spread(embeddings).item() == pytest.approx(1, abs=0.01)
    same = embeddings[:1].repeat(50, 1)
    assert uniformity(same).item() == pytest.approx(0, abs=1e-5)
    assert spread(same).item() == pytest.approx(0, abs=1e-3)


def test_uniformity_equals_the_mean_over_pairs() -> None:
    embeddings = normal(30, 7, seed=11)
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    expected = torch.pdist(unit).square().mul(-2).exp().mean().log()
    torch.testing.assert_close(uniformity(embeddings), expected)


def test_projection_head_is_bare_at_its_end() -> None:
    head = projection_head(12, [8, 4])
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert head(normal(3, 12, dtype=torch.float32)).shape == (3, 4)
    assert [type(layer) for layer in projection_head(12, [8])] == [nn.Linear]


def test_heads_depend_on_the_seed_alone_and_may_be_absent() -> None:
    torch.manual_seed(1)
    one = Encoder(nn.Identity(), 6, [5, 4], 2, seed=3).state_dict()
    before = torch.random.get_rng_state()
    torch.rand(1)
    two = Encoder(nn.Identity(), 6, [5, 4], 2, seed=3).state_dict()
    other = Encoder(nn.Identity(), 6, [5, 4], 2, seed=4).state_dict()
    assert list(one) == [
        f"{layer}.{part}" for layer in ("projection.0", "projection.2", "organ") for part in ("weight", "bias")
    ]
    assert all(torch.equal(one[key], two[key]) and not torch.equal(one[key], other[key]) for key in one)
    torch.random.set_rng_state(before)
    drawn = torch.rand(1)
    torch.random.set_rng_state(before)
    Encoder(nn.Identity(), 6, [5, 4], 2, seed=3)
    assert torch.equal(torch.rand(1), drawn), "building the heads must not touch the global generator"

    features = normal(3, 6, dtype=torch.float32)
    embeddings, logits = Encoder(nn.Identity(), 6, None, 2, seed=0)(features)
    assert torch.equal(embeddings, features)
    assert logits is not None
    assert logits.shape == (3, 2)
    embeddings, logits = Encoder(nn.Identity(), 6, [4], None, seed=0)(features)
    assert embeddings.shape == (3, 4)
    assert logits is None
