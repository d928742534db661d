"""The manifold filter (Algorithm 1 of the paper): keep generated views inside the manifold of the real labelled views.

Writes `index, inside, distance_ratio` per generated view, the view store of those that are kept, and a curve of what
other rules would keep (rule, k, scale, kept, share, held_out_share, precision, recall). Patients of --holdout and of the
excluded fold are no part of the manifold; the held-out ones tell in the curve what share of perfect samples a rule would
keep, and calibrate the radii where `filter_rule` is calibrated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import add_settings, run, say, settings, stage_parser
from workflow_scripts.files import atomic_path, read_csv, read_npy, write_csv
from workflow_scripts.study.config.manifold import ManifoldRecipe
from workflow_scripts.study.patients import add_reference, check_rows, real_masks


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--real", type=Path, required=True, help="features of the labelled views")
    parser.add_argument("--real-index", type=Path, required=True, help="index of the labelled views")
    parser.add_argument("--synthetic", type=Path, required=True, help="features of the generated views")
    parser.add_argument("--views", type=Path, required=True, help="store of the generated views")
    parser.add_argument("--index", type=Path, required=True, help="index of the generated views")
    add_reference(parser)
    parser.add_argument("--output", type=Path, required=True, help="CSV of the filter's answers")
    parser.add_argument("--output-curve", type=Path, required=True, help="CSV of what other rules keep")
    parser.add_argument("--output-views", type=Path, required=True, help="store of the kept views")
    parser.add_argument("--output-index", type=Path, required=True, help="index of the kept views")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add_settings(parser, ManifoldRecipe)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Filter the generated views."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.manifold.filter import filter_manifold, require_kept

    recipe: ManifoldRecipe = settings(arguments)
    real, synthetic, views = read_npy(arguments.real), read_npy(arguments.synthetic), read_npy(arguments.views)
    real_index, index = read_csv(arguments.real_index), read_csv(arguments.index)
    check_rows({str(arguments.real): len(real), str(arguments.real_index): len(real_index)})
    check_rows({
        str(arguments.synthetic): len(synthetic), str(arguments.views): len(views), str(arguments.index): len(index),
    })  # fmt: skip
    training, held_out = real_masks(real_index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    result = filter_manifold(
        real[training],
        np.asarray(synthetic),
        real[held_out],
        recipe.filter_k,
        recipe.filter_rule,
        recipe.metric_k,
        recipe.seed,
    )
    require_kept(result.inside, result.ratio, result.k, int(training.sum()))
    kept = np.flatnonzero(result.inside)
    say(
        f"kept {len(kept)} of {len(views)} generated views at k = {result.k} of {training.sum()} real views"
        f" (rule: {recipe.filter_rule})"
    )

    with atomic_path(arguments.output_views) as temporary:
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=views.dtype, shape=(len(kept), *views.shape[1:]))
        for start in range(0, len(kept), 1024):  # a paper-sized store does not fit into a small memory
            store[start : start + 1024] = views[kept[start : start + 1024]]
        store.flush()
    write_csv(index.iloc[kept], arguments.output_index)
    write_csv(pd.DataFrame(result.curve), arguments.output_curve)
    answers = {"index": np.arange(len(views)), "inside": result.inside.astype(int), "distance_ratio": result.ratio}
    write_csv(pd.DataFrame(answers), arguments.output)


if __name__ == "__main__":
    run(main, parser())
