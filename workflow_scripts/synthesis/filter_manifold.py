"""The manifold filter (Algorithm 1 of the paper): keep synthetic views inside the manifold of the real labelled views.

Writes `index, inside, distance_ratio` per synthetic view, the view store of those that are kept, and a curve of what
other rules would keep (rule, k, real_views, scale, kept, share, held_out_share, precision, recall). Patients of --holdout
and of the excluded fold are not part of the manifold; the held-out ones show in the curve what share of perfect samples a
rule would keep, and calibrate the radii where `filter_rule` is calibrated.

    python -m workflow_scripts.synthesis.filter_manifold --real embedding/labelled.npy --real-index views/labelled.csv \\
        --synthetic embedding/synthetic.npy --views views/synthetic.npy --index views/synthetic.csv \\
        --holdout diffusion/holdout.csv --output-filter synthesis/filter.csv --output-curve synthesis/filter_curve.csv \\
        --output-views views/filtered.npy --output-index views/filtered.csv
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv, write_npy_blocks
from workflow_scripts.core.log import say
from workflow_scripts.core.store import ViewStore, check_rows
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_settings, run, settings, stage_parser
from workflow_scripts.study.config.manifold import ManifoldRecipe
from workflow_scripts.study.patients import real_masks
from workflow_scripts.synthesis.checks import extent, read_features, require_comparable
from workflow_scripts.synthesis.metrics import recall
from workflow_scripts.synthesis.neighbours import membership, nearest_others, radii

# Neighbours shown beside the filter's own k; at most this share of the real views.
CURVE_KS = (1, 3, 5, 10, 20, 50, 100)
# Share of the held-out patients' views that a calibrated radius lets pass: real views are the yardstick.
CALIBRATED_SHARE = 0.95
# Algorithm 1's k for the paper's 880 labelled views; `auto` keeps their proportion.
PAPER_K, PAPER_VIEWS = 50, 880
# Recall depends on the number of kept views; the curve takes it from so many at most.
RECALL_VIEWS = 2000
ROWS = 1024  # views copied at a time: a paper-sized store does not fit into a small memory


@dataclass(frozen=True)
class Filtered:
    """`inside`, `ratio` (at most 1 exactly where inside, but for rule none): per synthetic view; `k`: whose distances are radii.

    `curve`: rows of rule, k, real_views, scale, kept, share, held_out_share, precision, recall.
    """

    inside: np.ndarray
    ratio: np.ndarray
    k: int
    curve: list[dict[str, object]]


def resolved_k(k: int | str, views: int) -> int:
    """The neighbour that sets the radii of so many real views; `auto` is 50 of 880, the paper's, in proportion."""
    return max(1, round(PAPER_K * views / PAPER_VIEWS)) if k == "auto" else int(k)


