"""How close the synthetic views come to the real ones (Eq. 6-7 of the paper, and more).

Rows `set, metric, batch, value`. Numbered batches are the paper's protocol: disjoint reference batches of real views
the generator learnt from, each against the whole synthetic set. An empty batch is all those views against the whole
set. Sets: `unfiltered`, `filtered`; `real`, views of held-out patients, which is what perfect samples would score (it
is there when these patients have more views than the metrics' k); `unfiltered_equal`, `filtered_equal`, random
subsamples as large as the smallest of the sets, since every one of these metrics depends on the size. `fid_infinity`
extrapolates FID to infinitely many synthetic views; `kid` and `mmd` are squared MMDs with a cubic and with a Gaussian
kernel, `_low` and `_high` bound them by a bootstrap over patients; `size` is the set's size. Views that were
filtered before they came (rule none) are `filtered` only.

With --published, `unfiltered_published` and `filtered_published` are the same sets against features of real views that
others computed: numbered batches of them, and all of them.

    python -m workflow_scripts.synthesis.measure_generation --real embedding/labelled.npy --real-index views/labelled.csv \\
        --synthetic embedding/synthetic.npy --filter synthesis/filter.csv --holdout diffusion/holdout.csv \\
        --output-metrics synthesis/metrics.csv
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv
from workflow_scripts.core.log import progress, say
from workflow_scripts.core.store import check_rows
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_settings, run, settings, stage_parser
from workflow_scripts.study.config.manifold import ManifoldRecipe
from workflow_scripts.study.patients import real_masks

if TYPE_CHECKING:
    import numpy as np

    from workflow_scripts.synthesis.metrics import Generated

Row = tuple[str, str, int | None, float]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "real real_index synthetic filter holdout? folds? published?")
    add_outputs(parser, "metrics")
    add_parameters(parser, "exclude_fold")
    add_settings(parser, ManifoldRecipe)
    return parser


def in_batches(name: str, generated: Generated, real: np.ndarray, batches: np.ndarray) -> list[Row]:
    """The metrics of a set against batches of real views: rows of set, metric, batch, value."""
    return [
        (name, metric, batch, value)
        for batch, members in enumerate(batches)
        for metric, value in generated.against(real[members]).items()
    ]


def read_published(path: Path) -> np.ndarray:
    """Published features (N, D), float; `UserError` where the file is none of NumPy's or lacks such an array `arr_0`."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            features = archive["arr_0"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} (embedding.published_activations) has no array arr_0 that can be read ({type(error).__name__}); it must be "
            "an .npz file as numpy.savez writes it, with one row of features per view"
        ) from error
    if features.ndim != 2 or features.dtype.kind != "f":
        raise UserError(
            f"{path} (embedding.published_activations): arr_0 has the shape {features.shape} of {features.dtype}; features are "
            "floating-point numbers (views, width)"
        )
    return features.astype(np.float32)


def main(arguments: argparse.Namespace) -> None:
    """Compute the metrics of each set."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.synthesis.checks import read_features, require_comparable
    from workflow_scripts.synthesis.kernel_distances import kernel_distances
    from workflow_scripts.synthesis.metrics import Generated, extrapolated_frechet, moments, reference_batches

    recipe: ManifoldRecipe = settings(arguments)
    k = recipe.metric_k
    real, synthetic = read_features(arguments.real, arguments.synthetic)
    index, decisions = read_csv(arguments.real_index), read_csv(arguments.filter)
    check_rows({str(arguments.real): len(real), str(arguments.real_index): len(index)})
    check_rows({str(arguments.synthetic): len(synthetic), str(arguments.filter): len(decisions)})
    training, held_out = real_masks(index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    reference, patients = real[training], index["patient_id"].to_numpy()[training]
    batches = reference_batches(len(reference), recipe.metric_batches, recipe.metric_batch_size, recipe.seed)

    sets = {"unfiltered": np.asarray(synthetic), "filtered": synthetic[decisions["inside"].to_numpy() == 1]}
    if recipe.filter_rule == "none":
        del sets["unfiltered"]
    generated_sets = tuple(sets)
    published, published_batches = None, batches
    if arguments.published is not None:
        published = read_published(arguments.published)
        published_batches = reference_batches(
            len(published), recipe.metric_batches, recipe.metric_batch_size, recipe.seed
        )
    for name, features in sets.items():
        if len(features) <= k:
            raise UserError(
                f"the {name} set has {len(features)} synthetic views, its metrics need more than metric_k = {k}: raise "
                "synthesis.images, or manifold.recipe.filter_k if the filter keeps too few"
            )
    real_sets = {"real views": reference} | ({} if published is None else {str(arguments.published): published})
    require_comparable(real_sets | {f"the {name} synthetic set": set_ for name, set_ in sets.items()})
    if held_out.sum() > k:
        sets["real"] = real[held_out]
    else:
        say(f"no `real` row: held-out patients have {held_out.sum()} views, it needs more than metric_k = {k}")
    size = min(len(features) for features in sets.values())
    generator = np.random.default_rng(recipe.seed)
    for name in generated_sets:
        chosen = np.sort(generator.permutation(len(sets[name]))[:size])
        sets[f"{name}_equal"] = sets[name][chosen]

    rows: list[Row] = []
    for name, features in progress(sets.items(), "metrics", "set", len(sets)):
        generated = Generated(features, k)
        rows += in_batches(name, generated, reference, batches)
        if name in generated_sets and published is not None:
            other = f"{name}_published"
            rows += in_batches(other, generated, published, published_batches)
            values = generated.against(published) | {"size": len(features)}
            rows += [(other, metric, None, value) for metric, value in values.items()]
        values = generated.against(reference) | {"size": len(features)}
        if name in generated_sets:
            values["fid_infinity"] = extrapolated_frechet(moments(reference), features, recipe.seed)
        for metric, found in kernel_distances(reference, features, patients, recipe.seed).items():
            values |= {metric: found.value, f"{metric}_low": found.low, f"{metric}_high": found.high}
        rows += [(name, metric, None, value) for metric, value in values.items()]
    table = pd.DataFrame(rows, columns=["set", "metric", "batch", "value"]).astype({"batch": "Int64"})
    write_csv(table, arguments.output_metrics)


if __name__ == "__main__":
    run(main, parser())
