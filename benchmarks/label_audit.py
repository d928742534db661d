"""How well does the label audit find labels that were flipped on purpose, and does cleaning them help?

Real breast ultrasound (BUSI: benign or malignant, letterboxed to 64 x 64), 10 % of the labels flipped at random. The
audit is the paper's: two starts x four seeds x three folds, 30 epochs, batches of 64; near-duplicates share a fold. No
pretrained weights are at hand, so both starts are random weights of a small residual network, trained at rates that fit
them; the paper's rates presume pretrained ones. Then the same network is trained on each label set and scored on the
labels of the set and on the true ones. Last, the training's speed beside a loop that decodes and augments image by image.

    python -m benchmarks.label_audit --images DIR      # DIR/manifest.csv: image_id, path, organ, label; about half an hour

The tables in docs/audit.md are written by this command.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.measure import start_run, write_result

SIZE, BACKBONE, FOLDS = 64, "test_resnet", 3
SETTINGS = {
    "epochs": 30, "batch_size": 64, "backbone_lr": 3e-3, "head_lr": 1e-2, "weight_decay": 1e-5, "sampler": "shuffle",
    "augmentation": {"markers": 0.0, "rotation": 15.0, "flip": 0.5, "shift": 0.1},
}  # fmt: skip
STARTS, SEEDS, DOWNSTREAM_SEEDS = (0, 100), (0, 1, 2, 3), (0, 1)
NEGATIVE, POSITIVE = "benign", "malignant"
PAGE = Path(__file__).parents[1] / "docs" / "audit.md"


def load_images(folder: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Views, uint8 (N, SIZE, SIZE), and their index with the true labels; near-duplicates are one patient."""
    from workflow_scripts.data.duplicates import fingerprints, near_duplicates
    from workflow_scripts.data.find_near_duplicates import DISTANCE, HASH_DISTANCE
    from workflow_scripts.data.profiles import letterbox, resize

    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            row for row in csv.DictReader(file) if row["label"] in (NEGATIVE, POSITIVE) and row["organ"] == "breast"
        ]
    pixels = []
    for row in rows:
        with Image.open(folder / row["path"]) as picture:
            pixels.append(letterbox(np.asarray(picture.convert("L"))))
    prints = fingerprints([resize(image, 256) for image in pixels])
    pairs = near_duplicates(prints, np.arange(len(rows)), HASH_DISTANCE, DISTANCE)
    edges = coo_array((np.ones(len(pairs.first)), (pairs.first, pairs.second)), shape=(len(rows), len(rows)))
    _, group = connected_components(edges, directed=False)
    index = pd.DataFrame({"view_id": [row["image_id"] for row in rows], "patient_id": [f"g{g}" for g in group]})
    index = index.assign(image_id=index["view_id"], side="", truth=[row["label"] for row in rows])
    return np.stack([resize(image, SIZE) for image in pixels]), index


def flipped_at_random(truth: pd.Series, share: float, seed: int) -> np.ndarray:
    """The labels with a share of them flipped."""
    labels = truth.to_numpy(copy=True)
    chosen = np.random.default_rng(seed).choice(len(labels), round(share * len(labels)), replace=False)
    labels[chosen] = np.where(labels[chosen] == POSITIVE, NEGATIVE, POSITIVE)
    return labels


def train(views: np.ndarray, targets: Mapping[int, np.ndarray], folds: np.ndarray, start: int, seed: int) -> list[Any]:
    """Cross-validate in this process; the results of the folds without weights, and the seconds it took."""
    import torch

    from workflow_scripts.networks.cross_validation import CrossValidation, cross_validate, initial_classifiers
    from workflow_scripts.study.config.finetuning import FinetuningRecipe

    models = initial_classifiers(BACKBONE, "scratch", [], start + seed, list(targets))
    task = CrossValidation(torch.from_numpy(views), targets, folds, FinetuningRecipe(**SETTINGS), seed)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        results = cross_validate(models, task, start_run(Path(folder) / "work"))
    return [[replace(result, weights={}) for result in results], time.perf_counter() - began]


