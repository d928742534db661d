"""Optimisers and the learning-rate schedule of pretraining (paper, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

MOMENTUM = 0.9
TRUST = 1e-3


def make_optimiser(modules: Iterable[nn.Module], name: str, lr: float, weight_decay: float) -> Optimizer:
    """`lars` (timm's Lars, momentum 0.9, trust coefficient 1e-3) or `adamw` (torch's), over all trainable parameters.

    Biases and norms (parameters of one dimension) form a second group: no weight decay and, with lars, no adaptation,
    as in SimCLR. Both groups have the same learning rate. True LARS needs learning rates near 0.075 sqrt(batch): at the
    paper's 1e-3 it moves weights by a millionth per step. Raises ValueError for another name.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    weights = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if name == "adamw":
        return AdamW(groups, lr=lr)
    if name == "lars":
        from timm.optim.lars import Lars

        # timm adapts a group only if it decays; without this, adaptation would end where weight_decay is set to 0.
        groups[0]["always_adapt"] = True
        return Lars(groups, lr=lr, momentum=MOMENTUM, trust_coeff=TRUST)
    raise ValueError(f"unknown optimiser {name!r}; it is lars or adamw")


def learning_rate(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Rate of step 0 <= step < steps: linear warm-up to `peak`, then polynomial decay (power 1) to 0 at `steps`.

    The warm-up takes `warmup_share` of the steps (rounded); its first step already moves, its successor is at the peak.
    """
    warmup = round(warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (steps - step) / (steps - warmup)
