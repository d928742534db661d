"""Measure the snapshots of a diffusion training: likeness to held-out views, and copies of training views.

Each snapshot draws the same images. CSV columns: `step`; `fid`, `precision`, `recall` against the views of held-out
patients; `copies`, the share of images that the privacy audit's detector flags; `control`, that of held-out views,
which cannot be copies; `excess`, the difference, with its 95 % interval `excess_low`, `excess_high`; `held_out_loss` and
`training_loss`, the denoising error on views of both kinds, as many of one as of the other.

    python -m workflow_scripts.privacy.monitor_diffusion --model diffusion/trained --views views/labelled.npy \\
        --index views/labelled.csv --holdout diffusion/holdout.csv --network inception \\
        --weights weights/weights-inception-2015-12-05-6726825d.pth --output diffusion/monitor.csv \\
        --work-dir work/monitor
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.runtime.cli import add_settings, add_training, run, settings, stage_parser
from workflow_scripts.study.config.diffusion import MonitorRecipe
from workflow_scripts.study.patients import add_reference

if TYPE_CHECKING:
    import numpy as np

ROWS = "rows.jsonl"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the training's folder, with its `snapshots`")
    parser.add_argument("--views", type=Path, required=True, help="store of the labelled views (.npy)")
    parser.add_argument("--index", type=Path, required=True, help="its index (.csv)")
    add_reference(parser, holdout_required=True)
    parser.add_argument("--network", choices=["inception", "encoder", "timm"], required=True, help="embedding network")
    parser.add_argument("--weights", type=Path, required=True, help="its file")
    parser.add_argument("--backbone", default="resnet18", help="timm network of an encoder or timm (default: resnet18)")
    parser.add_argument("--metric-k", type=int, default=3, help="neighbour of precision and recall (default: 3)")
    parser.add_argument("--shift", type=int, default=8, help="shift of the copy detector in pixels (default: 8)")
    parser.add_argument(
        "--false-alarms", type=float, default=0.01, help="share of held-out views that it may flag (default: 0.01)"
    )
    parser.add_argument("--output", type=Path, required=True, help="CSV, a row per snapshot")
    add_settings(parser, MonitorRecipe)
    add_training(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Sample and measure one snapshot after the other."""
    import json

    import numpy as np
    import pandas as pd

    from workflow_scripts.core.files import read_csv, read_json, read_npy, sha256, write_csv
    from workflow_scripts.diffusion.pipeline import class_names, load_pipeline
    from workflow_scripts.diffusion.process import GaussianProcess, spaced_timesteps
    from workflow_scripts.diffusion.sampler import Condition
    from workflow_scripts.diffusion.snapshots import denoising_loss, drawn_images, load_weights, snapshot_files
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.runtime.work import Clock, Interrupted, WorkDir, append_metrics
    from workflow_scripts.study.patients import check_rows, real_masks
    from workflow_scripts.synthesis.features import embed, load_network

    clock = Clock(arguments.time_limit)
    recipe: MonitorRecipe = settings(arguments)
    views, index = read_npy(arguments.views), read_csv(arguments.index)
    check_rows({str(arguments.views): len(views), str(arguments.index): len(index)})
    training, held_out = real_masks(index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    patients = index["patient_id"].to_numpy()
    if len(set(patients[held_out])) < 2 or held_out.sum() <= arguments.metric_k:
        raise UserError(
            f"{arguments.holdout} leaves {held_out.sum()} views of {len(set(patients[held_out]))} held-out patients, too "
            "few to judge snapshots by; raise diffusion.holdout_patients, or set diffusion.select: last"
        )
    device = select_device(arguments.device, arguments.threads)
    network = load_network(arguments.network, arguments.backbone, arguments.weights, device)

    def features_of(images: np.ndarray) -> np.ndarray:
        return np.concatenate(list(embed(images, network, recipe.batch_size)))

    unet, betas = load_pipeline(arguments.model)
    unet = unet.to(device)
    condition = Condition(len(classes)) if (classes := class_names(arguments.model)) else None
    whole = GaussianProcess(betas, device=device)
    short = GaussianProcess(betas, spaced_timesteps(len(betas), recipe.steps), device)
    last = read_json(arguments.model / "parameters.json")["settings"]["steps"]
    final = {name: value.clone() for name, value in unet.state_dict().items()}
    snapshots: dict[int, Path | None] = {**snapshot_files(arguments.model), last: None}
    say(f"{len(snapshots)} snapshots, {recipe.images} images each, {recipe.steps} steps on {device}")
    work = WorkDir(
        arguments.work_dir,
        {
            "settings": recipe.model_dump(),
            "model": sha256(arguments.model),
            "views": sha256(arguments.views),
            "reference": np.stack([training, held_out]).astype(int).tolist(),
            "detector": [arguments.metric_k, arguments.shift, arguments.false_alarms],
            "network": sha256(arguments.weights),
            "code_version": arguments.code_version,
        },
    )
    judge = Judge(views, features_of(np.asarray(views)), patients, training, held_out, arguments)
    rows_file = work.path / ROWS
    finished = work.state["progress"]
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()[:finished]] if finished else []
    rows_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    equal = np.sort(np.random.default_rng(recipe.seed).permutation(training.sum())[: held_out.sum()])
    known = views[np.flatnonzero(training)[equal]]

    def images_of_a_snapshot() -> np.ndarray:
        images = []
        for batch in drawn_images(unet, short, recipe.images, recipe.batch_size, recipe.seed, condition):
            if clock.is_over():
                raise Interrupted(f"time is over after {len(rows)} of {len(snapshots)} snapshots; try again to go on")
            images.append(batch)
        return np.concatenate(images)

    remaining = list(snapshots.items())[finished:]
    for step, file in progress(remaining, "snapshots", "snapshot", len(snapshots), finished):
        if file is None:
            unet.load_state_dict(final)
        else:
            load_weights(unet, file)
        images = images_of_a_snapshot()
        losses = {
            name: float(denoising_loss(unet, whole, real, recipe.batch_size, recipe.seed).mean())
            for name, real in (("held_out_loss", views[held_out]), ("training_loss", known))
        }
        row = {"step": step, **judge.measure(images, features_of(images)), **losses}
        append_metrics(rows_file, row)
        rows.append(row)
        work.advance(len(rows))
    write_csv(pd.DataFrame(rows), arguments.output)
    work.close()


