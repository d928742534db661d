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

    from workflow_scripts.core.files import read_csv, read_npy
    from workflow_scripts.core.log import progress
    from workflow_scripts.diffusion.pipeline import load_pipeline
    from workflow_scripts.privacy.copy_encoder import CopyTraining, copy_features
    from workflow_scripts.privacy.monitor_diffusion import Detector, Judge, Views
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.study.patients import real_masks
    from workflow_scripts.synthesis.kernel_distances import kernel_distances

    # The generator, and the real views of the patients that it knows and of those that it does not.
    device, folder = select_device("auto", arguments.threads), arguments.results
    unet, betas = load_pipeline(folder / "diffusion" / "trained")
    unet = unet.to(device)
    pixels, index = np.asarray(read_npy(folder / "views" / "labelled.npy")), read_csv(folder / "views" / "labelled.csv")
    learnt, held_out = real_masks(index, folder / "diffusion" / "holdout.csv", None, None)
    patients = index["patient_id"].to_numpy()

    # What judges.
    training = CopyTraining(pixels[learnt | held_out], ENCODER_STEPS, 0, device)
    for step in progress(range(ENCODER_STEPS), "copy encoder", "step", ENCODER_STEPS):
        training.step(step)

    def features_of(images: np.ndarray) -> np.ndarray:
        return copy_features(training.network, images, device)

    features = features_of(pixels)
    judge = Judge(
        *(Views(pixels[rows], features[rows], patients[rows]) for rows in (learnt, held_out)),
        Detector(K, SHIFT, FALSE_ALARMS),
    )

    def quality(images: np.ndarray) -> dict[str, float]:
        given = features_of(images)
        found = jackknifed(lambda chosen: judge.measure(images[chosen], given[chosen]), len(images))
        kid = kernel_distances(features[learnt], given, patients[learnt], 0)["kid"]
        return {**found, "kid": kid.value, "kid_low": kid.low, "kid_high": kid.high}

    plan = sorted(
        (steps, sampler) for sampler, counts in PLAN.items() for steps in counts if steps <= arguments.most_steps
    )
    rows: list[dict[str, object]] = []
    for steps, sampler in progress(plan, "samplers", "row", len(plan)):
        images, seconds = draw(unet, betas, sampler, steps, arguments.images, arguments.work)
        rows.append({"sampler": sampler, "steps": steps, **quality(images), "images_per_s": len(images) / seconds})
        print(markdown_row(rows[-1]), flush=True)
    few = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(held_out))[: arguments.images])
    rows.append({"sampler": "real", "steps": 0, **quality(pixels[few]), "images_per_s": 0.0})
    print(table(rows))
    facts = {"images": arguments.images, "learnt_views": int(learnt.sum()), "held_out_views": int(held_out.sum())}
    print(write_result("sampling_steps", rows, view_size=pixels.shape[1], **facts))
    write_on_page(PAGE, "sampling_steps", table(rows))


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
