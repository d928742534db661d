"""Figure 5: what classifiers look at, on clean test views and on the same views with artificial markers (Grad-CAM++).

Each arm is a classifier that did not see the fold; the paper compares one trained with augmentation and one without.
The figure shows a few views. The CSV covers the whole fold: which share of the heat lies on the pixels that the markers
changed (heat_on_markers), and how much lay there before they were drawn (heat_before). An arm that learnt to ignore
markers has the same in both. The figure says by how much the arms differ from the last one, or that they do not. With
--masks it shows the parenchyma and the CSV the share of the clean view's heat on it (heat_in_parenchyma).

    python -m workflow_scripts.finetuning.explain --views views/labelled.npy --index views/labelled.csv \\
        --folds folds/seed0.csv --fold 0 --arms with without --weights with_fold0.safetensors without_fold0.safetensors \\
        --shown 2 --classes homogeneous inhomogeneous --output-figure figure5.png --output-shares figure5.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_device, run, stage_parser

if TYPE_CHECKING:
    import numpy as np

    from workflow_scripts.finetuning.marker_heat import ExtraHeat


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index folds masks? weights+")
    add_outputs(parser, "figure shares")
    add_parameters(parser, "fold arms shown backbone classes seed origin")
    add_device(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Load, draw markers, map, measure, draw."""
    import numpy as np
    import pandas as pd
    import torch

    from workflow_scripts.core.figures import save
    from workflow_scripts.core.files import read_csv, sha256, write_csv
    from workflow_scripts.core.randomness import uniforms
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.finetuning.explanation import (
        Explained,
        explained_stage,
        explanation_figure,
        heat_maps,
        heat_share,
        positive_probability,
        spread_over_classes,
    )
    from workflow_scripts.finetuning.marker_heat import extra_heat, moved_heat
    from workflow_scripts.networks.backbone import load_classifier, standardise, to_unit
    from workflow_scripts.networks.markers import MARKER_UNIFORMS, draw_markers
    from workflow_scripts.runtime.device import select_device

    if len(arguments.arms) != len(arguments.weights):
        raise UserError(f"--arms names {len(arguments.arms)}, --weights {len(arguments.weights)}")
    device = select_device(arguments.device, arguments.threads)
    store, folds = ViewStore.open(arguments.views, arguments.index), read_csv(arguments.folds, "folds")
    in_fold = store.index["view_id"].isin(folds["view_id"][folds["fold"] == arguments.fold]).to_numpy()
    if not in_fold.any():
        raise UserError(f"{arguments.folds}: no view of {arguments.index} is in fold {arguments.fold}")
    rows, test = np.flatnonzero(in_fold), store.select(in_fold)
    index = test.index
    masks = read_masks(arguments.masks, store.pixels.shape)[rows] if arguments.masks else None

    clean = to_unit(torch.from_numpy(test.pixels))
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
        layer = explained_stage(model.backbone, store.pixels.shape[1])
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
                    **({} if masks is None else {"heat_in_parenchyma": heat_share(heat[0], masks)}),
                }
            )
        )
        maps.append(heat)
        probabilities.append(probability)

    shares = pd.concat(tables, ignore_index=True)
    means = shares.groupby("arm", sort=False)[["heat_before", "heat_on_markers"]].mean()
    # A map without any heat has no share; an arm of such maps has no mean.
    summary = [
        f"Heat on marker pixels, before → after drawing them, mean of {len(index)} test views",
        "; ".join(
            f"{arm}: {row['heat_before']:.1%} → {row['heat_on_markers']:.1%}"
            if row.notna().all()
            else f"{arm}: no heat"
            for arm, row in means.iterrows()
        ),
    ]
    moved, patients = moved_heat(shares), index.set_index("view_id")["patient_id"]
    for arm in arguments.arms[:-1]:
        summary.append(
            difference_sentence(arm, arguments.arms[-1], extra_heat(moved, patients, arguments.arms[-1], arm))
        )
    if masks is not None:
        on_tissue = shares.groupby("arm", sort=False)["heat_in_parenchyma"].mean()
        parts = [f"{arm} no heat" if share != share else f"{arm} {share:.1%}" for arm, share in on_tissue.items()]
        summary.append(f"Heat on the parenchyma ({masks.mean():.1%} of the pixels), clean views: " + "; ".join(parts))
    shown = [
        Explained(
            title=f"{index['label'][i]}",
            images=np.stack([images[i, 0].numpy() for images in conditions]),
            maps=np.stack([heat[:, i] for heat in maps]),
            probabilities=np.stack([probability[:, i] for probability in probabilities]),
            mask=None if masks is None else masks[i],
        )
        for i in spread_over_classes(index["label"].to_numpy(), arguments.shown)
    ]
    write_csv(shares, arguments.output_shares)
    figure = explanation_figure(shown, arguments.arms, arguments.classes[1], summary, arguments.origin)
    save(figure, arguments.output_figure)


def difference_sentence(arm: str, last: str, extra: ExtraHeat | None) -> str:
    """By how much the last arm's heat moves more onto markers than that of `arm`, or that they do not differ."""
    if extra is None:
        return f"{last} and {arm}: no view has heat in both, so they cannot be compared"
    interval = f"95 % over {extra.patients} patients {extra.low:+.2f} to {extra.high:+.2f}".replace("-", "−")
    if not extra.excludes_zero:
        return f"{last} and {arm} do not differ beyond chance in what moves onto markers ({interval} points)"
    more = "more" if extra.difference > 0 else "less"
    return f"{last} moves {abs(extra.difference):.2f} points {more} heat onto markers than {arm} ({interval})"


def read_masks(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The parenchyma of all labelled views, bool `shape` (N, side, side)."""
    from workflow_scripts.core.files import read_npy

    masks = read_npy(path)
    if masks.shape != shape:
        raise UserError(
            f"{path}: masks of shape {masks.shape} do not fit views of shape {shape}; one mask per labelled view is needed, in "
            "the order of views/labelled.csv (config key figures.masks)"
        )
    return masks > 0


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
