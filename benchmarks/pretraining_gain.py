"""Does contrastive pretraining help? Fine-tuning from random weights against fine-tuning after pretraining.

Two tasks, 64 x 64 pixels: phantoms (inhomogeneous or homogeneous testicles; testicles and thyroids without labels beside
them) and, with --images, real ultrasound (BUSI: malignant or benign; its normal breasts and the thyroids of DDTI beside
them). For each of several seeds the patients are dealt into three folds. Each fold has a pretraining of its own that never
saw its patients: both losses, the shipped augmentation and optimiser. Then the same network is fine-tuned twice on the other
folds, from random weights and from the pretrained ones, with the same recipe; once with all their labels and once with those
of a quarter of the patients. BUSI names no patients: near-duplicates share one.

The differences are paired by fold, their interval is Nadeau and Bengio's. The tables of docs/pretraining.md are written by
this command.

    python -m benchmarks.pretraining_gain [--images DIR]       # DIR/manifest.csv: image_id, path, patient_id, organ, label
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.label_audit import BACKBONE, NEGATIVE, POSITIVE, SETTINGS, SIZE, folds_of, load_images
from benchmarks.measure import start_run, write_on_page, write_result

FOLDS, SEEDS, BATCH, STEPS = 3, (0, 1, 2), 128, 300
PRETRAINING = {"batch_size": BATCH, "steps": STEPS, "lr": 0.075 * math.sqrt(BATCH), "projection": [256, 256]}
SHARES = {"all labels": 1.0, "a quarter of the patients": 0.25}
METRICS = ("auroc", "accuracy")
PAGE = Path(__file__).parents[1] / "docs" / "pretraining.md"


@dataclass(frozen=True)
class Task:
    """Labelled views uint8 (N, 64, 64) with labels (N,) of 0 and 1 and patients (N,); stores without labels, by organ."""

    views: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    others: tuple[tuple[np.ndarray, int], ...]


def phantoms(patients: int = 96, others: int = 240) -> Task:
    """A fifth of the testicles inhomogeneous; two views of each of a patient's two testicles."""
    from workflow_scripts.data.phantom import draw_frame
    from workflow_scripts.data.profiles import resize

    def views_of(frame: np.ndarray) -> list[np.ndarray]:
        return [resize(frame[130:430, left : left + 300], SIZE) for left in (185, 485)]

    views, labels, names, testicles, thyroids = [], [], [], [], []
    for i in range(2 * patients):
        positive = i % 5 == 0
        views += views_of(draw_frame(0, f"F{i}", f"P{i // 2}", "testicle", inhomogeneous=positive, thyroid=False))
        labels += 2 * [int(positive)]
        names += 2 * [f"P{i // 2}"]
    for i in range(others // 2):
        positive = i % 5 == 0
        testicles += views_of(draw_frame(1, f"U{i}", f"Q{i}", "testicle", inhomogeneous=positive, thyroid=False))
        thyroids += views_of(draw_frame(1, f"T{i}", f"R{i}", "thyroid", inhomogeneous=False, thyroid=True))
    stores = ((np.stack(testicles), 0), (np.stack(thyroids), 1))
    return Task(np.stack(views), np.array(labels), np.array(names), stores)


def real_images(folder: Path) -> Task:
    """BUSI's benign and malignant breasts, letterboxed; its normal ones and DDTI's thyroids without labels."""
    from workflow_scripts.data.profiles import letterbox, resize

    views, index = load_images(folder)
    others: dict[str, list[np.ndarray]] = {"breast": [], "thyroid": []}
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["organ"] == "thyroid" or row["label"] not in (NEGATIVE, POSITIVE):
                with Image.open(folder / row["path"]) as picture:
                    others[row["organ"]].append(resize(letterbox(np.asarray(picture.convert("L"))), SIZE))
    labels = (index["truth"] == POSITIVE).to_numpy(np.int64)
    stores = ((np.stack(others["breast"]), 0), (np.stack(others["thyroid"]), 1))
    return Task(views, labels, index["patient_id"].to_numpy(), stores)


def pretrained_weights(task: Task, training: np.ndarray, seed: int, folder: Path) -> Path:
    """Pretrain on the views of `training` (rows) and all others; the backbone's file."""
    from workflow_scripts.networks.backbone import create_backbone, save_weights
    from workflow_scripts.pretraining.loop import make_encoder, pretrain
    from workflow_scripts.pretraining.mix import ViewUnion
    from workflow_scripts.study.config.pretraining import PretrainingRecipe

    recipe = PretrainingRecipe(**PRETRAINING, seed=seed)
    stores = [task.views, *(store for store, _ in task.others)]
    rows = [training, *(np.arange(len(store)) for store, _ in task.others)]
    organs = [np.zeros(len(training)), *(np.full(len(store), organ) for store, organ in task.others)]
    views = ViewUnion(stores, rows, organs)
    backbone = create_backbone(BACKBONE, seed)
    encoder = make_encoder(backbone, 2, views, recipe)
    pretrain(encoder, views, recipe, start_run(folder / "work"))
    save_weights(backbone.state_dict(), {}, folder / "backbone.safetensors")
    return folder / "backbone.safetensors"


def run_fold(task: Task, folds: np.ndarray, fold: int, seed: int) -> list[dict[str, Any]]:
    """The scores of one fold: a row per share of labels and start."""
    import torch
    from sklearn.metrics import roc_auc_score

    from workflow_scripts.networks.cross_validation import CrossValidation, cross_validate, initial_classifier
    from workflow_scripts.study.config.finetuning import FinetuningRecipe

    torch.set_num_threads(1)
    training, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    rows = []
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(temporary)
        began = time.perf_counter()
        weights = pretrained_weights(task, training, seed, folder)
        seconds = time.perf_counter() - began
        patients = np.unique(task.patients[training])
        order = np.random.default_rng([seed, fold]).permutation(patients)
        for name, share in SHARES.items():
            known = np.isin(task.patients, order[: round(share * len(order))]) & (folds != fold)
            targets = {fold: np.where(known, task.labels, -1)}
            for start, layout, path in (("scratch", "scratch", None), ("pretrained", "timm", weights)):
                model = initial_classifier(BACKBONE, layout, path, seed, fold)
                views, recipe = torch.from_numpy(task.views), FinetuningRecipe(**SETTINGS)
                fine_tuning = CrossValidation(views, targets, folds, recipe, seed)
                (result,) = cross_validate({fold: model}, fine_tuning, start_run(folder / f"{name} {start}"))
                assert np.array_equal(result.test, test)
                truth, probabilities = task.labels[test], result.probabilities
                rows.append({
                    "labels": name, "start": start, "seed": seed, "fold": fold, "known": int(known.sum()),
                    "auroc": 100 * float(roc_auc_score(truth, probabilities)),
                    "accuracy": 100 * float(((probabilities > 0.5) == truth).mean()), "pretraining_s": seconds,
                })  # fmt: skip
    return rows


def summary(task: str, scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per share of labels and metric: means, and the difference with its interval."""
    from workflow_scripts.core.statistics import corrected_paired_test

    rows = []
    for name in SHARES:
        for metric in METRICS:
            by_start = [
                np.array([row[metric] for row in scores if (row["labels"], row["start"]) == (name, start)])
                for start in ("scratch", "pretrained")
            ]
            test = corrected_paired_test(by_start[1] - by_start[0], FOLDS)
            rows.append({
                "task": task, "labels": name, "metric": metric, "runs": len(by_start[0]),
                "scratch": float(by_start[0].mean()), "scratch_std": float(by_start[0].std(ddof=1)),
                "pretrained": float(by_start[1].mean()), "pretrained_std": float(by_start[1].std(ddof=1)),
                "difference": test.difference, "low": test.low, "high": test.high, "p": test.p,
            })  # fmt: skip
    return rows


def write_page(rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the table between the markers of docs/pretraining.md."""
    names = {"auroc": "AUROC", "accuracy": "accuracy"}
    lines = [
        "| task | labels | metric | from scratch | pretrained | difference (95 %) | p |", "|---|---|---|---|---|---|---|",
        *(
            f"| {row['task']} | {row['labels']} | {names[row['metric']]} | {row['scratch']:.1f} ± {row['scratch_std']:.1f} | "
            f"{row['pretrained']:.1f} ± {row['pretrained_std']:.1f} | "
            f"{row['difference']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f}) | {row['p']:.2f} |"
            for row in rows
        ),
    ]  # fmt: skip
    write_on_page(PAGE, "pretraining_gain", "\n".join(lines))


def main() -> None:
    """Train, score, compare; write benchmarks/results/pretraining_gain.json and the table of docs/pretraining.md."""
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with manifest.csv and the real images")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time (default: 2)")
    arguments = parser.parse_args()
    tasks = {"phantoms": phantoms()}
    if arguments.images:
        tasks["breast lesions"] = real_images(arguments.images)
    rows, runs, sizes = [], [], {}
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        for name, task in tasks.items():
            index = pd.DataFrame({"patient_id": task.patients, "label": np.where(task.labels, POSITIVE, NEGATIVE)})
            jobs = []
            for seed in SEEDS:
                folds = folds_of(index, seed)
                jobs += [pool.submit(run_fold, task, folds, fold, seed) for fold in range(FOLDS)]
            scores = [row for job in jobs for row in job.result()]
            rows += summary(name, scores)
            runs += [{"task": name, **row} for row in scores]
            sizes[name] = {
                "labelled": len(task.views), "positive": int(task.labels.sum()),
                "others": [len(store) for store, _ in task.others],
            }  # fmt: skip
            print(pd.DataFrame(rows).round(2).to_string(), flush=True)
    settings = {"finetuning": SETTINGS, "pretraining": PRETRAINING, "backbone": BACKBONE, "size": SIZE}
    print(write_result("pretraining_gain", rows, tasks=sizes, runs=runs, settings=settings))
    write_page(rows)


if __name__ == "__main__":
    main()