def folds_of(index: pd.DataFrame, seed: int) -> np.ndarray:
    """The folds of a seed, stratified on the noisy labels."""
    from workflow_scripts.data.draw_folds import assign_folds

    fold = assign_folds(zip(index["patient_id"], index["label"] == POSITIVE, strict=True), FOLDS, seed)
    return index["patient_id"].map(fold).to_numpy()


def audit(
    pool: ProcessPoolExecutor, views: np.ndarray, index: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame], list[float]]:
    """The audit's tables of losses and out-of-fold probabilities, and seconds per training."""
    labels = (index["label"] == POSITIVE).to_numpy(np.int64)
    jobs = {}
    for start in STARTS:
        for seed in SEEDS:
            targets = dict.fromkeys(range(FOLDS), labels)
            jobs[f"{start}_seed{seed}"] = pool.submit(train, views, targets, folds_of(index, seed), start, seed)
    losses, oof, seconds = {}, {}, []
    view_ids = index["view_id"].to_numpy()
    for name, job in jobs.items():
        results, took = job.result()
        seconds.append(took / FOLDS)
        probability = np.empty(len(index))
        parts = []
        for result in results:
            epochs, count = result.losses.shape
            parts.append(pd.DataFrame({
                "view_id": np.tile(view_ids[result.training], epochs), "fold": result.fold,
                "epoch": np.repeat(np.arange(1, epochs + 1), count), "loss": result.losses.ravel(),
            }))  # fmt: skip
            probability[result.test] = result.probabilities
        losses[name] = pd.concat(parts, ignore_index=True)
        oof[name] = pd.DataFrame({"view_id": view_ids, "probability": probability})
    return losses, oof, seconds


def cleanlab_row(oof: Mapping[str, pd.DataFrame], index: pd.DataFrame, wrong: np.ndarray) -> dict[str, Any]:
    """What cleanlab's own filter finds on the mean out-of-fold probabilities."""
    from cleanlab.filter import find_label_issues

    mean = np.mean([table["probability"] for table in oof.values()], axis=0)
    labels = (index["label"] == POSITIVE).to_numpy(np.int64)
    found = find_label_issues(labels, np.stack([1 - mean, mean], axis=1), n_jobs=1)
    hits = int((found & wrong).sum())
    return {"method": "cleanlab's filter", "flagged": int(found.sum()), "precision": hits / max(1, found.sum()),
            "recall": hits / wrong.sum()}  # fmt: skip


def label_sets(
    losses: Mapping[str, pd.DataFrame], oof: Mapping[str, pd.DataFrame], index: pd.DataFrame
) -> dict[str, dict[int, pd.DataFrame]]:
    """Label sets by name and seed, as tables (view_id, label, keep) or, nested, with a column fold."""
    from workflow_scripts.audit.change_at_random import random_decisions
    from workflow_scripts.audit.labels import apply_decisions
    from workflow_scripts.audit.suspicion import judge
    from workflow_scripts.study.config.audit import VoteRule

    complete = [
        {"view_id": view, "label": label, "keep": "1"}
        for view, label in zip(index["view_id"], index["label"], strict=True)
    ]

    def cleaned(votes: pd.DataFrame, decision: str, at_random: int | None = None) -> pd.DataFrame:
        decisions = dict.fromkeys(votes.loc[votes["suspicious"] == 1, "view_id"], decision)
        if at_random is not None:
            decisions = random_decisions(decisions, complete, at_random)
        return pd.DataFrame(apply_decisions(complete, decisions, (NEGATIVE, POSITIVE), "")).astype({"keep": int})

    paper = VoteRule()
    votes = {n: judge(losses, oof, index, paper.model_copy(update={"exceedances": n}), POSITIVE) for n in (3, 4, 5)}
    by_oof = judge(losses, oof, index, paper.model_copy(update={"method": "oof_loss"}), POSITIVE)
    sets = {"complete": dict.fromkeys(DOWNSTREAM_SEEDS, pd.DataFrame(complete).astype({"keep": int}))}
    for name, decision in (("filtered", "discard"), ("flipped", "flip")):
        for n in (3, 4, 5):
            sets[f"{name}, {n} exceedances"] = dict.fromkeys(DOWNSTREAM_SEEDS, cleaned(votes[n], decision))
        sets[f"{name}, nested"] = {}
        for seed in DOWNSTREAM_SEEDS:
            parts = []
            for fold in range(FOLDS):
                runs = {n: t[t["fold"] == fold] for n, t in losses.items() if n.endswith(f"_seed{seed}")}
                parts.append(cleaned(judge(runs, {}, index, paper, POSITIVE), decision).assign(fold=fold))
            sets[f"{name}, nested"][seed] = pd.concat(parts, ignore_index=True)
        sets[f"{name}, at random"] = {seed: cleaned(votes[3], decision, seed) for seed in DOWNSTREAM_SEEDS}
        sets[f"{name}, by out-of-fold loss"] = dict.fromkeys(DOWNSTREAM_SEEDS, cleaned(by_oof, decision))
    return sets


