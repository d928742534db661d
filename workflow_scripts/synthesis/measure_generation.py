"""How close the generated views come to the real ones (Eq. 6-7 of the paper, and more).

Rows `set, metric, batch, value`. Numbered batches are the paper's protocol: disjoint reference batches of real views
the generator learnt from, each against the whole generated set. An empty batch is all those views against the whole
set. Sets: `unfiltered`, `filtered`; `real`, views of held-out patients, which is what perfect samples would score (it
is there when these patients have more views than the metrics' k); `unfiltered_equal`, `filtered_equal`, random
subsamples as large as the smallest of the sets, since every one of these metrics depends on the size. `fid_infinity`
extrapolates FID to infinitely many generated views; `kid` and `mmd` are squared MMDs with a cubic and with a Gaussian
kernel, `_low` and `_high` bound them by a bootstrap over patients; `size` is the set's size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_npy, write_csv
from workflow_scripts.core.log import progress, say
from workflow_scripts.runtime.cli import add_settings, run, settings, stage_parser
from workflow_scripts.study.config.manifold import ManifoldRecipe
from workflow_scripts.study.patients import add_reference, check_rows, real_masks


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--real", type=Path, required=True, help="features of the labelled views")
    parser.add_argument("--real-index", type=Path, required=True, help="index of the labelled views")
    parser.add_argument("--synthetic", type=Path, required=True, help="features of the generated views")
    parser.add_argument("--filter", type=Path, required=True, help="the manifold filter's answers")
    add_reference(parser)
    parser.add_argument("--output", type=Path, required=True, help="CSV of the metrics")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add_settings(parser, ManifoldRecipe)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Compute the metrics of each set."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.synthesis.checks import require_comparable
    from workflow_scripts.synthesis.kernel_distances import kernel_distances
    from workflow_scripts.synthesis.metrics import Generated, extrapolated_frechet, moments, reference_batches

    recipe: ManifoldRecipe = settings(arguments)
    k = recipe.metric_k
    real, synthetic = read_npy(arguments.real), read_npy(arguments.synthetic)
    index, decisions = read_csv(arguments.real_index), read_csv(arguments.filter)
    check_rows({str(arguments.real): len(real), str(arguments.real_index): len(index)})
    check_rows({str(arguments.synthetic): len(synthetic), str(arguments.filter): len(decisions)})
    training, held_out = real_masks(index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    reference, patients = real[training], index["patient_id"].to_numpy()[training]
    batches = reference_batches(len(reference), recipe.metric_batches, recipe.metric_batch_size, recipe.seed)

    sets = {"unfiltered": np.asarray(synthetic), "filtered": synthetic[decisions["inside"].to_numpy() == 1]}
    for name, features in sets.items():
        if len(features) <= k:
            raise UserError(
                f"the {name} set has {len(features)} generated views, its metrics need more than metric_k = {k}: raise "
                "synthesis.images, or manifold.recipe.filter_k if the filter keeps too few"
            )
    require_comparable({"real views": reference} | {f"the {name} generated set": set_ for name, set_ in sets.items()})
    if held_out.sum() > k:
        sets["real"] = real[held_out]
    else:
        say(f"no `real` row: held-out patients have {held_out.sum()} views, it needs more than metric_k = {k}")
    size = min(len(features) for features in sets.values())
    generator = np.random.default_rng(recipe.seed)
    for name in ("unfiltered", "filtered"):
        chosen = np.sort(generator.permutation(len(sets[name]))[:size])
        sets[f"{name}_equal"] = sets[name][chosen]

    rows: list[tuple[str, str, int | None, float]] = []
    for name, features in progress(sets.items(), "metrics", "set", len(sets)):
        generated = Generated(features, k)
        for batch, members in enumerate(batches):
            values = generated.against(reference[members])
            rows += [(name, metric, batch, value) for metric, value in values.items()]
        values = generated.against(reference) | {"size": len(features)}
        if name in ("unfiltered", "filtered"):
            values["fid_infinity"] = extrapolated_frechet(moments(reference), features, recipe.seed)
        for metric, found in kernel_distances(reference, features, patients, recipe.seed).items():
            values |= {metric: found.value, f"{metric}_low": found.low, f"{metric}_high": found.high}
        rows += [(name, metric, None, value) for metric, value in values.items()]
    table = pd.DataFrame(rows, columns=["set", "metric", "batch", "value"]).astype({"batch": "Int64"})
    write_csv(table, arguments.output)


if __name__ == "__main__":
    run(main, parser())
