"""How far fine-tuning moved the weights of a backbone, and whether its training loss had settled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn


def backbone_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters of a classifier's backbone by their names in the classifier; no running statistics."""
    return {
        f"backbone.{name}": value.detach().cpu().clone() for name, value in model.get_submodule("backbone").named_parameters()
    }  # fmt: skip


def weights_moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Length of the change of all weights of `before` together, relative to their length; 0: none moved."""
    change = sum(float((after[name] - value).double().square().sum()) for name, value in before.items())
    return float(np.sqrt(change / sum(float(value.double().square().sum()) for value in before.values())))


def last_quarters(losses: np.ndarray) -> tuple[float, float]:
    """Mean training loss, nats, of the last but one and the last quarter of the epochs; NaN where there are too few.

    `losses` (epochs, views), NaN where a view was not drawn; a quarter has at least one epoch.
    """
    quarter = max(1, len(losses) // 4)
    if len(losses) < 2 * quarter:
        return np.nan, float(np.nanmean(losses))
    return float(np.nanmean(losses[-2 * quarter : -quarter])), float(np.nanmean(losses[-quarter:]))
