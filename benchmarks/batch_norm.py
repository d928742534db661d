"""Batch norm's shift: do mirrored borders or re-estimated statistics mend it? On the external patients of a finished study.

Rotation and shift of the fine-tuning bring black corners into the training views, and test views have none. So batch norm
normalises test views by statistics of other views, and some networks call nearly all views the same. For the fine-tuned
networks of a study with `finetuning.recipe.batch_norm: running`, by start, fold and seed, all other things equal:

- as they are: the networks of the study, as it predicted with them;
- mirrored borders: trained anew with `augmentation.outside: reflected`;
- statistics re-estimated: the networks of the study as `batch_norm: re_estimated` has them; no weight changes.

Each predicts the views of the study's first external set. Differences are by patient, of the same redraws of the patients.
The table of docs/pretraining.md is written by this command.

    python -m benchmarks.batch_norm --results results/busbra_quick --imagenet weights/tf_efficientnet_lite0_imagenet.safetensors

A quarter of an hour for the quick BUS-BRA study on a quiet core. Networks that were done stay in --work, and are not done again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import start_run, write_result
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_json, write_npy
from workflow_scripts.study.experiments import repeat_of

if TYPE_CHECKING:
    import pandas as pd

STARTS = {"imagenet": "ImageNet", "scratch": "random weights", "ud": "own pretraining"}
VARIANTS = ("as they are", "mirrored borders", "statistics re-estimated")
# A network that calls more than this share of the patients the same has lost its threshold.
ONE_SIDE = 0.95
PAGE = Path(__file__).parents[1] / "docs" / "pretraining.md"


def run_fold(results: Path, start: str, weights: Path | None, seed: int, fold: int, work: Path) -> np.ndarray:
    """Probability of the positive class by variant and external view, float64 (3, N), of one network; kept in `work`."""
    import torch

    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.networks.backbone import load_classifier
    from workflow_scripts.networks.cross_validation import (
        CrossValidation,
        cross_validate,
        initial_classifier,
        predict,
        re_estimate_batch_norm,
    )
    from workflow_scripts.networks.fold_inputs import join_tables, training_targets
    from workflow_scripts.study.config.finetuning import FinetuningRecipe

    torch.set_num_threads(1)
    name = f"{start}_seed{seed}_fold{fold}"
    if (kept := work / f"{name}.npy").is_file():
        return np.load(kept)
    settings = read_json(results / "provenance" / "settings.json")
    labels_name, classes = settings["finetuning"]["labels"], settings["data"]["classes"]
    store = ViewStore.open(results / "views" / "labelled.npy", results / "views" / "labelled.csv")
    labels = read_csv(results / "labels" / f"{labels_name}.csv")
    table = join_tables(
        store.index, read_csv(results / "folds" / f"seed{seed}.csv"), labels, classes, ("views", "folds", "labels")
    )
    targets = training_targets(table, labels, classes[1])
    views, folds = torch.from_numpy(np.array(store.pixels)), table["fold"].to_numpy()
    external = external_files(results)
    shown = torch.from_numpy(np.array(ViewStore.open(external.with_suffix(".npy"), external).pixels))

    predicted = read_csv(results / "external" / external.stem / f"{start}-{labels_name}.csv")
    of_network = predicted[(predicted["seed"] == seed) & (predicted["fold"] == fold)].set_index("view_id")[
        "probability"
    ]
    as_predicted = of_network.loc[read_csv(external)["view_id"]].to_numpy()

    # A study of a version without the key let the statistics run.
    recipe = FinetuningRecipe(**({"batch_norm": "running"} | settings["finetuning"]["recipe"]))
    if recipe.batch_norm != "running":
        raise UserError(
            f"{results} predicts with re-estimated statistics; give a study with finetuning.recipe.batch_norm: running"
        )
    mirrored = recipe.model_copy(
        update={"augmentation": recipe.augmentation.model_copy(update={"outside": "reflected"})}
    )
    as_it_is, parameters = load_classifier(
        results / "finetuning" / f"{start}-{labels_name}" / f"seed{seed}_fold{fold}.safetensors"
    )
    model = initial_classifier(parameters["backbone"], parameters["layout"], weights, seed, fold, mirrored)
    task = CrossValidation(views, {fold: targets[fold]}, folds, mirrored, seed)
    run = start_run(work / name)
    cross_validate({fold: model}, task, run)
    re_estimate_batch_norm(as_it_is, views[task.training(fold)])
    probabilities = np.stack([as_predicted, *(predict(network, shown) for network in (model, as_it_is))])
    write_npy(probabilities, kept)
    run.work.close()
    return probabilities


def external_files(results: Path) -> Path:
    """The index of the study's first external set; the views lie beside it."""
    return min((results / "views" / "external").glob("*.csv"))


