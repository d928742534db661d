"""The diffusion process by closed forms and against Diffusers' own scheduler."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from workflow_scripts.core.errors import UserError
from workflow_scripts.diffusion.process import GaussianProcess, linear_range, schedule_betas, spaced_timesteps


def random_batch(process: GaussianProcess, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    t = torch.tensor([0, 1, len(process) // 2, len(process) - 1])
    x0 = torch.rand((4, 1, 8, 8), generator=generator) * 2 - 1
    noise, output = torch.randn((4, 1, 8, 8), generator=generator), torch.randn((4, 2, 8, 8), generator=generator)
    return x0, t, noise, output


def test_perfect_prediction_costs_nothing_but_the_last_step() -> None:
    process = GaussianProcess(schedule_betas("cosine", 100))
    x0, t, noise, _ = random_batch(process)
    xt = process.q_sample(x0, t, noise)
    # The true noise, and the posterior's variance (position -1): the reverse step is the posterior itself.
    perfect = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    mse, vb = process.losses(perfect, x0, xt, t, noise)
    assert mse.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(vb[1:], 0, atol=2e-4)
    assert vb[0] > 0  # t = 0 is a likelihood, which no prediction makes certain


def test_variance_loss_does_not_teach_the_noise_prediction() -> None:
    process = GaussianProcess(schedule_betas("cosine", 100))
    x0, t, noise, output = random_batch(process)
    output.requires_grad_()
    process.losses(output, x0, process.q_sample(x0, t, noise), t, noise)[1].sum().backward()
    assert output.grad is not None
    assert float(output.grad[:, 0].abs().max()) == 0
    assert float(output.grad[:, 1].abs().min()) > 0


def test_grey_level_likelihoods_sum_to_one() -> None:
    process = GaussianProcess(schedule_betas("linear", 1000))
    levels = torch.arange(256).reshape(256, 1, 1, 1) / 127.5 - 1
    t = torch.zeros(256, dtype=torch.int64)
    xt = torch.full_like(levels, 0.123)
    output = torch.zeros((256, 2, 1, 1))
    _, vb = process.losses(output, levels, xt, t, torch.zeros_like(levels))
    assert math.isclose(float(torch.exp2(-vb).sum()), 1, rel_tol=1e-4)


def test_ddim_with_the_true_noise_walks_back_to_the_image() -> None:
    process = GaussianProcess(schedule_betas("cosine", 1000), spaced_timesteps(1000, 10, evenly=True))
    x0 = torch.rand((2, 1, 8, 8), generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9
    noise = torch.randn((2, 1, 8, 8), generator=torch.Generator().manual_seed(2))
    x = process.q_sample(x0, torch.full((2,), 9), noise)
    for position in range(9, -1, -1):
        t = torch.full((2,), position)
        x = process.ddim_step(torch.cat([noise, noise], dim=1), x, t)
    torch.testing.assert_close(x, x0, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("schedule", "name"), [("cosine", "squaredcos_cap_v2"), ("linear", "linear")])
@pytest.mark.parametrize("timesteps", [1000, 200])
def test_ancestral_steps_equal_those_of_the_scheduler_that_is_saved(schedule: str, name: str, timesteps: int) -> None:
    start, end = linear_range(timesteps) if schedule == "linear" else (0.0001, 0.02)
    scheduler = DDPMScheduler(
        timesteps, start, end, beta_schedule=name, variance_type="learned_range", timestep_spacing="linspace"
    )
    scheduler.set_timesteps(25)
    kept = spaced_timesteps(timesteps, 25)
    assert scheduler.timesteps.tolist() == kept[::-1].tolist()
    process = GaussianProcess(schedule_betas(schedule, timesteps), kept)
    _, _, _, output = random_batch(process)
    output[:, 1].clamp_(-1, 1)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    for position in (24, 23, 12, 1, 0):
        theirs = scheduler.step(output, int(kept[position]), x, generator=torch.Generator().manual_seed(5)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
        ours = process.ancestral_step(output, x, torch.full((4,), position), noise)
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_spacing() -> None:
    np.testing.assert_array_equal(spaced_timesteps(10, 10), np.arange(10))
    np.testing.assert_array_equal(spaced_timesteps(1000, 2), [0, 999])
    assert len(np.unique(spaced_timesteps(1000, 250))) == 250
    np.testing.assert_array_equal(spaced_timesteps(1000, 250, evenly=True), np.arange(0, 1000, 4))
    with pytest.raises(UserError, match="between 2 and the model's 10"):
        spaced_timesteps(10, 11)
    with pytest.raises(UserError, match="between 2"):
        spaced_timesteps(10, 1)
    with pytest.raises(UserError, match=r"cannot pick 300 of 1000.*334 would do"):
        spaced_timesteps(1000, 300, evenly=True)
    with pytest.raises(UserError, match="more than 20"):
        schedule_betas("linear", 20)
