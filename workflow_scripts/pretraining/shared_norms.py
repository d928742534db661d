"""Batch norms whose statistics are taken over all processes of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """Sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes' rows, each holding as many; for CPUs, which SyncBatchNorm refuses."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        # timm's norms may end with a dropout and an activation.
        self.drop = getattr(norm, "drop", None) or nn.Identity()
        self.act = getattr(norm, "act", None) or nn.Identity()
        self.train(norm.training)

    def forward(self, views: Tensor) -> Tensor:
        """(n, C, H, W) of each process -> the same, normalised over all of them while training."""
        if not self.training:
            return self.act(self.drop(super().forward(views)))
        axes, shape = [0, 2, 3], (1, -1, 1, 1)
        count = torch.distributed.get_world_size() * views.numel() // views.shape[1]
        mean = _sum(views.sum(axes)) / count
        centred = views - mean.view(shape)
        variance = _sum(centred.square().sum(axes)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return self.act(self.drop(normalised))


def _sum(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)
    return total


def share_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with batch norms that take their statistics over all processes; parameters, buffers and keys stay."""
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(module)
    if isinstance(module, nn.BatchNorm2d):
        return GlobalBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, share_batch_norm(child, device))
    return module
