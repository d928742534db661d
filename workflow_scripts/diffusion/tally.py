"""Metrics of diffusion training: means over steps, and over quarters of the timesteps."""

from __future__ import annotations

import torch

from workflow_scripts.runtime.processes import Processes

QUARTERS = 4
STEP_SUMS = 3


class Tally:
    """Sums over the samples and steps since the last report, float64, on the device that trains."""

    def __init__(self, timesteps: int, device: torch.device) -> None:
        self.timesteps = timesteps
        # mse and vb, summed; both by quarter of the timesteps, and how many samples fell there; gradient norm, steps
        # and steps that fp16 skipped.
        self.sums = torch.zeros(2 + 2 * QUARTERS + STEP_SUMS, dtype=torch.float64, device=device)

    def add_samples(self, mse: torch.Tensor, vb: torch.Tensor, t: torch.Tensor) -> None:
        """Losses (N,) of samples at timesteps (N,)."""
        quarter = t * QUARTERS // self.timesteps
        mse, vb = mse.detach().double(), vb.detach().double()
        member = (quarter[:, None] == torch.arange(QUARTERS, device=t.device)).double()
        by_quarter = torch.cat([(mse + vb) @ member, member.sum(dim=0)])
        self.sums[:-STEP_SUMS] += torch.cat([mse.sum()[None], vb.sum()[None], by_quarter])

    def add_step(self, grad_norm: torch.Tensor, may_skip: bool) -> None:
        """Gradient norm of a step; where fp16 skips a step whose gradients overflow, that is counted instead."""
        skipped = ~torch.isfinite(grad_norm) if may_skip else torch.zeros_like(grad_norm, dtype=torch.bool)
        norm = torch.where(skipped, 0.0, grad_norm)
        self.sums[-STEP_SUMS:] += torch.stack([norm, torch.ones_like(norm), skipped.to(norm.dtype)]).double()

    def clear_samples(self) -> None:
        """Forget the samples but not the steps, which are the same in every process."""
        self.sums[:-STEP_SUMS] = 0

    def totals(self, processes: Processes) -> torch.Tensor:
        """The sums over all processes."""
        return torch.cat([processes.total(self.sums[:-STEP_SUMS]), self.sums[-STEP_SUMS:]])

    def means(self, processes: Processes) -> dict[str, float | None]:
        """The rows' values over all processes; a quarter that no sample fell into has None."""
        mse, vb, *others, norm, steps, skipped = self.totals(processes).tolist()
        losses, counts = others[:QUARTERS], others[QUARTERS:]
        total = max(1.0, sum(counts))
        values: dict[str, float | None] = {"loss": (mse + vb) / total, "mse": mse / total, "vb": vb / total}
        for quarter, (loss, count) in enumerate(zip(losses, counts, strict=True)):
            values[f"loss_q{quarter}"] = loss / count if count else None
        values["grad_norm"] = norm / (steps - skipped) if steps > skipped else 0.0
        if skipped:
            values["skipped_steps"] = skipped
        return values
