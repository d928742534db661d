"""The losses of contrastive pretraining and the heads they are taken on (paper, Sec. 4.1, Eq. 1-4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workflow_scripts.networks.backbone import seed_weights


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The contrastive loss L_con (NT-Xent, Eq. 1-2).

    `first` and `second` (N, D) embed the two views of N images; row i of one is the positive of row i of the other.
    The denominator of an anchor runs over all 2N views but the anchor itself; the mean is over all 2N ordered positive
    pairs. Similarities are cosines, computed at least in float32 whatever the input and autocast say: at temperature
    0.1 the rounding of bf16 would shift the logits by several per cent. Returns a scalar >= 0.
    """
    with torch.autocast(first.device.type, enabled=False):
        views = _unit_rows(torch.cat([first, second]))
        count = len(views)
        logits = views @ views.T / temperature
        logits = logits.masked_fill(torch.eye(count, dtype=torch.bool, device=views.device), -torch.inf)
        positives = torch.arange(count, device=views.device).roll(count // 2)
        return F.cross_entropy(logits, positives)


def organ_loss(logits: Tensor, organs: Tensor) -> Tensor:
    """The organ loss L_sup (Eq. 3): mean cross-entropy over the 2N views.

    `logits` (2N, C), `organs` (2N,) integers in [0, C). The released code adds the means of the two views instead,
    which is twice this. Computed at least in float32.
    """
    return F.cross_entropy(_precise(logits), organs)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of positive pairs on the unit sphere, in [0, 4]; small is good (Wang & Isola 2020).

    `first` and `second` are (N, D), as in `nt_xent`.
    """
    return (_unit_rows(first) - _unit_rows(second)).square().sum(dim=1).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    """Log of the mean of exp(-2 d^2) over distinct pairs on the unit sphere, in [-8, 0]; small is good, 0 is collapse.

    `embeddings` is (N, D) with N >= 2 and one view per image (Wang & Isola 2020).
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = _unit_rows(embeddings)
        # d^2 = 2 - 2 cos, and the diagonal (cos = 1, so exp(0) = 1) is not a pair.
        gaussians = torch.exp(4 * (unit @ unit.T).clamp(max=1) - 4)
        count = len(unit)
        total = gaussians.sum() - gaussians.diagonal().sum()
        return torch.log(total / (count * (count - 1)))


def spread(embeddings: Tensor) -> Tensor:
    """Standard deviation of unit embeddings (N, D) over the batch: 1 when spread over the sphere, 0 when collapsed."""
    variances = _unit_rows(embeddings).var(dim=0, correction=0)
    return variances.sum().sqrt()


def projection_head(features: int, widths: Sequence[int]) -> nn.Sequential:
    """The projection head g: linear layers of the given widths with ReLU between them, the last one bare.

    (M, features) -> (M, widths[-1]).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([features, *widths]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """The backbone f with the heads of pretraining: projection g and organ h, each absent where its loss is not used.

    `widths` are the layer widths of g, `organs` the number of organs; None leaves the head out. The heads' initial
    weights (torch's defaults) depend on `seed` alone.
    """

    def __init__(
        self, backbone: nn.Module, features: int, widths: Sequence[int] | None, organs: int | None, seed: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        with seed_weights(seed, "heads"):
            self.projection = None if widths is None else projection_head(features, widths)
            self.organ = None if organs is None else nn.Linear(features, organs)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor | None]:
        """(M, 3, H, W) normalised views -> embeddings (M, D) and organ logits (M, C) or None.

        Without a projection head the embeddings are the backbone's features.
        """
        features = self.backbone(views)
        embeddings = features if self.projection is None else self.projection(features)
        return embeddings, None if self.organ is None else self.organ(features)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _unit_rows(embeddings: Tensor) -> Tensor:
    return F.normalize(_precise(embeddings), dim=1)
