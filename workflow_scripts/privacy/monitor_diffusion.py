"""Measure the snapshots of a diffusion training run: likeness to held-out views, and copies of training views.

Each snapshot draws the same images. CSV columns: `step`; `fid`, `precision`, `recall` against the views of held-out
patients; `copies`, the share of images that the privacy audit's detector flags; `control`, that of held-out views,
which cannot be copies; `excess`, the difference, with its 95 % interval `excess_low`, `excess_high`; `held_out_loss` and
`training_loss`, the denoising error on views of both kinds, as many of one as of the other. Sampled batches survive an
interruption.

    python -m workflow_scripts.privacy.monitor_diffusion --model diffusion/trained --views views/labelled.npy \\
        --index views/labelled.csv --holdout diffusion/holdout.csv --network inception \\
        --weights weights/weights-inception-2015-12-05-6726825d.pth --output-measures diffusion/monitor.csv \\
        --work-dir work/monitor_diffusion
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import add_run, add_settings, run, settings, stage_parser
from workflow_scripts.study.config.diffusion import MonitorRecipe

if TYPE_CHECKING:
    import numpy as np
    from diffusers import UNet2DModel

    from workflow_scripts.diffusion.process import GaussianProcess
    from workflow_scripts.privacy.copies import Views

# The detector of copies that stands beside the pixels here.
EMBEDDING = "embedding"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "model views index holdout folds? weights")
    add_outputs(parser, "measures")
    add_parameters(parser, "network backbone normalisation resize metric_k shift false_alarms exclude_fold")
    add_settings(parser, MonitorRecipe)
    add_run(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Sample and measure one snapshot after the other."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.files import write_csv
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.diffusion.snapshots import denoising_loss
    from workflow_scripts.privacy.snapshot_images import Measure, measure_snapshots
    from workflow_scripts.runtime.run import Run
    from workflow_scripts.study.patients import real_masks
    from workflow_scripts.synthesis.features import embed, load_network

    run = Run(arguments)
    recipe: MonitorRecipe = settings(arguments)
    store = ViewStore.open(arguments.views, arguments.index)
    training, held_out = real_masks(store.index, arguments.holdout, arguments.folds, arguments.exclude_fold)
    known, unseen = store.select(training), store.select(held_out)
    if len(set(unseen.patients)) < 2 or len(unseen) <= arguments.metric_k:
        raise UserError(
            f"{arguments.holdout} leaves {len(unseen)} views of {len(set(unseen.patients))} held-out patients, too "
            "few to judge snapshots by; raise diffusion.holdout_patients, or set diffusion.select: last"
        )
    network = load_network(
        arguments.network, arguments.backbone, arguments.weights, run.device, arguments.resize, arguments.normalisation,
        store.side,
    )  # fmt: skip

    def features_of(images: np.ndarray) -> np.ndarray:
        return np.concatenate(list(embed(images, network, recipe.batch_size)))

    def compared() -> Measure:
        features = features_of(store.pixels)
        judge = Judge(
            embedded(known.pixels, features[training], known.patients),
            embedded(unseen.pixels, features[held_out], unseen.patients),
            Measures(arguments.metric_k, arguments.shift, arguments.false_alarms),
        )
        as_many = np.sort(np.random.default_rng(recipe.seed).permutation(len(known))[: len(unseen)])
        denoised = {"held_out_loss": unseen.pixels, "training_loss": known.pixels[as_many]}

        def measure(images: np.ndarray, unet: UNet2DModel, process: GaussianProcess) -> list[dict[str, float]]:
            losses = {
                name: float(denoising_loss(unet, process, views, recipe.batch_size, recipe.seed).mean())
                for name, views in denoised.items()
            }
            return [{**judge.measure(images, features_of(images)), **losses}]

        return measure

    rows = measure_snapshots(arguments.model, run, recipe, compared)
    write_csv(pd.DataFrame(rows), arguments.output_measures)
    run.work.close()


class Measures(NamedTuple):
    """How likeness and copies are measured: neighbour of precision and recall, largest shift in pixels, and share of
    held-out views that may be flagged."""

    metric_k: int
    shift: int
    false_alarms: float


def embedded(pixels: np.ndarray, features: np.ndarray, *patients: np.ndarray) -> Views:
    """Views uint8 (N, S, S), with features (N, D), and of patients (N,) where these matter, as the detectors take them."""
    from workflow_scripts.privacy.copies import Views

    return Views(pixels, {EMBEDDING: features[:, None]}, *patients)


class Judge:
    """Training views and held-out views, with the embedding's features, ready to judge any number of synthetic sets."""

    def __init__(self, known: Views, unseen: Views, measures: Measures) -> None:
        from workflow_scripts.privacy.copies import Detectors

        self.reference, self.metric_k = unseen.features[EMBEDDING][:, 0], measures.metric_k
        self.detectors = Detectors(known, measures.shift)
        self.calibration = self.detectors.calibrated(unseen, measures.false_alarms)

    def measure(self, images: np.ndarray, features: np.ndarray) -> dict[str, float]:
        """Likeness and copying of synthetic images, uint8 (N, S, S), with features (N, D)."""
        import numpy as np

        from workflow_scripts.privacy.copies import summarise
        from workflow_scripts.synthesis.metrics import Generated

        values = Generated(features, self.metric_k).against(self.reference)
        scores = self.detectors.scores(embedded(images, features))
        flags, everything = scores > self.calibration.threshold, np.ones(len(images), dtype=bool)
        summary = summarise(self.detectors, self.calibration, flags, everything, 0)
        excess = summary["excess"]["unfiltered"]
        return {
            **{name: values[name] for name in ("fid", "precision", "recall")},
            "copies": summary["flagged"]["unfiltered"]["share"], "control": summary["control"]["share"],
            "excess": excess["share"], "excess_low": excess["low"], "excess_high": excess["high"],
        }  # fmt: skip


if __name__ == "__main__":
    run(main, parser())
