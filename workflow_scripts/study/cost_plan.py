"""What a study will cost: arithmetic of every training, the throughput of GPUs, and what was measured instead.

The arithmetic is counted from the config (floating-point operations of the networks times the views that pass). Throughputs
are a small table of round guesses until jobs of this study have run: then a stage's measured throughput takes its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_scripts.study.cohorts import cohorts
from workflow_scripts.study.costs import Cost
from workflow_scripts.study.experiments import experiments, pretraining_recipe, pretraining_runs, repeats

# Sustained tera-operations a second on these networks, not the data sheets': bf16 on an L40S, float32 on a 2080 Ti.
# Guesses, good to a factor of GUESS; nothing here was measured.
THROUGHPUT = {"l40s": 65.0, "rtx2080ti": 6.0}
GUESS = 3.0
# A measured stage can still meet a busier node or disk.
MEASURED = 1.25
NOISE_LEVELS = 8  # at which the privacy audit denoises (diffusion.snapshots.LEVELS, which needs torch)
TRAINING_PASSES = 3  # forward, and twice that backward
SECONDS_PER_START = 30.0  # Snakemake, Python and torch, on a network file system


@dataclass(frozen=True)
class Networks:
    """Tera-operations of one forward pass of one view, and parameters: backbone, U-Net, embedding network."""

    backbone: float
    backbone_parameters: int
    unet: float
    unet_parameters: int
    embedding: float


@dataclass(frozen=True)
class Work:
    """One stage: the tera-operations of each of its jobs by name (as in its log's path), and GB on disk."""

    rule: str
    jobs: Mapping[str, float]
    disk_gb: float


@dataclass(frozen=True)
class Line:
    """A stage's plan: GPU hours with their range, hours of its longest job, wall hours, and where the numbers are from."""

    rule: str
    jobs: int
    device: str
    gpu_hours: tuple[float, float, float]
    longest_hours: float
    wall_hours: float
    disk_gb: float
    source: str


def stages(config: Mapping[str, Any], views: Mapping[str, int], networks: Networks) -> list[Work]:
    """The GPU stages of a study; `views` counts the views of each real set."""
    size, labelled, seeds, folds = config["data"]["size"], views["labelled"], config["seeds"], config["folds"]
    everywhere = cohorts(config)

    def cross_validation(epochs: int) -> float:
        # Every view is trained on by all folds but one, and predicted once.
        passes = labelled * ((folds - 1) * epochs * TRAINING_PASSES + 1)
        return passes * networks.backbone

    audit = config["audit"]
    works = [
        Work(
            "audit_train",
            {
                f"{init}_seed{seed}": cross_validation(audit["recipe"]["epochs"])
                for init in audit["initialisations"]
                for seed in seeds
            },
            0.0,
        )
    ]
    pretraining = {}
    for run in pretraining_runs(config):
        recipe = pretraining_recipe(run, config)
        passes = 2 * recipe["steps"] * recipe["batch_size"] * TRAINING_PASSES
        for folder in [f"{repeat}{cohort}" for repeat in repeats(config) for cohort in everywhere]:
            pretraining[f"{run}/{folder}pretrain"] = passes * networks.backbone
    works.append(Work("pretrain", pretraining, len(pretraining) * networks.backbone_parameters * 4 / 1e9))

    diffusion, synthesis = config["diffusion"], config["synthesis"]
    if not diffusion["model"]:
        recipe = diffusion["recipe"]
        passes = recipe["steps"] * recipe["batch_size"] * TRAINING_PASSES
        # The model, and a checkpoint of it with its average and the optimiser's two moments.
        disk = len(everywhere) * networks.unet_parameters * 4 * (1 + 4) / 1e9
        works.append(Work("train_diffusion", {f"{c}train": passes * networks.unet for c in everywhere}, disk))
        if diffusion["select"] != "last":
            monitor = diffusion["monitor"]
            snapshots = math.ceil(recipe["steps"] / diffusion["snapshot_every"])
            sampled = snapshots * monitor["images"] * (monitor["steps"] * networks.unet + networks.embedding)
            # Averaged weights of each snapshot.
            kept = len(everywhere) * snapshots * networks.unet_parameters * 4 / 1e9
            works.append(Work("monitor_diffusion", {f"{c}monitor": sampled for c in everywhere}, kept))
    per_shard = synthesis["images"] / synthesis["shards"] * synthesis["recipe"]["steps"] * networks.unet
    shards = {f"{cohort}{shard}": per_shard for cohort in everywhere for shard in range(synthesis["shards"])}
    # Shards, the joined set and what the filter keeps of it.
    works.append(Work("sample_shard", shards, 3 * len(everywhere) * synthesis["images"] * size**2 / 1e9))
    embedded = (labelled + synthesis["images"]) * networks.embedding
    denoised = labelled * NOISE_LEVELS * config["manifold"]["privacy"]["noises"] * networks.unet
    works.append(Work("denoising_errors", {f"{cohort}denoising": denoised for cohort in everywhere}, 0.0))
    works.append(Work("embed", {f"{cohort}embed": embedded for cohort in everywhere}, 0.0))

    tuned = [name for name, experiment in experiments(config).items() if not experiment.is_baseline]
    epochs = config["finetuning"]["recipe"]["epochs"]
    jobs = {f"{name}/seed{seed}": cross_validation(epochs) for name in tuned for seed in seeds}
    works.append(Work("finetune", jobs, len(jobs) * folds * networks.backbone_parameters * 4 / 1e9))
    return works


def lines(
    works: Iterable[Work], resources: Mapping[str, Mapping[str, Any]], costs: Sequence[Cost], gpus: Mapping[str, int]
) -> list[Line]:
    """The plan; `resources` are the profile's per rule, `gpus` how many GPUs of a model a run gets at once."""
    return [_line(work, resources.get(work.rule, {}), costs, gpus) for work in works if work.jobs]


def _line(work: Work, asked: Mapping[str, Any], costs: Sequence[Cost], gpus: Mapping[str, int]) -> Line:
    model, each = str(asked.get("gpu_model", "")), int(asked.get("gpu", 1))
    speeds, device = _measured(work, costs, model)
    if speeds:
        # By all the operations and all the seconds, as a long job tells more than a short one.
        speed = sum(done for done, _ in speeds) / sum(seconds for _, seconds in speeds)
        rates = [done / seconds for done, seconds in speeds]
        slow, fast = min(*rates, speed / MEASURED), max(*rates, speed * MEASURED)
        source = f"{len(speeds)} jobs measured on {device}"
    elif model in THROUGHPUT:
        speed = THROUGHPUT[model]
        slow, fast, source = speed / GUESS, speed * GUESS, "guess"
    else:
        return Line(
            work.rule, len(work.jobs), model or "?", (math.nan,) * 3, math.nan, math.nan, work.disk_gb, "nothing"
        )
    start = 0.0 if speeds else SECONDS_PER_START * each  # a measured job's start is in its seconds
    total, count = sum(work.jobs.values()), len(work.jobs)
    hours, low, high = ((total / rate + count * start) / 3600 for rate in (speed, fast, slow))
    longest = (max(work.jobs.values()) / speed + start) / 3600 / each
    at_once = max(1, gpus.get(model, 1) // each)
    wall = max(longest, hours / each / min(at_once, count))
    return Line(work.rule, count, model or device, (low, hours, high), longest, wall, work.disk_gb, source)


def _measured(work: Work, costs: Sequence[Cost], model: str) -> tuple[list[tuple[float, float]], str]:
    """(tera-operations, GPU seconds) of this stage's finished jobs on that model of GPU, and the device's own name."""
    chosen = [
        cost
        for cost in costs
        if cost.stage == work.rule and cost.last_seconds > 0 and (not model or _same_model(model, cost.device))
        if cost.job.partition("/")[2] in work.jobs
    ]
    pairs = [(work.jobs[cost.job.partition("/")[2]], cost.last_seconds) for cost in chosen]
    return pairs, chosen[-1].device if chosen else ""


def _same_model(model: str, device: str) -> bool:
    """Whether `rtx2080ti` is `NVIDIA GeForce RTX 2080 Ti`."""
    plain = re.sub("[^a-z0-9]", "", device.lower())
    return re.sub("[^a-z0-9]", "", model.lower()) in plain