class Judge:
    """Held-out views and training views, ready to judge any number of generated sets."""

    def __init__(
        self,
        views: np.ndarray,
        features: np.ndarray,
        patients: np.ndarray,
        training: np.ndarray,
        held_out: np.ndarray,
        arguments: argparse.Namespace,
    ) -> None:
        from workflow_scripts.privacy import copies as privacy

        self.k, self.shift, self.false_alarms = arguments.metric_k, arguments.shift, arguments.false_alarms
        self.known = views[training], features[training]
        self.reference = features[held_out]
        unseen = privacy.closeness(views[held_out], features[held_out], *self.known, self.shift)
        usable = privacy.really_unseen(unseen.correlation[:, 0], patients[held_out])
        self.held_patients = patients[held_out][usable]
        if len(set(self.held_patients)) < 2:
            raise UserError("held-out pictures that are also training views leave fewer than 2 held-out patients")
        within = privacy.closeness_within(*self.known, patients[training], self.shift)
        self.scale = privacy.scale_of(within.evidence())
        self.held_scores = self.scale.score(unseen.evidence()[usable])[0]
        self.threshold = privacy.threshold_of(self.held_scores, self.false_alarms)

    def measure(self, images: np.ndarray, features: np.ndarray) -> dict[str, float]:
        """Likeness and copying of generated images, uint8 (N, S, S), with features (N, D)."""
        import numpy as np

        from workflow_scripts.privacy import copies as privacy
        from workflow_scripts.synthesis.metrics import Generated

        values = Generated(features, self.k).against(self.reference)
        found = privacy.closeness(images, features, *self.known, self.shift)
        copies = self.scale.score(found.evidence())[0] > self.threshold
        everything = np.ones(len(images), dtype=bool)
        summary = privacy.summarise(copies, everything, self.held_scores, self.held_patients, self.false_alarms, 0)
        excess = summary["excess"]["unfiltered"]
        return {
            **{name: values[name] for name in ("fid", "precision", "recall")},
            "copies": float(copies.mean()), "control": summary["control"]["share"], "excess": excess["share"],
            "excess_low": excess["low"], "excess_high": excess["high"],
        }  # fmt: skip


if __name__ == "__main__":
    run(main, parser())
