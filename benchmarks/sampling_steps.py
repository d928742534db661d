"""Fewer sampling steps: what they cost in quality and save in time, on a trained model.

Every sampler starts from the same noise. Fréchet distance, precision and recall (k = 3) are those of the drawn images
against the views that the model learnt from, in the features of an encoder that this workflow pretrained; the row `real`
is what held-out patients' views score, fewer though they are. The defaults are the demo's model and encoder (phantoms).

    make demo && python -m benchmarks.sampling_steps
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.measure import write_result

PLAN = {"ancestral": (10, 25, 50, 100, 250), "ddim": (5, 10, 25, 50), "dpmsolver++": (5, 10, 25, 50)}


def main() -> None:
    """Draw, measure, print a Markdown table, write benchmarks/results/sampling_steps.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/demo"), help="(default: results/demo)")
    parser.add_argument("--run", default="ud", help="pretraining run that embeds (default: ud)")
    parser.add_argument("--backbone", default="resnet10t", help="its network (default: resnet10t, the demo's)")
    parser.add_argument("--images", type=int, default=64, help="images of each row (default: 64)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()

    import numpy as np

    from workflow_scripts.core.files import read_csv, read_npy
    from workflow_scripts.core.log import progress
    from workflow_scripts.diffusion.pipeline import load_pipeline
    from workflow_scripts.diffusion.process import GaussianProcess
    from workflow_scripts.diffusion.sampler import image_noise, kept_timesteps, reverse_steps, to_grey
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.study.patients import real_masks
    from workflow_scripts.synthesis.features import embed, load_encoder
    from workflow_scripts.synthesis.metrics import Generated

    device = select_device("auto", arguments.threads)
    folder = arguments.results
    unet, betas = load_pipeline(folder / "diffusion" / "model")
    unet = unet.to(device)
    views, index = read_npy(folder / "views" / "labelled.npy"), read_csv(folder / "views" / "labelled.csv")
    learnt, held_out = real_masks(index, folder / "diffusion" / "holdout.csv", None, None)
    weights = folder / "pretraining" / arguments.run / "backbone.safetensors"
    network = load_encoder(arguments.backbone, weights, device)

    def features(images: np.ndarray) -> np.ndarray:
        return np.concatenate(list(embed(images, network, 64)))

    reference = features(np.asarray(views[learnt]))

    def quality(images: np.ndarray) -> dict[str, float]:
        values = Generated(features(images), 3).against(reference)
        return {name: values[name] for name in ("fid", "precision", "recall")}

    rows: list[dict[str, object]] = []
    plan = [(sampler, steps) for sampler, counts in PLAN.items() for steps in counts]
    for sampler, steps in progress(plan, "samplers", "row", len(plan)):
        process = GaussianProcess(betas, kept_timesteps(len(betas), steps, sampler), device)
        start, images = time.perf_counter(), range(arguments.images)
        state = image_noise(0, 0, images, views.shape[1], device)
        for _, following in reverse_steps(unet, process, state, 0, images, 0, sampler):
            state = following
        drawn = to_grey(state)
        speed = arguments.images / (time.perf_counter() - start)
        rows.append({"sampler": sampler, "steps": steps, **quality(drawn), "images_per_s": speed})
    rows.append({"sampler": "real", "steps": 0, **quality(np.asarray(views[held_out])), "images_per_s": 0.0})
    print("| sampler | steps | Fréchet distance | precision | recall | images per second |\n|---|---|---|---|---|---|")
    for row in rows:
        real = row["sampler"] == "real"
        name, steps_shown = ("held-out patients", "–") if real else (row["sampler"], row["steps"])
        speed_shown = "–" if real else f"{row['images_per_s']:.1f}"
        print(
            f"| {name} | {steps_shown} | {row['fid']:.1f} | {row['precision']:.2f} | {row['recall']:.2f} | {speed_shown} |"
        )
    facts = {"images": arguments.images, "learnt_views": int(learnt.sum()), "held_out_views": int(held_out.sum())}
    print(write_result("sampling_steps", rows, view_size=views.shape[1], **facts))


if __name__ == "__main__":
    main()
