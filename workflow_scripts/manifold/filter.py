"""The manifold filter (Algorithm 1 of the paper) and what its answer depends on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workflow_scripts.errors import UserError
from workflow_scripts.manifold.neighbours import membership, nearest_others

# Neighbours shown beside the filter's own k; at most this share of the real views.
CURVE_KS = (1, 3, 5, 10, 20, 50, 100)
# Share of the held-out patients' views that a calibrated radius lets pass: real views are the yardstick.
CALIBRATED_SHARE = 0.95


@dataclass(frozen=True)
class Filtered:
    """`inside`, `ratio`: per generated view; `curve`: rows of rule, k, scale, kept, share, held_out_share."""

    inside: np.ndarray
    ratio: np.ndarray
    curve: list[dict[str, object]]


def filter_manifold(real: np.ndarray, generated: np.ndarray, held_out: np.ndarray, k: int) -> Filtered:
    """Keep generated views (M, D) inside the manifold of `real` (N, D): balls to each view's k-th nearest other view.

    The curve tells what other rules would keep: other k; and, where there are `held_out` real views (H, D; may be
    empty), radii of this k times the factor that lets 95 % of them pass. `held_out_share` is the share of those views
    that a rule keeps: what it would keep of perfect samples.
    Raises `UserError` where k does not fit the real set.
    """
    ks = sorted({k, *(other for other in CURVE_KS if other < len(real))})
    distances = nearest_others(real, max(ks))
    curve: list[dict[str, object]] = []
    for other in ks:
        kept = membership(real, distances[:, other - 1], generated)
        passed = membership(real, distances[:, other - 1], held_out) if len(held_out) else None
        curve.append(_curve_row("neighbours", other, 1.0, kept.inside, passed.inside if passed else None))
        if other == k:
            result, yardstick = kept, passed
    if yardstick is not None:
        # The smallest factor that lets at least the wanted share of the held-out views pass.
        scale = float(np.quantile(yardstick.ratio, CALIBRATED_SHARE, method="inverted_cdf"))
        if np.isfinite(scale):
            curve.append(_curve_row("calibrated", k, scale, result.ratio <= scale, yardstick.ratio <= scale))
    return Filtered(result.inside, result.ratio, curve)


def require_kept(inside: np.ndarray, ratio: np.ndarray, k: int, real_views: int) -> None:
    """Raise `UserError` if nothing was kept."""
    if not inside.any():
        raise UserError(
            f"the filter keeps none of {len(inside)} generated views: at k = {k} of {real_views} real views the closest"
            f" one lies {ratio.min():.3g} radii from a real view (1 would be kept), half of them beyond"
            f" {np.median(ratio):.3g}. Look at the generated views; train the generator longer, or raise"
            " manifold.recipe.filter_k"
        )


def _curve_row(rule: str, k: int, scale: float, kept: np.ndarray, passed: np.ndarray | None) -> dict[str, object]:
    return {
        "rule": rule,
        "k": k,
        "scale": scale,
        "kept": int(kept.sum()),
        "share": float(kept.mean()),
        "held_out_share": float(passed.mean()) if passed is not None else None,
    }