def downstream(
    pool: ProcessPoolExecutor, views: np.ndarray, index: pd.DataFrame, sets: Mapping[str, Mapping[int, pd.DataFrame]]
) -> list[dict[str, Any]]:
    """Train on each label set; score on its own labels and on the true ones, percent, mean and std over folds x seeds."""
    from workflow_scripts.networks.fold_inputs import join_tables, training_targets
    from workflow_scripts.tables.aggregation import aggregate, run_scores

    jobs = []
    for name, by_seed in sets.items():
        for seed, labels in by_seed.items():
            folds = index[["view_id", "patient_id"]].assign(fold=folds_of(index, seed))
            table = join_tables(index, folds, labels, (NEGATIVE, POSITIVE), ("index", "folds", name))
            targets = training_targets(table, labels, POSITIVE)
            jobs.append(
                (name, seed, table, pool.submit(train, views, targets, table["fold"].to_numpy(), STARTS[0], seed))
            )
    predictions: dict[str, list[pd.DataFrame]] = {}
    for name, seed, table, job in jobs:
        probability = np.empty(len(table))
        for result in job.result()[0]:
            probability[result.test] = result.probabilities
        predictions.setdefault(name, []).append(table.assign(
            seed=seed, kept=table["keep"], probability=probability, label_original=index["truth"].to_numpy(),
            prediction=np.where(probability > 0.5, POSITIVE, NEGATIVE),
        ))  # fmt: skip
    rows = []
    for name, parts in predictions.items():
        row: dict[str, Any] = {"labels": name}
        for column, kind in (("own", "policy"), ("true", "original")):
            for metric, (mean, std) in aggregate(100 * run_scores(pd.concat(parts), POSITIVE, kind), "runs").items():
                if metric in ("accuracy", "f1", "auroc"):
                    row |= {f"{metric}_{column}": mean, f"{metric}_{column}_std": std}
        rows.append(row)
    return rows


