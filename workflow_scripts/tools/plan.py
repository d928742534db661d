"""Print what a study will cost before it runs, and with --actual what it has cost: GPU hours, wall hours, disk.

    python -m workflow_scripts.tools.plan                             the config's study on the cluster profile's GPUs
    python -m workflow_scripts.tools.plan --gpus l40s=2 rtx2080ti=4   wall hours with that many GPUs at once
    python -m workflow_scripts.tools.plan --configfile studies/demo.yaml --profile ""   on this machine, once jobs have run
    python -m workflow_scripts.tools.plan --actual                    what finished and unfinished jobs have taken

The networks' floating-point operations are counted from the config. GPU hours are these over a small table of guessed
throughputs, good to a factor of three; where `make bench-gpu` has measured a stage on the model of GPU, over what it measured;
when jobs of the stage have run, over theirs.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.runtime.costs import Cost, read_costs
from workflow_scripts.study.config.names import TABLES
from workflow_scripts.study.experiments import (
    CANARIES,
    classifier_experiments,
    cohorts,
    experiment_of,
    experiments,
    explained_experiments,
    own_rate,
    pretraining_recipe,
    pretraining_runs,
    repeats,
)

# Sustained tera-operations a second on these networks, not the data sheets': bf16 on an L40S, float32 on a 2080 Ti.
# These are guesses, good to a factor of GUESS, not measurements.
THROUGHPUT = {"l40s": 65.0, "rtx2080ti": 6.0}
GUESS = 3.0
# What `python -m benchmarks.gpu --write-plan` has measured: tera-operations a second by device and stage.
THROUGHPUTS = Path(__file__).with_name("throughputs.json")
# A measured stage can still meet a busier node or disk.
MEASURED = 1.25
NOISE_LEVELS = 8  # at which measure_denoising denoises (diffusion.snapshots.LEVELS, which needs torch)
SECMI_PASSES = 12  # of SecMI, once a view (diffusion.snapshots.STEPS_THERE and two more)
COPY_BATCH = 64  # views per step of the copy audit's networks (privacy.copy_encoder.BATCH, which needs torch)
COPY_CROPS = 24  # pictures of each real view that they embed (privacy.copy_encoder.CROPS, and the whole view)
TRAINING_PASSES = 3  # forward, and twice that backward
SECONDS_PER_START = 30.0  # Snakemake, Python and torch, on a network file system


@dataclass(frozen=True)
class Networks:
    """Tera-operations of a forward pass of one view, of each network, and parameters of backbone and U-Net."""

    backbone: float
    backbone_parameters: int
    unet: float
    unet_parameters: int
    embedding: float
    copy_encoders: float


@dataclass(frozen=True)
class Work:
    """One stage: the tera-operations of each of its jobs, and GB on disk.

    A job's name is what follows the rule's name in the path of its log; empty where the rule has one job.
    """

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
            "train_audit",
            {
                f"{init}_seed{seed}": cross_validation(audit["recipe"]["epochs"])
                for init in audit["initialisations"]
                for seed in seeds
            },
            0.0,
        )
    ]
    pretraining = {}
    for name in pretraining_runs(config):
        recipe = pretraining_recipe(name, config)
        passes = 2 * recipe["steps"] * recipe["batch_size"] * TRAINING_PASSES
        for folder in [f"{repeat}{cohort}" for repeat in repeats(config) for cohort in everywhere]:
            pretraining[f"{name}/{folder}pretrain"] = passes * networks.backbone
    works.append(Work("pretrain", pretraining, len(pretraining) * networks.backbone_parameters * 4 / 1e9))

    diffusion, synthesis = config["diffusion"], config["synthesis"]
    generators = [*everywhere, *([CANARIES] if config["privacy"]["canaries"] else [])]
    if not diffusion["model"] and synthesis["source"] == "generator":
        recipe = diffusion["recipe"]
        passes = recipe["steps"] * recipe["batch_size"] * TRAINING_PASSES
        # The model, and a checkpoint of it with its average and the optimiser's two moments.
        disk = len(generators) * networks.unet_parameters * 4 * (1 + 4) / 1e9
        works.append(Work("train_diffusion", {f"{c}train": passes * networks.unet for c in generators}, disk))
        if diffusion["select"] != "last":
            monitor = diffusion["monitor"]
            snapshots = math.ceil(recipe["steps"] / diffusion["snapshot_every"])
            sampled = snapshots * monitor["images"] * (monitor["steps"] * networks.unet + networks.embedding)
            # Averaged weights of each snapshot.
            kept = len(everywhere) * snapshots * networks.unet_parameters * 4 / 1e9
            works.append(Work("monitor_diffusion", {f"{c}monitor": sampled for c in generators}, kept))
        if config["privacy"]["canaries"]:
            # One more generator, and its snapshots.
            canary = config["privacy"]["canary"]
            snapshots = math.ceil(recipe["steps"] / diffusion["snapshot_every"])
            kept = snapshots * networks.unet_parameters * 4 / 1e9
            works.append(
                Work("audit_canaries", {"": snapshots * canary["images"] * canary["steps"] * networks.unet}, kept)
            )
    per_shard = synthesis["images"] / synthesis["shards"] * synthesis["recipe"]["steps"] * networks.unet
    shards = {f"{cohort}{shard}": per_shard for cohort in everywhere for shard in range(synthesis["shards"])}
    # Shards, the joined set and what the filter keeps of it.
    if synthesis["source"] == "folder":
        shards = {}
    works.append(Work("sample_shard", shards, 3 * len(everywhere) * synthesis["images"] * size**2 / 1e9))
    embedded = (labelled + synthesis["images"]) * networks.embedding
    passes = NOISE_LEVELS * config["manifold"]["privacy"]["noises"] + SECMI_PASSES
    denoised = labelled * passes * networks.unet
    if diffusion["holdout_patients"]:
        works.append(Work("measure_denoising", {f"{cohort}denoising": denoised for cohort in everywhere}, 0.0))
    works.append(Work("embed", {f"{cohort}embed": embedded for cohort in everywhere}, 0.0))
    # Two views of each image of a batch, and of each embedded view also its mirror image.
    learnt = config["manifold"]["privacy"]["encoder_steps"] * min(COPY_BATCH, labelled) * TRAINING_PASSES
    copies = 2 * (learnt + COPY_CROPS * labelled + synthesis["images"]) * networks.copy_encoders
    works.append(Work("embed_copies", {f"{cohort}embed": copies for cohort in everywhere}, 0.0))

    tuned = [name for name, experiment in experiments(config).items() if experiment.is_trained]
    epochs = config["finetuning"]["recipe"]["epochs"]
    # A trial learns fewer patients than a training, and tests the others: as much, nearly.
    trials = {name: len(own_rate(experiments(config)[name], config).get("factors", [])) for name in tuned}
    jobs = {f"{name}/seed{seed}": (1 + trials[name]) * cross_validation(epochs) for name in tuned for seed in seeds}
    works.append(Work("finetune", jobs, len(jobs) * folds * networks.backbone_parameters * 4 / 1e9))
    probed = [name for name, experiment in experiments(config).items() if experiment.is_probe]
    # At most: a file of weights that several seeds and folds share is embedded once.
    works.append(Work("probe", {name: len(seeds) * folds * labelled * networks.backbone for name in probed}, 0.0))
    shown = {experiment_of(row, config).name for table in TABLES for row in config["tables"][table]["rows"]}
    # A set whose views are not cut yet is taken to be as large as the study.
    predicted = {
        f"{external}/{name}": len(seeds) * folds * views.get(f"external/{external}", labelled) * networks.backbone
        for external in config["external"] for name in tuned if name in shown
    }  # fmt: skip
    works.append(Work("predict_external", predicted, 0.0))
    if arms := explained_experiments(config):
        # The test views of a fold, with and without markers: probabilities, and heat maps from gradients.
        explained = len(arms) * labelled / folds * 2 * (1 + TRAINING_PASSES) * networks.backbone
        works.append(Work("explain", {"": explained}, 0.0))
    if classifier_experiments(config):
        # Every view by every network, each of which is kept as PyTorch's and as ONNX.
        members = len(seeds) * folds
        packed = 2 * members * networks.backbone_parameters * 4 / 1e9
        works.append(Work("pack_classifier", {"": members * labelled * networks.backbone}, packed))
    return works


def lines(
    works: Iterable[Work], resources: Mapping[str, Mapping[str, Any]], costs: Sequence[Cost], gpus: Mapping[str, int]
) -> list[Line]:
    """The plan; `resources` are the profile's per rule, `gpus` how many GPUs of a model a run gets at once."""
    return [_line(work, resources.get(work.rule, {}), costs, gpus) for work in works if work.jobs]


