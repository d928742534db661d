"""The Gaussian diffusion process with a learned, interpolated variance (paper, Sec. 4.2).

The equations are those of Ho et al. 2020 (DDPM), Nichol and Dhariwal 2021 (improved DDPM: cosine schedule, learned
variance, hybrid loss, respacing) and Song et al. 2021 (DDIM). A network's output holds two channels per image channel:
the predicted noise, and where the reverse variance lies between its bounds (-1: the posterior's, 1: beta).

Diffusers has no training loss for `learned_range`; its `DDPMScheduler` respaces differently by default (with
`timestep_spacing="linspace"` as here) and draws one stream of noise per call, where here every image has its own
noise. Loss and steps are therefore implemented here, on one set of tables; the model folders are Diffusers folders.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.device import to_device

CPU = torch.device("cpu")
# Floor of the probabilities in the discretised likelihood.
SMALLEST_PROBABILITY = 1e-12


def schedule_betas(schedule: str, timesteps: int) -> np.ndarray:
    """float64 (T,) noise variances of the schedule `cosine` or `linear`.

    linear is DDPM's, 1e-4 to 0.02 over 1000 steps, steepened in proportion where there are fewer.
    """
    if schedule == "linear":
        start, end = linear_range(timesteps)
        return np.linspace(start, end, timesteps, dtype=np.float64)
    if schedule == "cosine":
        edges = np.cos((np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - edges[1:] / edges[:-1], 0.999)
    raise ValueError(f"unknown schedule {schedule!r}")


def linear_range(timesteps: int) -> tuple[float, float]:
    """First and last beta of the linear schedule; UserError where so few steps push a beta to 1."""
    start, end = 0.1 / timesteps, 20 / timesteps
    if end >= 1:
        raise UserError(
            f"timesteps {timesteps} is too few for the linear schedule (needs more than 20); use cosine or more"
        )
    return start, end


def spaced_timesteps(timesteps: int, count: int, evenly: bool = False) -> np.ndarray:
    """int64 (count,) timesteps out of range(timesteps) that a shortened sampler keeps, in increasing order.

    From first to last at fractional stride, rounded (improved DDPM); or `evenly`, from 0 at one whole stride (DDIM),
    where a stride that gives exactly `count` must exist. UserError otherwise.
    """
    if not 2 <= count <= timesteps:
        raise UserError(f"sampling steps must be between 2 and the model's {timesteps} timesteps, not {count}")
    if not evenly:
        return np.rint(np.cumsum([0.0, *[(timesteps - 1) / (count - 1)] * (count - 1)])).astype(np.int64)
    for stride in range(1, timesteps):
        if len(range(0, timesteps, stride)) == count:
            return np.arange(0, timesteps, stride)
    possible = {len(range(0, timesteps, stride)) for stride in range(1, timesteps)}
    nearest = min(possible - {1}, key=lambda size: abs(size - count))
    raise UserError(f"the ddim sampler cannot pick {count} of {timesteps} timesteps at one stride; {nearest} would do")


class GaussianProcess:
    """Forward and reverse process on the timesteps kept (all of them unless `kept` says which).

    `betas`: float64 (T,) of the full process. `t` in every method is an int64 tensor (N,) of *positions* among the kept
    timesteps; `timesteps[t]` is what the network is given. Tables are float64, values float32 after the look-up.
    """

    def __init__(self, betas: np.ndarray, kept: np.ndarray | None = None, device: torch.device = CPU) -> None:
        kept = np.arange(len(betas)) if kept is None else kept
        full = np.cumprod(1 - betas)
        # Skipping timesteps multiplies their alphas together.
        self.betas = 1 - full[kept] / np.append(1.0, full[kept[:-1]])
        self.alphas_cumprod = np.cumprod(1 - self.betas)
        previous = np.append(1.0, self.alphas_cumprod[:-1])
        self.posterior_variance = self.betas * (1 - previous) / (1 - self.alphas_cumprod)
        # The posterior variance is 0 at the first step: its logarithm takes the second's.
        clipped = np.append(self.posterior_variance[1], self.posterior_variance[1:])
        tables = {
            "signal": np.sqrt(self.alphas_cumprod),
            "noise": np.sqrt(1 - self.alphas_cumprod),
            "inverse_signal": np.sqrt(1 / self.alphas_cumprod),
            "noise_to_signal": np.sqrt(1 / self.alphas_cumprod - 1),
            "posterior_x0": self.betas * np.sqrt(previous) / (1 - self.alphas_cumprod),
            "posterior_xt": (1 - previous) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod),
            "smallest_log_variance": np.log(clipped),
            "largest_log_variance": np.log(self.betas),
            "previous_signal": np.sqrt(previous),
            "previous_noise": np.sqrt(1 - previous),
        }
        self._tables = {name: to_device(table, device) for name, table in tables.items()}
        self.timesteps = to_device(kept, device)
        self.full_betas, self.full_length = betas, len(betas)

    def __len__(self) -> int:
        return len(self.betas)

    def _at(self, name: str, t: torch.Tensor) -> torch.Tensor:
        """float32 (N, 1, 1, 1) values of a table."""
        return self._tables[name][t].float()[:, None, None, None]

    def q_sample(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x_t of clean images (N, C, H, W) in [-1, 1] and standard normal noise of that shape."""
        return self._at("signal", t) * x0 + self._at("noise", t) * noise

    def posterior_mean(self, x0: torch.Tensor, xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Mean of q(x_{t-1} | x_t, x_0)."""
        return self._at("posterior_x0", t) * x0 + self._at("posterior_xt", t) * xt

    def reverse(
        self, output: torch.Tensor, xt: torch.Tensor, t: torch.Tensor, clip: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean and log-variance of p(x_{t-1} | x_t), and the predicted x_0, from a network's output.

        output: (N, 2C, H, W); the three results: (N, C, H, W). `clip` keeps x_0 in [-1, 1].
        """
        epsilon, position = output.float().chunk(2, dim=1)
        share = (position + 1) / 2
        log_variance = share * self._at("largest_log_variance", t) + (1 - share) * self._at("smallest_log_variance", t)
        x0 = self._at("inverse_signal", t) * xt - self._at("noise_to_signal", t) * epsilon
        if clip:
            x0 = x0.clamp(-1, 1)
        return self.posterior_mean(x0, xt, t), log_variance, x0

    def losses(
        self, output: torch.Tensor, x0: torch.Tensor, xt: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`mse` and `vb`, each (N,), whose sum is the hybrid loss of a sample.

        mse is L_simple. vb is the step's term of the variational bound in bits per dimension, times T / 1000 (the sum
        over T steps, weighted by 0.001, as improved DDPM has it); it teaches the variance alone, so the predicted
        noise is detached there.
        """
        output = output.float()
        epsilon, position = output.chunk(2, dim=1)
        mse = _mean_of_image((noise - epsilon) ** 2)
        frozen = torch.cat([epsilon.detach(), position], dim=1)
        mean, log_variance, _ = self.reverse(frozen, xt, t, clip=False)
        divergence = _normal_kl(
            self.posterior_mean(x0, xt, t), self._at("smallest_log_variance", t), mean, log_variance
        )
        # The last step, t = 0, is judged by the likelihood of the 256 grey levels instead.
        likelihood = -_grey_level_log_likelihood(x0, mean, 0.5 * log_variance)
        bits = _mean_of_image(torch.where((t == 0)[:, None, None, None], likelihood, divergence)) / math.log(2)
        return mse, bits * self.full_length / 1000

    def ancestral_step(
        self, output: torch.Tensor, xt: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """x_{t-1} drawn from the learned reverse distribution; the last step (t = 0) is its mean."""
        mean, log_variance, _ = self.reverse(output, xt, t)
        drawn = mean + torch.exp(0.5 * log_variance) * noise
        return torch.where((t == 0)[:, None, None, None], mean, drawn)

    def ddim_step(self, output: torch.Tensor, xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_{t-1} of the deterministic sampler (DDIM, eta 0), with the noise re-derived from the clipped x_0."""
        x0 = self.reverse(output, xt, t)[2]
        epsilon = (self._at("inverse_signal", t) * xt - x0) / self._at("noise_to_signal", t)
        return self._at("previous_signal", t) * x0 + self._at("previous_noise", t) * epsilon


def _mean_of_image(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(dim=1)


def _normal_kl(
    mean: torch.Tensor, log_variance: torch.Tensor, other_mean: torch.Tensor, other_log_variance: torch.Tensor
) -> torch.Tensor:
    """KL divergence in nats of the first diagonal normal from the other, element by element."""
    ratio = torch.exp(log_variance - other_log_variance)
    distance = (mean - other_mean) ** 2 * torch.exp(-other_log_variance)
    return 0.5 * (other_log_variance - log_variance + ratio + distance - 1)


def _grey_level_log_likelihood(x: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Log-likelihood in nats of grey levels (0..255 mapped to [-1, 1]) under normals integrated over each level's bin.

    The outermost bins reach to infinity (DDPM Eq. 13). The normal's distribution function is the tanh approximation of
    the reference implementation, at most about 2e-4 off the exact one.
    """
    centred, precision = x - mean, torch.exp(-log_std)
    above = _normal_cdf(precision * (centred + 1 / 255))
    below = _normal_cdf(precision * (centred - 1 / 255))
    probability = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return probability.clamp(min=SMALLEST_PROBABILITY).log()


def _normal_cdf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