def image_by_image(views: np.ndarray, labels: np.ndarray) -> float:
    """Seconds of one epoch of the same network when every image is augmented by itself with torchvision (the peer)."""
    import torch
    from torch.nn import functional as F
    from torchvision.transforms import v2

    from workflow_scripts.networks.cross_validation import initial_classifier

    torch.set_num_threads(1)
    shift = SETTINGS["augmentation"]["shift"]
    augment = v2.Compose([
        v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.RandomHorizontalFlip(0.5),
        v2.RandomAffine(15, translate=(shift, shift), interpolation=v2.InterpolationMode.BILINEAR),
        v2.Normalize([0.5], [0.25]),
    ])  # fmt: skip
    model = initial_classifier(BACKBONE, "scratch", None, 0, 0).train()
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    began = time.perf_counter()
    for start in range(0, len(views), SETTINGS["batch_size"]):
        part = slice(start, start + SETTINGS["batch_size"])
        batch = torch.stack([augment(Image.fromarray(view)) for view in views[part]]).expand(-1, 3, -1, -1)
        loss = F.cross_entropy(model(batch), torch.as_tensor(labels[part]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return time.perf_counter() - began


def write_page(record: Mapping[str, Any]) -> None:
    """Put the tables between the markers of docs/audit.md."""

    def table(header: str, lines: Iterable[str]) -> str:
        columns = header.count("|") + 1
        return "\n".join([f"| {header} |", "|" + "---|" * columns, *(f"| {line} |" for line in lines)])

    def interval(row: Mapping[str, Any], key: str) -> str:
        return f"{row[key]:.2f} ({row[f'{key}_low']:.2f} to {row[f'{key}_high']:.2f})" if key in row else "–"

    found = [
        f"{row['draw']} | {row['method']} | {interval(row, 'average_precision')} | {interval(row, 'auroc')} | "
        f"{row['flagged']} | {row['precision']:.2f} | {row['recall']:.2f}"
        for row in record["found"]
    ]
    scored = [
        " | ".join([row["labels"], *(f"{row[f'{metric}_{column}']:.1f} ± {row[f'{metric}_{column}_std']:.1f}"
                                     for column in ("own", "true") for metric in ("accuracy", "f1", "auroc"))])
        for row in record["downstream"]
    ]  # fmt: skip
    first = table("draw | score | average precision (95 %) | AUROC (95 %) | flagged | precision | recall", found)
    second = table(
        "training labels | accuracy, own | F1, own | AUROC, own | accuracy, true | F1, true | AUROC, true", scored
    )
    speed = record["speed"]
    text = (
        f"{record['views']} images, {record['wrong']} labels flipped in each of two draws of noise; "
        f"{len(STARTS)} x {len(SEEDS)} x {FOLDS} training runs:\n\n{first}\n\n"
        f"Trained on each label set ({len(DOWNSTREAM_SEEDS)} seeds x {FOLDS} folds, first draw), percent, mean ± std:\n\n"
        f"{second}\n\nA training run took {speed['seconds_per_training']:.0f} s on one core, "
        f"{speed['images_per_second']:.0f} images per second; {speed['peer_images_per_second']:.0f} when augmenting "
        "image by image.\n"
    )
    begin, end = "<!-- benchmark: label_audit -->\n", "<!-- end -->"
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(begin)
    PAGE.write_text(head + begin + text + rest[rest.index(end) :], encoding="utf-8")


def main() -> None:
    """Flip, audit, score, clean, train, time; write benchmarks/results/label_audit.json and the tables of docs/audit.md."""
    from workflow_scripts.audit.score_audit import DRAWS, score_methods
    from workflow_scripts.study.config.audit import VoteRule

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with manifest.csv and the images")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time (default: 2)")
    arguments = parser.parse_args()
    views, index = load_images(arguments.images)
    found: list[dict[str, Any]] = []
    cleaned: dict[str, dict[int, pd.DataFrame]] = {}
    seconds: list[float] = []
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        for draw in (1, 2):
            noisy = index.assign(label=flipped_at_random(index["truth"], 0.1, draw))
            wrong = (noisy["label"] != noisy["truth"]).to_numpy()
            losses, oof, took = audit(pool, views, noisy)
            seconds += took
            scores = score_methods(
                losses,
                oof,
                noisy,
                wrong,
                VoteRule(),
                POSITIVE,
                DRAWS,
            )
            rows = [*scores.to_dict("records"), cleanlab_row(oof, noisy, wrong)]
            found += [{"draw": draw, **row} for row in rows]
            print(
                scores[["method", "average_precision", "auroc", "flagged", "precision", "recall"]].round(2), flush=True
            )
            if draw == 1:
                cleaned = label_sets(losses, oof, noisy)
                first = noisy
        rows = downstream(pool, views, first, cleaned)
    labels = (first["label"] == POSITIVE).to_numpy(np.int64)
    trained = len(views) * (FOLDS - 1) / FOLDS * SETTINGS["epochs"]
    speed = {
        "seconds_per_training": float(np.median(seconds)),
        "images_per_second": trained / float(np.median(seconds)),
        "peer_images_per_second": len(views) / min(image_by_image(views, labels) for _ in range(3)),
    }
    facts = {"views": len(views), "wrong": int(wrong.sum()), "groups": index["patient_id"].nunique(), "found": found,
             "downstream": rows, "speed": speed, "settings": {**SETTINGS, "backbone": BACKBONE, "size": SIZE}}  # fmt: skip
    print(write_result("label_audit", [], **facts))
    write_page(facts)


if __name__ == "__main__":
    main()
