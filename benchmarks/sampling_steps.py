"""Fewer sampling steps: what each sampler's evaluations of the network buy in quality, on a trained generator.

Every sampler starts from the same noise. Each set is compared with the views that the generator learnt from by Fréchet
distance, KID, precision and recall (k = 3), and by the copy audit, whose threshold 2 % of the held-out patients' views may
trip; the last row is what those views score themselves. All in the features of a copy encoder, which is trained here on
the same real views. Intervals are 95 %: of KID and of the excess of copies by their own bootstraps, of the others by a
jackknife that leaves out one of GROUPS groups of images at a time.

The default generator has 24 x 24 pixels and learnt from 224 phantom patients (an hour on one core):

    python -m workflow_scripts.data.make_phantom_manifest --labelled-patients 320 --unlabelled-testicles 8 --thyroids 8 \\
        --output-manifest results/generator_manifest.csv
    snakemake --configfile benchmarks/generator.yaml --cores 1 results/generator/diffusion/trained
    python -m benchmarks.sampling_steps

What is drawn stays in `--work`: a run that was interrupted continues there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import write_on_page, write_result

if TYPE_CHECKING:
    import numpy as np
    import torch

COUNTS = (5, 10, 25, 50)
PLAN = {"ancestral": (*COUNTS, 100, 250), "ddim": COUNTS, "dpmsolver++": COUNTS, "sde_dpm_solver": COUNTS}
BATCH, GROUPS, ENCODER_STEPS, K, SHIFT, FALSE_ALARMS = 32, 8, 500, 3, 2, 0.02
PAGE = Path(__file__).parents[1] / "docs" / "diffusion.md"
JACKKNIFED = ("fid", "precision", "recall")


def main() -> None:
    """Draw, measure, write benchmarks/results/sampling_steps.json and the table of docs/diffusion.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/generator"), help="(default: results/generator)")
    parser.add_argument("--work", type=Path, default=Path("results/sampling_steps"), help="folder to continue in")
    parser.add_argument("--images", type=int, default=256, help="images of each row (default: 256)")
    parser.add_argument("--most-steps", type=int, default=250, help="leave out rows of more steps (default: 250)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()

    import numpy as np

    from workflow_scripts.core.log import progress
    from workflow_scripts.diffusion.pipeline import load_pipeline
    from workflow_scripts.runtime.device import select_device

    device = select_device("auto", arguments.threads)
    unet, betas = load_pipeline(arguments.results / "diffusion" / "trained")
    unet = unet.to(device)
    reader = Reader(arguments.results, device)

    plan = sorted(
        (steps, sampler) for sampler, counts in PLAN.items() for steps in counts if steps <= arguments.most_steps
    )
    rows: list[dict[str, object]] = []
    for steps, sampler in progress(plan, "samplers", "row", len(plan)):
        images, seconds = draw(unet, betas, sampler, steps, arguments.images, arguments.work)
        rows.append(
            {"sampler": sampler, "steps": steps, **reader.quality(images), "images_per_s": len(images) / seconds}
        )
        print(markdown_row(rows[-1]), flush=True)
    few = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(reader.held_out))[: arguments.images])
    rows.append({"sampler": "real", "steps": 0, **reader.quality(reader.pixels[few]), "images_per_s": 0.0})
    print(table(rows))
    print(write_result("sampling_steps", rows, images=arguments.images, **reader.facts))
    write_on_page(PAGE, "sampling_steps", table(rows))


