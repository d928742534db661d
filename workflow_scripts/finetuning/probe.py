"""Probe a frozen network: logistic regression on the features of the weights that an experiment starts from.

What fine-tuning makes of a network depends on its rates and epochs; what the network brings along does not. For each seed
and fold, the network embeds every view as it is, without training. Class-balanced logistic regression on the standardised
features of the other folds' kept views then predicts the views of the fold, and external views if there are any. The
predictions are those of a row like any other. `--output-efficiency` has those that are learnt from a share of the training
patients, drawn several times.

    python -m workflow_scripts.finetuning.probe --views views/labelled.npy --index views/labelled.csv \\
        --labels labels/complete.csv --folds folds/seed0.csv folds/seed1.csv --seeds 0 1 --classes homogeneous inhomogeneous \\
        --layout torchvision --weights weights/resnet18-f37072fd.pth --output-efficiency efficiency.csv \\
        --output-predictions seed0.csv seed1.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_device, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.finetuning import ProbeRecipe

if TYPE_CHECKING:
    import numpy as np

BATCH = 64
EFFICIENCY_COLUMNS = ["share", "draw", "seed", "view_id", "patient_id", "fold", "label_original", "probability"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index labels+ folds+ weights* external_views* external_index*")
    add_outputs(parser, "predictions+ efficiency external*")
    add_parameters(parser, "seeds classes backbone normalisation layout")
    add_settings(parser, ProbeRecipe)
    add_device(parser)
    return parser


def of_seed(files: Sequence[Path], seeds: Sequence[int], what: str) -> list[list[Path]]:
    """The files of each seed: all of them where they are the same for every seed, else an equal part in order."""
    each, rest = divmod(len(files), len(seeds))
    if len(files) == 1:
        return [list(files) for _ in seeds]
    if rest:
        raise UserError(f"--{what} names {len(files)} files for {len(seeds)} seeds; give the same number for each")
    return [list(files[i * each : (i + 1) * each]) for i in range(len(seeds))]


def training_patients(patients: np.ndarray, share: float, seed: int, stream: str) -> np.ndarray:
    """Which of the training views belong to a random `share` of their patients, bool (N,); at least two patients.

    `patients` (N,) are the names of the training views' patients. A function of (patients, share, seed, stream), and
    larger shares of one stream hold the smaller ones.
    """
    import numpy as np

    from workflow_scripts.core.randomness import philox

    names = np.unique(patients)
    order = philox(seed, stream).permutation(len(names))
    return np.isin(patients, names[order[: max(2, round(share * len(names)))]])


def main(arguments: argparse.Namespace) -> None:
    """Embed once per network, fit one regression per seed, fold, share and draw."""
    import numpy as np
    import pandas as pd
    import torch

    from workflow_scripts.core.files import read_csv, write_csv
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.finetuning.baselines import linear_probability
    from workflow_scripts.finetuning.predictions import EXTERNAL_COLUMNS, PREDICTION_COLUMNS, decide
    from workflow_scripts.networks.backbone import normalise
    from workflow_scripts.networks.cross_validation import initial_classifier
    from workflow_scripts.networks.fold_inputs import join_tables, training_targets, weights_by_fold
    from workflow_scripts.runtime.device import select_device

    device, recipe, seeds = select_device(arguments.device, arguments.threads), settings(arguments), arguments.seeds
    store = ViewStore.open(arguments.views, arguments.index)
    outside = [ViewStore.open(*files) for files in zip(arguments.external_views, arguments.external_index, strict=True)]
    views = torch.from_numpy(np.concatenate([np.array(one.pixels) for one in (store, *outside)]))
    ends = np.cumsum([len(one) for one in (store, *outside)])

    @torch.inference_mode()
    def features(path: Path | None, seed: int, fold: int) -> np.ndarray:
        start = initial_classifier(
            arguments.backbone,
            arguments.layout,
            path,
            seed,
            fold,
            normalisation=arguments.normalisation,
            side=store.side,
        )
        network = start.backbone.to(device).eval()
        parts = [network(normalise(part.to(device))).float().cpu().numpy() for part in views.split(BATCH)]
        return np.concatenate(parts).astype(np.float64)

    by_seed = zip(
        seeds, of_seed(arguments.labels, seeds, "labels"), of_seed(arguments.folds, seeds, "folds"),
        of_seed(arguments.weights, seeds, "weights"), arguments.output_predictions, strict=True,
    )  # fmt: skip
    known: dict[Path, np.ndarray] = {}
    efficiency = []
    external: list[list[pd.DataFrame]] = [[] for _ in outside]
    for seed, (label_file,), (fold_file,), weights, output in progress(by_seed, "probing", "seed", len(seeds)):
        labels, folds = read_csv(label_file), read_csv(fold_file, "folds")
        sources = (str(arguments.index), str(fold_file), str(label_file))
        table = join_tables(store.index, folds, labels, arguments.classes, sources).rename(columns={"keep": "kept"})
        patients, fold_of = table["patient_id"].to_numpy(), table["fold"].to_numpy()
        targets = training_targets(table.rename(columns={"kept": "keep"}), labels, arguments.classes[1])
        shares = [(1.0, 0), *((share, draw) for share in recipe.shares for draw in range(recipe.draws))]
        probability = {key: np.full(len(table), np.nan) for key in shares}
        for fold, path in weights_by_fold(weights, sorted(targets), arguments.layout).items():
            # Random weights differ by seed and fold; a file is embedded once.
            found = known.get(path) if path else None
            if found is None:
                found = features(path, seed, fold)
                if path:
                    known[path] = found
            train, test = np.flatnonzero(targets[fold] >= 0), fold_of == fold
            for share, draw in shares:
                chosen = train
                if share < 1:
                    chosen = train[training_patients(patients[train], share, seed, f"probe/fold{fold}/draw{draw}")]
                truth = targets[fold][chosen] == 1
                predicted = linear_probability(found[chosen], truth, found)
                probability[share, draw][test] = predicted[: len(store)][test]
                if share == 1:
                    for tables, one, part in zip(external, outside, np.split(predicted, ends)[1:-1], strict=True):
                        tables.append(one.index.assign(seed=seed, fold=fold, probability=part)[EXTERNAL_COLUMNS])
        for (share, draw), values in probability.items():
            efficiency.append(table.assign(share=share, draw=draw, seed=seed, probability=values)[EFFICIENCY_COLUMNS])
        whole = probability[1.0, 0]
        table = table.assign(seed=seed, probability=whole, prediction=decide(whole, arguments.classes))
        write_csv(table[PREDICTION_COLUMNS], output)
    write_csv(pd.concat(efficiency), arguments.output_efficiency)
    for tables, output in zip(external, arguments.output_external, strict=True):
        write_csv(pd.concat(tables), output)


if __name__ == "__main__":
    run(main, parser())
