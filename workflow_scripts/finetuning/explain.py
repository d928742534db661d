"""Figure 5: what classifiers look at, on clean test views and on the same views with artificial markers (Grad-CAM++).

Each arm is a classifier that did not see the fold; the paper compares one trained with augmentation and one without.
The figure shows a few views. The CSV covers the whole fold: which share of the heat lies on the pixels that the markers
changed (heat_on_markers), and how much lay there before they were drawn (heat_before). An arm that learnt to ignore
markers has the same in both.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--views", type=Path, required=True, help="store of the labelled views (.npy)")
    parser.add_argument("--index", type=Path, required=True, help="its CSV index")
    parser.add_argument(
        "--folds", type=Path, required=True, help="CSV view_id,patient_id,fold that the arms were trained with"
    )
    parser.add_argument("--fold", type=int, required=True, help="the fold that the arms did not see")
    parser.add_argument("--arms", nargs="+", required=True, help="names of the arms, in the order of --weights")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="classifier of each arm (.safetensors)")
    parser.add_argument("--backbone", default="resnet18", help="timm network of the arms (default: resnet18)")
    parser.add_argument(
        "--classes", nargs=2, required=True, metavar=("NEGATIVE", "POSITIVE"), help="the two label names"
    )
    parser.add_argument("--count", type=int, default=2, help="views in the figure (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the markers (default: 0)")
    parser.add_argument("--origin", default="", help="what the views are if not patients': PHANTOM")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    parser.add_argument("--output-shares", type=Path, required=True, help="CSV of the shares of heat")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto, a GPU if there is one)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load, draw markers, map, measure, draw."""
    import numpy as np
    import pandas as pd
    import torch

    from workflow_scripts.core.figures import save
    from workflow_scripts.core.files import read_csv, read_npy, sha256, write_csv
    from workflow_scripts.core.randomness import uniforms
    from workflow_scripts.finetuning.explanation import (
        Explained,
        explanation_figure,
        heat_maps,
        heat_share,
        last_stage,
        positive_probability,
        spread_over_classes,
    )
    from workflow_scripts.networks.backbone import load_classifier, standardise, to_unit
    from workflow_scripts.networks.markers import MARKER_UNIFORMS, draw_markers
    from workflow_scripts.runtime.device import select_device

    if len(arguments.arms) != len(arguments.weights):
        raise UserError(f"--arms names {len(arguments.arms)}, --weights {len(arguments.weights)}")
    device = select_device(arguments.device, arguments.threads)
    index, folds = read_csv(arguments.index), read_csv(arguments.folds)
    rows = np.flatnonzero(index["view_id"].isin(folds["view_id"][folds["fold"] == arguments.fold]))
    if not len(rows):
        raise UserError(f"{arguments.folds}: no view of {arguments.index} lies in fold {arguments.fold}")
    index = index.iloc[rows].reset_index(drop=True)

    clean = to_unit(torch.from_numpy(read_npy(arguments.views)[rows]))
    marked = draw_markers(clean, uniforms(arguments.seed, "explain/markers", 0, rows, MARKER_UNIFORMS), 1.0)
    changed = ((marked - clean).abs() > 0.5 / 255)[:, 0].numpy()
    conditions = (clean, marked)

    maps, probabilities, tables = [], [], []
    for arm, path in progress(
        zip(arguments.arms, arguments.weights, strict=True), "explaining", "arm", len(arguments.arms)
    ):
        model, parameters = load_classifier(path)
        expected = {"backbone": arguments.backbone, "classes": arguments.classes, "fold": arguments.fold}
        require_unseen(path, parameters, expected, sha256(arguments.folds))
        model = model.to(device)
        layer = last_stage(model.backbone)
        inputs = [standardise(images).to(device) for images in conditions]
        heat = np.stack([heat_maps(model, layer, images, target=1) for images in inputs])
        probability = np.stack([positive_probability(model, images) for images in inputs])
        tables.append(
            pd.DataFrame(
                {
                    "arm": arm,
                    "view_id": index["view_id"],
                    "label": index["label"],
                    "probability_clean": probability[0],
                    "probability_marked": probability[1],
                    "heat_before": heat_share(heat[0], changed),
                    "heat_on_markers": heat_share(heat[1], changed),
                    "marker_area": changed.mean(axis=(1, 2)),
                }
            )
        )
        maps.append(heat)
        probabilities.append(probability)

    shares = pd.concat(tables, ignore_index=True)
    means = shares.groupby("arm", sort=False)[["heat_before", "heat_on_markers"]].mean()
    # A map without any heat has no share; an arm of such maps has no mean.
    summary = f"Heat on marker pixels, before → after drawing them, mean of {len(index)} test views\n" + "; ".join(
        f"{arm}: {row['heat_before']:.1%} → {row['heat_on_markers']:.1%}" if row.notna().all() else f"{arm}: no heat"
        for arm, row in means.iterrows()
    )
    shown = [
        Explained(
            title=f"{index['label'][i]}",
            images=np.stack([images[i, 0].numpy() for images in conditions]),
            maps=np.stack([heat[:, i] for heat in maps]),
            probabilities=np.stack([probability[:, i] for probability in probabilities]),
        )
        for i in spread_over_classes(index["label"].to_numpy(), arguments.count)
    ]
    write_csv(shares, arguments.output_shares)
    save(explanation_figure(shown, arguments.arms, arguments.classes[1], summary, arguments.origin), arguments.output)


def require_unseen(path: Path, parameters: dict[str, Any], expected: dict[str, Any], folds: str) -> None:
    """Refuse a classifier that is not what is `expected`, or learnt with other folds: it may have seen the test views.

    `parameters` are those in its metadata; `folds` is the SHA-256 of the fold file.
    """
    for key, value in expected.items():
        if parameters.get(key) != value:
            raise UserError(f"{path}: its {key} is {parameters.get(key)!r}, not {value!r}; give the matching --weights")
    if parameters.get("inputs", {}).get("folds") != folds:
        raise UserError(f"{path} was trained with other folds than --folds, so it may have seen the views of this fold")


if __name__ == "__main__":
    run(main, parser())
