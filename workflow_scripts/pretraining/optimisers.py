"""Optimisers and the learning-rate schedule of pretraining (paper, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

MOMENTUM = 0.9
TRUST = 1e-3


class ScaledAdam(Adam):
    """Adam behind LARC's scaling (trust coefficient 1e-3, no clipping), what the released code calls LARS.

    Every gradient, with weight decay added, is scaled to TRUST |weights| / (|gradient| + decay |weights|) times itself.
    Adam divides by the gradient's running size, so the scaling cancels but for Adam's epsilon and the change of the norms
    over time: in effect this is Adam on gradients of constant norm.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; the groups' own weight decay is in the scaled gradients and not applied again."""
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                size, slope = weights.norm(), weights.grad.norm()
                decay = group["weight_decay"]
                scale = TRUST * size / (slope + decay * size + 1e-8)
                decayed = (weights.grad + decay * weights) * scale
                weights.grad.copy_(torch.where((size > 0) & (slope > 0), decayed, weights.grad))
            group["weight_decay"] = 0.0
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


def make_optimiser(modules: Iterable[nn.Module], name: str, lr: float, weight_decay: float) -> Optimizer:
    """`lars` (timm's Lars, momentum 0.9, trust coefficient 1e-3), `adamw` (torch's) or `released`, over what is trainable.

    Biases and norms (parameters of one dimension) form a second group: no weight decay and, with lars, no adaptation,
    as in SimCLR. Both groups have the same learning rate. True LARS needs learning rates near 0.075 sqrt(batch): at the
    paper's 1e-3 it moves weights by a millionth per step. `released` (`ScaledAdam`) decays and scales all parameters alike.
    Raises ValueError for another name.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    weights = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if name == "released":
        return ScaledAdam(parameters, lr=lr, weight_decay=weight_decay)
    if name == "adamw":
        return AdamW(groups, lr=lr)
    if name == "lars":
        from timm.optim.lars import Lars

        # timm adapts a group only if it decays; without this, adaptation would end where weight_decay is set to 0.
        groups[0]["always_adapt"] = True
        return Lars(groups, lr=lr, momentum=MOMENTUM, trust_coeff=TRUST)
    raise ValueError(f"unknown optimiser {name!r}; it is lars, adamw or released")


def learning_rate(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Rate of step 0 <= step < steps: linear warm-up to `peak`, then polynomial decay (power 1) to 0 at `steps`.

    The warm-up takes `warmup_share` of the steps (rounded); its first step already moves, its successor is at the peak.
    """
    warmup = round(warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (steps - step) / (steps - warmup)
