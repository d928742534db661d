"""Does a generator teach a classifier, and do its weights tell whom it learnt from?

Views of the generator of a finished study, without class labels, are labelled by a network that learnt the real views of the
generator's patients. They fine-tune a network of the same kind: beside the real views, alone, and alone with these labels in
random order. All are tested on patients whom the generator never saw, by AUROC over their views, with an interval of redrawn
patients; differences are of the same redraws. These patients are those held out from the generator, or, with `--external`,
those of an external set of the study. Without it, both attacks on the generator's weights are made too.
Finished parts stay in the work folder.

    python -m benchmarks.generator_teaches --results results/generator --work DIR
    python -m benchmarks.generator_teaches --results results/busbra_quick --work DIR --external others \\
        --classes benign malignant --backbone tf_efficientnet_lite0 --layout timm \\
        --weights weights/tf_efficientnet_lite0_imagenet.safetensors --epochs 5 --batch-size 16 --backbone-lr 3e-4 --head-lr 3e-3

The first is of the PHANTOMS of `benchmarks/generator.yaml`, the second of the quick study of BUS-BRA (docs/data.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measure import write_on_page, write_result

SEEDS = (0, 1, 2)
SAMPLES = {"images": 1200, "steps": 50, "batch_size": 60, "seed": 0}
RECIPE = {"epochs": 15, "batch_size": 32, "backbone_lr": 1e-3, "head_lr": 1e-2}
NOISES = 2
PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "synthetic-training.md"
# Of each row: the share of the real training views and the number of synthetic ones, in percent of the real ones, and what
# becomes of the synthetic views' labels.
ROWS = {
    "real": (100, 0, "asked"), "real and synthetic": (100, 100, "asked"), "synthetic": (0, 100, "asked"),
    "shuffled": (0, 100, "shuffled"),
}  # fmt: skip
TITLES = {
    "real": "real views", "real and synthetic": "real and synthetic views, 1 to 1", "synthetic": "synthetic views, relabelled",
    "shuffled": "synthetic views, labels in random order",
}  # fmt: skip
# Of the tested patients' views, how many per class a network that is not looked at learns from.
FEW = 8


def synthetic_views(results: Path, work: Path) -> Path:
    """The file of the study's synthetic views; drawn where it has none."""
    from workflow_scripts.diffusion import sample_shard
    from workflow_scripts.runtime.arguments import flags
    from workflow_scripts.runtime.cli import run

    if (made := results / "views" / "synthetic.npy").is_file():
        return made
    file = work / "synthetic.npy"
    if not file.is_file():
        run(sample_shard.main, sample_shard.parser(), flags({
            "model": results / "diffusion" / "trained", **SAMPLES, "shard": 0, "shard-count": 1, "device": "cpu",
            "work-dir": work / "sampling", "output-shard": file,
        }))  # fmt: skip
    return file


def labelled(synthetic: Path, labeller: Path, classes: Sequence[str], file: Path) -> None:
    """Write the index of the synthetic views with the labels that a network gives them."""
    import torch

    from workflow_scripts.networks.backbone import load_classifier
    from workflow_scripts.networks.cross_validation import predict

    given = predict(load_classifier(labeller)[0], torch.from_numpy(np.load(synthetic))) > 0.5
    names = [f"s{number}" for number in range(len(given))]
    pd.DataFrame({"view_id": names, "label": np.where(given, classes[1], classes[0])}).to_csv(file, index=False)