def _line(work: Work, asked: Mapping[str, Any], costs: Sequence[Cost], gpus: Mapping[str, int]) -> Line:
    # A constraint may name several features that will do: the first is planned with.
    feature = str(asked.get("constraint", "")).strip("'").partition("|")[0]
    model, each = str(asked.get("gpu_model", feature)), int(asked.get("gpu", 1))
    speeds, device = _measured(work, costs, model)
    if speeds:
        # All the operations over all the seconds, so that long jobs count for more than short ones.
        speed = sum(done for done, _ in speeds) / sum(seconds for _, seconds in speeds)
        rates = [done / seconds for done, seconds in speeds]
        slow, fast = min(*rates, speed / MEASURED), max(*rates, speed * MEASURED)
        source = f"{len(speeds)} jobs measured on {device}"
    elif benchmarked := _benchmarked(work.rule, model):
        speed, device = benchmarked
        slow, fast, source = speed / MEASURED, speed * MEASURED, f"benchmark on {device}"
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


def _benchmarked(stage: str, model: str) -> tuple[float, str] | None:
    """Tera-operations a second of a stage on a model of GPU, and the device's own name, where they have been measured."""
    table: dict[str, dict[str, float]] = json.loads(THROUGHPUTS.read_text(encoding="utf-8"))
    found = [
        (speeds[stage], device)
        for device, speeds in table.items()
        if model and _same_model(model, device) and stage in speeds
    ]
    return found[0] if found else None