class Reader:
    """What judges the sets of a study's generator: real views it learnt and held-out ones, in the features of a copy encoder."""

    def __init__(self, results: Path, device: torch.device) -> None:
        import numpy as np

        from workflow_scripts.core.files import read_csv, read_npy
        from workflow_scripts.core.log import progress
        from workflow_scripts.privacy.copy_encoder import CopyTraining
        from workflow_scripts.privacy.monitor_diffusion import Judge, Measures, embedded
        from workflow_scripts.study.patients import real_masks

        views = results / "views"
        self.pixels, index = np.asarray(read_npy(views / "labelled.npy")), read_csv(views / "labelled.csv", "index")
        self.learnt, self.held_out = real_masks(index, results / "diffusion" / "holdout.csv", None, None)
        self.patients = index["patient_id"].to_numpy()
        rows = self.learnt | self.held_out
        training = CopyTraining(self.pixels[rows], self.patients[rows], ENCODER_STEPS, 0, device)
        for step in progress(range(ENCODER_STEPS), "copy encoder", "step", ENCODER_STEPS):
            training.step(step)
        self.network, self.device = training.network, device
        self.real = self.features(self.pixels)
        self.judge = Judge(
            *(
                embedded(self.pixels[rows], self.real[rows], self.patients[rows])
                for rows in (self.learnt, self.held_out)
            ),
            Measures(K, SHIFT, FALSE_ALARMS),
        )
        self.facts = {
            "view_size": self.pixels.shape[1], "learnt_views": int(self.learnt.sum()), "held_out_views": int(self.held_out.sum()),
        }  # fmt: skip

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features (N, D) of images uint8 (N, S, S)."""
        from workflow_scripts.privacy.copy_encoder import copy_features

        return copy_features(self.network, images, self.device)[:, 0]

    def quality(self, images: np.ndarray) -> dict[str, float]:
        """Each measure of a set uint8 (N, S, S), with its interval."""
        from workflow_scripts.synthesis.kernel_distances import kernel_distances

        given = self.features(images)
        found = jackknifed(lambda chosen: self.judge.measure(images[chosen], given[chosen]), len(images))
        kid = kernel_distances(self.real[self.learnt], given, self.patients[self.learnt], 0)["kid"]
        return {**found, "kid": kid.value, "kid_low": kid.low, "kid_high": kid.high}


def draw(unet: object, betas: np.ndarray, sampler: str, steps: int, count: int, work: Path) -> tuple[np.ndarray, float]:
    """Images uint8 (count, S, S), batch by batch from where `work` has them already, and the processor seconds of all."""
    import numpy as np

    from workflow_scripts.core.files import read_json, read_npy, write_json, write_npy
    from workflow_scripts.diffusion.process import GaussianProcess
    from workflow_scripts.diffusion.sampler import image_noise, kept_timesteps, reverse_steps, to_grey

    process = GaussianProcess(betas, kept_timesteps(len(betas), steps, sampler), unet.device)
    parts, seconds = [], 0.0
    for start in range(0, count, BATCH):
        images = range(start, min(start + BATCH, count))
        drawn, took = (work / f"{sampler}_{steps}_{start}_{images.stop}.{kind}" for kind in ("npy", "json"))
        if not took.is_file():
            began = time.process_time()
            state = image_noise(0, 0, images, unet.config.sample_size, unet.device)
            for _, following in reverse_steps(unet, process, state, 0, images, 0, sampler):
                state = following
            grey = to_grey(state)
            work.mkdir(parents=True, exist_ok=True)
            write_npy(grey, drawn)
            write_json({"cpu_seconds": time.process_time() - began}, took)
        parts.append(read_npy(drawn))
        seconds += read_json(took)["cpu_seconds"]
    return np.concatenate(parts), seconds


def jackknifed(measure: Callable[[np.ndarray], dict[str, float]], count: int) -> dict[str, float]:
    """Values of `measure` for all of `count` images, with 95 % intervals of JACKKNIFED from leaving out each group."""
    import numpy as np

    groups = np.arange(count) % GROUPS
    values = measure(groups >= 0)
    without = [measure(groups != group) for group in range(GROUPS)]
    for name in JACKKNIFED:
        left = np.array([each[name] for each in without])
        error = np.sqrt((GROUPS - 1) / GROUPS * np.square(left - left.mean()).sum())
        values |= {f"{name}_low": values[name] - 1.96 * error, f"{name}_high": values[name] + 1.96 * error}
    return values


def table(rows: list[dict[str, object]]) -> str:
    """The rows as a Markdown table."""
    header = "| sampler | evaluations | Fréchet distance | KID | precision | recall | excess of copies | images/s |"
    return "\n".join([header, "|---" * 8 + "|", *map(markdown_row, rows)])


def markdown_row(row: dict[str, object]) -> str:
    """One row of the table."""

    def interval(name: str, scale: int = 1, digits: int = 2) -> str:
        value, low, high = (scale * float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))  # type: ignore[arg-type]
        return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    real = row["sampler"] == "real"
    cells = [
        *(("held-out patients", "–") if real else (row["sampler"], row["steps"])),
        interval("fid", digits=3), interval("kid", digits=4), interval("precision"), interval("recall"),
        f"{interval('excess', 100, 1)} %", "–" if real else f"{row['images_per_s']:.1f}",
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    main()
