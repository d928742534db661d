"""The Inception v3 of the FID: torchvision's, but for how the network that TensorFlow published in 2015 pools.

Its weights are a plain state dictionary (torch-fidelity and pytorch-fid publish the same file), so that no program has to
be run to get the network, as NVIDIA's TorchScript file would be. A test compares the network with torch-fidelity's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import inception

CLASSES = 1008  # TensorFlow's, with unused ones
LAST_BLOCK_CHANNELS = 2048


def fid_inception() -> nn.Module:
    """The network with its classifier `fc` and random weights: normalised images (B, 3, 299, 299) -> (B, 1008)."""
    blocks = [
        inception.BasicConv2d, InceptionA, inception.InceptionB, InceptionC, inception.InceptionD, InceptionE,
        inception.InceptionAux,
    ]  # fmt: skip
    return inception.Inception3(CLASSES, aux_logits=False, init_weights=False, inception_blocks=blocks)


def mean_pool(x: Tensor) -> Tensor:
    """3 x 3 means that leave the padding out; torchvision's count it as zeros."""
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class InceptionA(inception.InceptionA):
    """Blocks at 35 x 35."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(mean_pool(x)),
        ]


class InceptionC(inception.InceptionC):
    """Blocks at 17 x 17."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(mean_pool(x)),
        ]


class InceptionE(inception.InceptionE):
    """Blocks at 8 x 8. The last one pools maxima, which is how the published network was made."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        is_last = x.shape[1] == LAST_BLOCK_CHANNELS
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1) if is_last else mean_pool(x)
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(pooled),
        ]