def _same_model(model: str, device: str) -> bool:
    """Whether `rtx2080ti` is `NVIDIA GeForce RTX 2080 Ti`."""
    plain = re.sub("[^a-z0-9]", "", device.lower())
    return re.sub("[^a-z0-9]", "", model.lower()) in plain


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--configfile", type=Path, nargs="*", default=[], help="config changes, as Snakemake takes them"
    )
    parser.add_argument(
        "--profile",
        default="slurm/config.yaml",
        help='profile that names the GPUs; "" for this machine (default: slurm)',
    )
    parser.add_argument(
        "--gpus",
        nargs="*",
        default=[],
        metavar="MODEL=N",
        help="GPUs that a run gets at once (default: those of one job)",
    )
    parser.add_argument("--actual", action="store_true", help="what has been spent, per stage and per table")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Print to stdout."""
    from tabulate import tabulate

    config = read_config([Path("config.yaml"), *arguments.configfile])
    costs = read_costs(Path(config["results"]) / "logs")
    if arguments.actual:
        if not costs:
            raise UserError(f"{config['results']}/logs holds no costs yet; run the workflow first")
        print(tabulate(spent(costs), headers="keys", floatfmt=".3f", missingval="-"))
        print()
        print(tabulate(spent_by_table(costs, config), headers="keys", floatfmt=".3f", missingval="-"))
        print(
            "\nAn attempt that was killed, or still runs, counts up to the last line of its log. kWh: of the GPUs, where"
            "\nnvidia-smi reports it, without killed attempts. Starts that tables share count in each."
        )
        return
    print(tabulate(planned(config, costs, arguments.profile, arguments.gpus), headers="keys", floatfmt=".2f"))
    print(
        "\nguess: from the networks' arithmetic and a table of throughputs that were not measured here, to a factor of three."
        "\nbenchmark: the same with throughputs that `make bench-gpu` measured."
        "\nwall h: with the GPUs of --gpus, without waiting in the queue; independent stages overlap."
        "\nNot counted: CPU stages (minutes each), and views, tables and figures on disk (below 10 GB)."
    )


def read_config(files: Sequence[Path]) -> dict[str, Any]:
    """The validated config, later files over earlier ones, as Snakemake merges them."""
    import yaml

    from workflow_scripts.study.config import load_config

    merged: dict[str, Any] = {}
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} does not exist; start this from the repository's folder")
        _lay_over(merged, yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return load_config(merged, list(files))


def planned(
    config: Mapping[str, Any], costs: Sequence[Cost], profile: str, gpus: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of the plan, the total last."""
    import yaml

    resources: dict[str, Any] = {}
    if profile:
        file = Path(profile) if Path(profile).suffix else Path(profile, "config.yaml")
        if not file.is_file():
            raise UserError(f"{file} does not exist; --profile names the cluster profile")
        resources = yaml.safe_load(file.read_text(encoding="utf-8"))["set-resources"]
    rows = []
    for line in lines(stages(config, count_views(config), networks(config)), resources, costs, _counts(gpus)):
        low, hours, high = line.gpu_hours
        rows.append(
            {
                "stage": line.rule, "jobs": line.jobs, "GPU": line.device, "GPU h": hours, "from": low, "to": high,
                "longest job h": line.longest_hours, "wall h": line.wall_hours, "disk GB": line.disk_gb, "by": line.source,
            }
        )  # fmt: skip
    added = ("jobs", "GPU h", "from", "to", "disk GB")
    return [*rows, {"stage": "all", **{key: sum(row[key] for row in rows) for key in added}}]