def compared(
    probabilities: Mapping[tuple[str, int, int], np.ndarray],
    index: pd.DataFrame,
    left_out: list[str],
    classes: list[str],
) -> list[dict[str, Any]]:
    """A row per start and variant: metrics of the ensemble in percent, by patient, with intervals; and of its networks.

    `balanced` is balanced accuracy at 0.5. `_difference` is to the networks as they are.
    """
    import pandas as pd

    from workflow_scripts.core.statistics import times_drawn, with_interval
    from workflow_scripts.tables.make_external_table import pooled_patients
    from workflow_scripts.tables.redraws import drawn_scores

    rows = []
    for start in dict.fromkeys(start for start, _, _ in probabilities):
        plain: dict[str, np.ndarray] = {}
        for number, variant in enumerate(VARIANTS):
            predictions = pd.concat(
                index.assign(seed=seed, fold=fold, probability=values[number])
                for (one, seed, fold), values in probabilities.items()
                if one == start
            )
            predictions = predictions[~predictions["patient_id"].isin(left_out)]
            patients = pooled_patients(predictions, index, classes)
            truth = (patients["truth"] == classes[1]).to_numpy()
            draws = scores(drawn_scores(patients["probability"].to_numpy(), truth, times_drawn(len(truth))))
            singles = [
                pooled_patients(part, index, classes)["probability"].to_numpy() > 0.5
                for _, part in predictions.groupby(["seed", "fold"])
            ]
            plain = plain or draws
            called = np.array([single.mean() for single in singles])
            row: dict[str, Any] = {
                "start": start, "variant": variant, "patients": len(truth), "positives": int(truth.sum()),
                "networks": len(singles), "one_sided": int((np.maximum(called, 1 - called) > ONE_SIDE).sum()),
                "called_low": 100 * float(called.min()), "called_high": 100 * float(called.max()),
                "network_balanced": 100 * float(np.mean([(s[truth].mean() + (~s[~truth]).mean()) / 2 for s in singles])),
            }  # fmt: skip
            for metric, values in draws.items():
                row |= with_interval(metric, 100 * values)
                row |= with_interval(f"{metric}_difference", 100 * (values - plain[metric]))
            rows.append(row)
    return rows


def scores(drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """AUROC and balanced accuracy among the metrics of `drawn_scores`."""
    return {"auroc": drawn["auroc"], "balanced": (drawn["sensitivity"] + drawn["specificity"]) / 2}


def write_page(rows: list[dict[str, Any]]) -> None:
    """Put the table between the markers of docs/pretraining.md."""

    def cell(row: Mapping[str, Any], name: str, sign: str = "") -> str:
        return f"{row[name]:{sign}.1f} ({row[f'{name}_low']:{sign}.1f} to {row[f'{name}_high']:{sign}.1f})"

    lines = [
        "| start | fine-tuned networks | AUROC | difference | balanced accuracy | difference | called positive | on one side |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        is_plain = row["variant"] == VARIANTS[0]
        differences = ["ref." if is_plain else cell(row, f"{name}_difference", "+") for name in ("auroc", "balanced")]
        called = f"{row['called_low']:.0f} to {row['called_high']:.0f} %"
        lines.append(
            f"| {STARTS[row['start']]} | {row['variant']} | {cell(row, 'auroc')} | {differences[0]} | {cell(row, 'balanced')} | "
            f"{differences[1]} | {called} | {row['one_sided']} of {row['networks']} |"
        )
    begin, end = "<!-- benchmark: batch_norm -->\n", "<!-- end -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(begin)
    PAGE.write_text(head + begin + "\n".join(lines) + "\n" + rest[rest.index(end) :], encoding="utf-8")


def main() -> None:
    """Train, predict, compare; write benchmarks/results/batch_norm.json and the table of docs/pretraining.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of a finished study with an external set")
    parser.add_argument("--imagenet", type=Path, required=True, help="the weights of its initialisation imagenet")
    parser.add_argument(
        "--starts", nargs="+", choices=STARTS, default=["imagenet", "scratch"], help="default: imagenet scratch"
    )
    parser.add_argument("--work", type=Path, default=Path("tmp/batch_norm"), help="kept predictions and checkpoints")
    parser.add_argument("--processes", type=int, default=1, help="networks at a time (default: 1)")
    arguments = parser.parse_args()

    from workflow_scripts.tables.make_external_table import duplicated_patients

    results, work = arguments.results, arguments.work
    settings = read_json(results / "provenance" / "settings.json")
    jobs: dict[tuple[str, int, int], Any] = {}
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        for start in arguments.starts:
            for seed in settings["seeds"]:
                own = results / "pretraining" / start / repeat_of(seed, settings) / "backbone.safetensors"
                weights = {"imagenet": arguments.imagenet, "scratch": None}.get(start, own)
                for fold in range(settings["folds"]):
                    jobs[start, seed, fold] = pool.submit(run_fold, results, start, weights, seed, fold, work)
        probabilities = {}
        for number, (key, job) in enumerate(jobs.items(), 1):
            probabilities[key] = job.result()
            print(f"{number} of {len(jobs)}", file=sys.stderr, flush=True)
    index = read_csv(external_files(results))
    # The study saw the external patients' pixels where their views are among those without labels.
    was_seen = any(
        set(index["patient_id"]) & set(read_csv(results / "views" / f"{organ}.csv")["patient_id"])
        for organ in settings["data"]["organs"]
    )
    pairs = read_csv(results / "checks" / "near_duplicates.csv")
    left_out = duplicated_patients(pairs, f"external/{external_files(results).stem}", was_seen)
    rows = compared(probabilities, index, left_out, settings["data"]["classes"])
    for row in rows:
        print({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()})
    facts = {
        name: settings["finetuning"]["recipe"][name] for name in ("epochs", "batch_size", "backbone_lr", "head_lr")
    }
    print(
        write_result("batch_norm", rows, backbone=settings["model"]["backbone"], size=settings["data"]["size"], **facts)
    )
    write_page(rows)


if __name__ == "__main__":
    main()
