"""How long must pretraining be? Frozen features after more and more steps, on patients whom the labels never reached.

For each start (random weights, and `--weights` where given) and each number of steps, the study's pretraining runs once: both
losses, the shipped augmentation, optimiser and learning rate for its batch. Then a class-balanced logistic regression on the
frozen features learns from the study's labelled patients and predicts those of the external manifest. The score is the AUROC
by patient (the mean of a patient's views), with a bootstrap over patients; the difference to no pretraining is paired.

    snakemake --configfile studies/busbra.yaml studies/busbra_quick.yaml --cores 2     # makes the views
    python -m benchmarks.pretraining_steps --views results/busbra_quick/views

Networks stay in `--work`: a run that was interrupted continues there. The table of docs/pretraining.md is written from it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import start_run, write_on_page, write_result

if TYPE_CHECKING:
    import numpy as np

BATCH = 48
PRETRAINING = {"batch_size": BATCH, "lr": 0.075 * math.sqrt(BATCH), "projection": [512, 128], "checkpoint_every": 20}
PAGE = Path(__file__).parents[1] / "docs" / "pretraining.md"


def main() -> None:
    """Pretrain, embed, score; write benchmarks/results/pretraining_steps.json and the table of docs/pretraining.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=Path, default=Path("results/busbra_quick/views"), help="views of a study")
    parser.add_argument("--external", default="others", help="name of its external patients (default: others)")
    parser.add_argument("--backbone", default="resnet18", help="timm's name (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="another start than random weights, under timm's keys")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 50, 150, 450, 1350], help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    parser.add_argument("--work", type=Path, default=Path("results/pretraining_steps"), help="folder to continue in")
    arguments = parser.parse_args()

    from workflow_scripts.core.statistics import drawn_auroc, times_drawn, with_interval
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.finetuning.baselines import linear_probability

    folder = arguments.views
    labelled = ViewStore.open(folder / "labelled.npy", folder / "labelled.csv")
    outside = folder / "external" / arguments.external
    external = ViewStore.open(outside.with_suffix(".npy"), outside.with_suffix(".csv"))
    positive = max(labelled.index["label"].unique())
    known = (labelled.index["label"] == positive).to_numpy()
    patients = external.index.groupby("patient_id")["label"].first() == positive
    times = times_drawn(len(patients))

    rows: list[dict[str, Any]] = []
    scores: dict[str, np.ndarray] = {}
    starts = {"random weights": None} | ({"ImageNet": arguments.weights} if arguments.weights else {})
    for steps in sorted(arguments.steps):
        for start, weights in starts.items():
            network, seconds = pretrained(arguments, weights, steps)
            features = [embedded(network, store.pixels) for store in (labelled, external)]
            predicted = linear_probability(features[0], known, features[1])
            by_patient = external.index.assign(p=predicted).groupby("patient_id")["p"].mean()
            auroc = drawn_auroc(by_patient.to_numpy(), patients.to_numpy(), times)
            before = scores.setdefault(start, auroc)
            rows.append({
                "start": start, "steps": steps, "seconds": seconds, **with_interval("auroc", auroc),
                **with_interval("difference", auroc - before),
            })  # fmt: skip
            print(line(rows[-1]), flush=True)
    facts = {"patients": len(patients), "labelled_patients": int(labelled.index["patient_id"].nunique())}
    facts |= {"view_size": labelled.side, "batch_size": BATCH, "backbone": arguments.backbone, "seed": arguments.seed}
    print(write_result("pretraining_steps", rows, **facts))
    ordered = sorted(rows, key=lambda row: (row["start"] != "random weights", row["steps"]))
    header = ["| start | steps | AUROC by patient, % (95 %) | difference to no pretraining |", "|---|---|---|---|"]
    write_on_page(PAGE, "pretraining_steps", "\n".join([*header, *map(line, ordered)]))


def pretrained(arguments: argparse.Namespace, weights: Path | None, steps: int) -> tuple[Any, float]:
    """The backbone after `steps` steps on every unlabelled and labelled view of the study, and the seconds they took."""
    import time

    from workflow_scripts.networks.backbone import create_backbone, load_initialisation, save_weights
    from workflow_scripts.pretraining.loop import make_encoder, pretrain
    from workflow_scripts.pretraining.pretrain import load_mix
    from workflow_scripts.study.config.pretraining import PretrainingRecipe

    backbone = create_backbone(arguments.backbone, arguments.seed)
    load_initialisation(backbone, "timm" if weights else "scratch", weights, arguments.seed)
    if steps == 0:
        return backbone.eval(), 0.0
    work = arguments.work / f"{'continued' if weights else 'random'}_{steps}_seed{arguments.seed}"
    finished = work / "backbone.safetensors"
    if finished.is_file():
        load_initialisation(backbone, "timm", finished, 0)
        return backbone.eval(), 0.0
    sets = ("labelled", "breast", "thyroid")
    stores = [arguments.views / f"{name}.npy" for name in sets]
    views, _ = load_mix(stores, [store.with_suffix(".csv") for store in stores], ["breast", "thyroid"], set(), [])
    recipe = PretrainingRecipe(**PRETRAINING, steps=steps, seed=arguments.seed)
    began = time.process_time()
    pretrain(make_encoder(backbone, 2, views, recipe), views, recipe, start_run(work))
    save_weights(backbone.state_dict(), {}, finished)
    return backbone.eval(), time.process_time() - began


def embedded(network: Any, pixels: np.ndarray) -> np.ndarray:
    """Features float64 (N, D) of views uint8 (N, S, S)."""
    import numpy as np
    import torch

    from workflow_scripts.networks.backbone import normalise

    with torch.inference_mode():
        parts = [network(normalise(part)).numpy() for part in torch.from_numpy(np.array(pixels)).split(64)]
    return np.concatenate(parts).astype(np.float64)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    auroc, difference = (
        f"{100 * row[name]:{sign}.1f} ({100 * row[f'{name}_low']:{sign}.1f} to {100 * row[f'{name}_high']:{sign}.1f})"
        for name, sign in (("auroc", ""), ("difference", "+"))
    )
    return f"| {row['start']} | {row['steps']} | {auroc} | {difference if row['steps'] else 'ref.'} |"


if __name__ == "__main__":
    main()