def spent(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """What each stage has taken, the total last."""
    groups: dict[str, list[Cost]] = defaultdict(list)
    for cost in costs:
        groups[cost.stage].append(cost)
    rows = [_spent(stage, group) for stage, group in sorted(groups.items())]
    return [*rows, _spent("all", costs)]


def spent_by_table(costs: Sequence[Cost], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the rows of each table have taken: their fine-tunings, and the pretraining that they start from."""
    from workflow_scripts.study.config.names import TABLES
    from workflow_scripts.study.experiments import experiment_of

    rows = []
    for table in TABLES:
        shown = [experiment_of(row, config) for row in config["tables"][table]["rows"]]
        jobs = {f"finetune/{experiment.name}/" for experiment in shown}
        jobs |= {f"pretrain/{experiment.init}/" for experiment in shown}
        group = [cost for cost in costs if any(cost.job.startswith(job) for job in jobs)]
        if group:
            rows.append(_spent(table, group))
    return rows


def count_views(config: Mapping[str, Any]) -> dict[str, int]:
    """Views of each real set, from the manifest and the crop profiles; clips and found boxes may give more."""
    from workflow_scripts.study.config.names import LABELLED_SET
    from workflow_scripts.study.manifest import load_manifest

    counts: dict[str, int] = defaultdict(int)
    for row in load_manifest(config["data"]["manifest"], config["data"]):
        profile = config["data"]["crop_profiles"][row["device"]]
        counts[LABELLED_SET if row["label"] else row["organ"]] += len(profile.get("boxes") or [None])
    return counts


def networks(config: Mapping[str, Any]) -> Networks:
    """Count the networks' operations by a forward pass on meta tensors, which computes no numbers."""
    import torch

    from workflow_scripts.diffusion.unet import build_unet
    from workflow_scripts.networks.backbone import create_backbone
    from workflow_scripts.privacy.copy_encoder import TRAININGS

    size = config["data"]["size"]
    backbone = create_backbone(config["model"]["backbone"], side=size).to("meta")
    keys = ("base_channels", "channel_multipliers", "residual_blocks", "attention_resolutions", "heads", "dropout")
    unet = build_unet(size, **{key: config["diffusion"]["recipe"][key] for key in keys}).to("meta")
    view, step = torch.zeros(1, 1, size, size, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
    one_pass = _operations(backbone, view.expand(-1, 3, -1, -1))
    # Inception at its own 299 x 299 (a published count), or the study's encoder.
    embedding = 0.0115 if config["embedding"]["network"] == "inception" else one_pass
    copies = sum(
        _operations(training.encoder().to("meta"), torch.zeros(1, 1, side, side, device="meta"))
        for training in TRAININGS.values()
        for side in [min(training.encoder.side, size)]
    )
    return Networks(
        one_pass, _parameters(backbone), _operations(unet, view, step), _parameters(unet), embedding, copies
    )


def _operations(network: Any, *inputs: Any) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(*inputs)
    return counter.get_total_flops() / 1e12


def _parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _spent(name: str, costs: Sequence[Cost]) -> dict[str, Any]:
    energy = [cost.watt_hours for cost in costs if not math.isnan(cost.watt_hours)]
    return {
        "what": name,
        "jobs": len(costs),
        "finished": sum(cost.finished for cost in costs),
        "attempts": sum(cost.tries for cost in costs),
        "hours": math.fsum(cost.seconds for cost in costs) / 3600,
        "GPU h": math.fsum(cost.gpu_seconds for cost in costs) / 3600,
        "kWh": math.fsum(energy) / 1000 if energy else None,
        "peak GiB": max(cost.peak_mib for cost in costs) / 1024,
        "device": ", ".join(sorted({cost.device for cost in costs})),
    }


def _counts(words: Sequence[str]) -> dict[str, int]:
    counts = {}
    for word in words:
        model, _, count = word.partition("=")
        if not count.isdigit() or int(count) == 0:
            raise UserError(f"--gpus {word}: expected MODEL=N, for example l40s=2")
        counts[model] = int(count)
    return counts


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


if __name__ == "__main__":
    run(main, parser())