def write_inputs(results: Path, external: str, classes: Sequence[str], work: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """The views of the generator's and of the tested patients, as files that the stage reads; their index and who is tested.

    Fold 0 is tested: its network learns from the generator's patients. That of fold 1 is not looked at; it learns from FEW views.
    """
    index = pd.read_csv(results / "views" / "labelled.csv", dtype=str)
    pixels = np.load(results / "views" / "labelled.npy")
    held_out = pd.read_csv(results / "diffusion" / "holdout.csv", dtype=str)["patient_id"]
    unseen = index["patient_id"].isin(held_out).to_numpy()
    if external:
        others = pd.read_csv(results / "views" / "external" / f"{external}.csv", dtype=str)
        pixels = np.concatenate([pixels[~unseen], np.load(results / "views" / "external" / f"{external}.npy")])
        tested = np.repeat([False, True], [(~unseen).sum(), len(others)])
        index, unseen = pd.concat([index[~unseen], others], ignore_index=True), tested
    # Views of one set may bear the names of the other's.
    index["view_id"] = [f"v{number}" for number in range(len(index))]
    few = index[unseen].groupby("label").head(FEW).index
    np.save(work / "views.npy", pixels)
    index.to_csv(work / "index.csv", index=False)
    index.assign(fold=np.where(unseen, 0, 1))[["view_id", "patient_id", "fold"]].to_csv(work / "folds.csv", index=False)
    kept = np.where(unseen, index.index.isin(few), True).astype(int)
    index.assign(keep=kept)[["view_id", "label", "keep"]].to_csv(work / "labels.csv", index=False)
    return index, unseen


def taught(arguments: argparse.Namespace, synthetic: Path) -> list[dict[str, Any]]:
    """AUROC over the tested views of the mean of the seeds' networks, per row, with intervals of redrawn patients."""
    from workflow_scripts.core.statistics import drawn_auroc, times_drawn, with_interval
    from workflow_scripts.finetuning import finetune
    from workflow_scripts.runtime.arguments import flags
    from workflow_scripts.runtime.cli import run

    work, classes = arguments.work, arguments.classes
    index, unseen = write_inputs(arguments.results, arguments.external, classes, work)
    recipe = {name: getattr(arguments, name) for name in RECIPE}
    start = {"backbone": arguments.backbone, "layout": arguments.layout}
    start |= {"weights": arguments.weights} if arguments.weights else {}
    tested = index[unseen]
    truth = (tested["label"] == classes[1]).to_numpy()
    names, patient = np.unique(tested["patient_id"], return_inverse=True)
    times = times_drawn(len(names))[:, patient]
    rows: list[dict[str, Any]] = []
    real: np.ndarray | None = None
    for name, (real_percent, synthetic_percent, labels) in ROWS.items():
        folder = work / name.replace(" ", "_")
        folder.mkdir(exist_ok=True)
        found = []
        for seed in SEEDS:
            file = folder / f"seed{seed}.csv"
            if not file.is_file():
                more: dict[str, Any] = {}
                if synthetic_percent:
                    given = folder / f"labels{seed}.csv"
                    labelled(synthetic, work / "real" / f"seed{seed}_fold0.safetensors", classes, given)
                    more = {
                        "synthetic-views": synthetic, "synthetic-index": given, "training-percent": real_percent,
                        "synthetic-percent": synthetic_percent, "synthetic-labels": labels,
                    }  # fmt: skip
                weights = [str(folder / f"seed{seed}_fold{fold}.safetensors") for fold in (0, 1)]
                run(finetune.main, finetune.parser(), [
                    *flags({
                        "views": work / "views.npy", "index": work / "index.csv", "labels": work / "labels.csv", "seed": seed,
                        "folds": work / "folds.csv", **start, **recipe, **more, "device": "cpu",
                        "work-dir": folder / f"work{seed}", "output-predictions": file,
                        "output-training": folder / f"seed{seed}_training.csv",
                    }),
                    "--classes", *classes, "--output-weights", *weights,
                ])  # fmt: skip
            found.append(pd.read_csv(file)["probability"].to_numpy()[unseen])
        drawn = 100 * drawn_auroc(np.mean(found, axis=0), truth, times)
        real = drawn if real is None else real
        row = {"learnt": name, "seeds": [100 * float(drawn_auroc(one, truth, times[:1])[0]) for one in found]}
        rows.append(row | with_interval("auroc", drawn) | with_interval("difference", drawn - real))
        print(rows[-1], flush=True)
    return rows


def attacked(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What both errors of the generator's weights reveal."""
    from workflow_scripts.privacy import measure_denoising
    from workflow_scripts.privacy.membership import WEIGHT_ATTACKS, attack_on_weights
    from workflow_scripts.runtime.arguments import flags
    from workflow_scripts.runtime.cli import run

    results, file = arguments.results, arguments.work / "denoising.csv"
    if not file.is_file():
        run(measure_denoising.main, measure_denoising.parser(), flags({
            "model": results / "diffusion" / "trained", "views": results / "views" / "labelled.npy",
            "index": results / "views" / "labelled.csv", "holdout": results / "diffusion" / "holdout.csv", "noises": NOISES,
            "batch-size": 64, "device": "cpu", "work-dir": arguments.work / "denoising", "output-denoising": file,
        }))  # fmt: skip
    table = pd.read_csv(file)
    patients, held_out = table["patient_id"].to_numpy(), table["held_out"].to_numpy() == 1
    rows = [
        {"attack": name, **attack_on_weights(table[name].to_numpy(), patients, held_out, 0)} for name in WEIGHT_ATTACKS
    ]
    print(*rows, sep="\n", flush=True)
    return rows


def write_page(rows: list[dict[str, Any]], name: str) -> None:
    """Put the table between the marks of docs/how-to/synthetic-training.md."""

    def cell(row: Mapping[str, Any], of: str, sign: str = "") -> str:
        return f"{row[of]:{sign}.1f} ({row[f'{of}_low']:{sign}.1f} to {row[f'{of}_high']:{sign}.1f})"

    lines = ["| learnt | AUROC, % (95 %) | each seed alone | difference |", "|---|---|---|---|"]
    for row in rows:
        alone = ", ".join(f"{value:.1f}" for value in row["seeds"])
        difference = "ref." if row is rows[0] else cell(row, "difference", "+")
        lines.append(f"| {TITLES[row['learnt']]} | {cell(row, 'auroc')} | {alone} | {difference} |")
    write_on_page(PAGE, name, "\n".join(lines))


def main() -> None:
    """Attack, sample, teach, write benchmarks/results/ and the table of docs/how-to/synthetic-training.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of the study")
    parser.add_argument("--work", type=Path, required=True, help="where finished parts stay")
    parser.add_argument("--external", default="", help="set whose patients are tested (default: those held out)")
    parser.add_argument("--classes", nargs=2, default=["homogeneous", "inhomogeneous"], metavar="CLASS")
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--layout", default="scratch")
    parser.add_argument("--weights", type=Path, help="what every network starts from (default: random weights)")
    for name, value in RECIPE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"(default: {value})")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = taught(arguments, synthetic_views(arguments.results, arguments.work))
    index = pd.read_csv(arguments.work / "index.csv", dtype=str)
    unseen = (pd.read_csv(arguments.work / "folds.csv")["fold"] == 0).to_numpy()
    name = f"generator_teaches_{arguments.external}" if arguments.external else "generator_teaches"
    facts = {key: str(value) for key, value in vars(arguments).items() if key not in ("results", "work", "weights")}
    write_result(
        name, rows, attacks=[] if arguments.external else attacked(arguments), noises=NOISES, **facts,
        training_patients=int(index["patient_id"][~unseen].nunique()), test_patients=int(index["patient_id"][unseen].nunique()),
        training_views=int((~unseen).sum()), test_views=int(unseen.sum()),
    )  # fmt: skip
    write_page(rows, name)


if __name__ == "__main__":
    main()