def filter_manifold(real: np.ndarray, generated: np.ndarray, held_out: np.ndarray, recipe: ManifoldRecipe) -> Filtered:
    """Keep synthetic views (M, D) inside the manifold of `real` (N, D): balls to each view's k-th nearest other view.

    k is `filter_k`, which may be "auto" (`resolved_k`). `filter_rule` neighbours is Algorithm 1; calibrated multiplies
    its radii by the smallest factor that lets 95 % of the `held_out` real views (H, D; may be empty otherwise) pass:
    what real views of unseen patients look like is kept, and little more; none keeps every view. The first two rules, and
    other k, are rows of the curve: `held_out_share` is the share of the held-out views that a rule keeps; `precision` and
    `recall` are those of the kept views at `metric_k` against all real ones, recall of at most RECALL_VIEWS drawn by
    `seed` (None where too few are kept).
    Raises `UserError` where k does not fit the real set, there is nothing to calibrate on, or a set is one view repeated.
    """
    require_comparable({"real views": real, "synthetic views": generated})
    if len(held_out):
        extent(held_out, "held-out views")
    k, metric_k = resolved_k(recipe.filter_k, len(real)), recipe.metric_k
    ks = sorted({k, *(other for other in CURVE_KS if other < len(real))})
    distances = nearest_others(real, max(*ks, metric_k))
    precise = membership(real, distances[:, metric_k - 1], generated).inside
    order = np.random.default_rng(recipe.seed).permutation(len(generated))

    def row(name: str, other: int, scale: float, kept: np.ndarray, passed: np.ndarray | None) -> dict[str, object]:
        drawn = np.sort(order[kept[order]][:RECALL_VIEWS])
        enough = len(drawn) > metric_k
        return {
            "rule": name,
            "k": other,
            "real_views": len(real),
            "scale": scale,
            "kept": int(kept.sum()),
            "share": float(kept.mean()),
            "held_out_share": float(passed.mean()) if passed is not None else None,
            "precision": float(precise[kept].mean()) if kept.any() else None,
            "recall": recall(real, generated[drawn], radii(generated[drawn], metric_k)) if enough else None,
        }

    curve: list[dict[str, object]] = []
    for other in ks:
        lies = membership(real, distances[:, other - 1], generated)
        passed = membership(real, distances[:, other - 1], held_out) if len(held_out) else None
        curve.append(row("neighbours", other, 1.0, lies.inside, passed.inside if passed else None))
        if other == k:
            result, yardstick = lies, passed
    inside, ratio = result.inside, result.ratio
    # The smallest factor that lets at least the wanted share of the held-out views pass.
    scale = 0.0
    if yardstick is not None:
        scale = float(np.quantile(yardstick.ratio, CALIBRATED_SHARE, method="inverted_cdf"))
    if yardstick is not None and 0 < scale < np.inf:
        curve.append(row("calibrated", k, scale, result.ratio <= scale, yardstick.ratio <= scale))
        if recipe.filter_rule == "calibrated":
            inside, ratio = result.ratio <= scale, result.ratio / scale
    elif recipe.filter_rule == "calibrated":
        raise UserError(
            f"manifold.recipe.filter_rule: calibrated needs views of held-out patients that are no copies of training"
            f" views; there are {len(held_out)} views"
            + (f", and the radii would be {scale} times those of k = {k}" if len(held_out) else "")
            + ". Raise diffusion.holdout_patients, or set filter_rule: neighbours"
        )
    if recipe.filter_rule == "none":
        inside = np.ones_like(inside)
    return Filtered(inside, ratio, k, curve)


def require_kept(inside: np.ndarray, ratio: np.ndarray, k: int, real_views: int) -> None:
    """Raise `UserError` if nothing was kept."""
    if not inside.any():
        raise UserError(
            f"the filter keeps none of {len(inside)} synthetic views: at k = {k} of {real_views} real views the closest"
            f" one lies {ratio.min():.3g} radii from a real view (1 would be kept), half of them beyond"
            f" {np.median(ratio):.3g}. Look at the synthetic views; train the generator longer, raise"
            " manifold.recipe.filter_k, or set filter_rule: neighbours if it is calibrated"
        )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "real real_index synthetic views index holdout? folds?")
    add_outputs(parser, "filter curve views index")
    add_parameters(parser, "exclude_fold")
    add_settings(parser, ManifoldRecipe)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Filter the synthetic views."""
    import pandas as pd

    recipe: ManifoldRecipe = settings(arguments)
    real, synthetic = read_features(arguments.real, arguments.synthetic)
    real_index, store = read_csv(arguments.real_index), ViewStore.open(arguments.views, arguments.index)
    check_rows({str(arguments.real): len(real), str(arguments.real_index): len(real_index)})
    check_rows({str(arguments.synthetic): len(synthetic), str(arguments.views): len(store)})
    training, held_out = real_masks(real_index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    result = filter_manifold(real[training], np.asarray(synthetic), real[held_out], recipe)
    require_kept(result.inside, result.ratio, result.k, int(training.sum()))
    kept = np.flatnonzero(result.inside)
    say(
        f"kept {len(kept)} of {len(store)} synthetic views at k = {result.k} of {training.sum()} real views"
        f" (rule: {recipe.filter_rule})"
    )

    blocks = (store.pixels[kept[start : start + ROWS]] for start in range(0, len(kept), ROWS))
    write_npy_blocks(blocks, len(kept), arguments.output_views)
    write_csv(store.index.iloc[kept], arguments.output_index)
    write_csv(pd.DataFrame(result.curve), arguments.output_curve)
    answers = {"index": np.arange(len(store)), "inside": result.inside.astype(int), "distance_ratio": result.ratio}
    write_csv(pd.DataFrame(answers), arguments.output_filter)


if __name__ == "__main__":
    run(main, parser())
