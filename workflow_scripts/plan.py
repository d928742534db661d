"""Print what a study will cost before it runs, and with --actual what it has cost: GPU hours, wall hours, disk.

  python -m workflow_scripts.plan                                     the config's experiment on the cluster profile's GPUs
  python -m workflow_scripts.plan --gpus l40s=2 rtx2080ti=4           wall hours with that many GPUs at once
  python -m workflow_scripts.plan --configfile demo/config.yaml --profile ""   on this machine, once its jobs have run
  python -m workflow_scripts.plan --actual                            what the finished and unfinished jobs have taken

Until jobs of a stage have run, its GPU hours are guessed from the networks' arithmetic, to a factor of three.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.cli import run, stage_parser
from workflow_scripts.errors import UserError
from workflow_scripts.study.costs import Cost, read_costs


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
        "--gpus", nargs="*", default=[], metavar="MODEL=N", help="GPUs that a run gets at once (default: one job's)"
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
            "\nA try that was killed, or still runs, counts up to the last line of its log. kWh: the GPUs', where nvidia-smi"
            "\nknows, without killed tries. Starts that tables share count in each."
        )
        return
    print(tabulate(planned(config, costs, arguments.profile, arguments.gpus), headers="keys", floatfmt=".2f"))
    print(
        "\nguess: from the networks' arithmetic and a table of throughputs that nobody measured here, to a factor of three."
        "\nwall h: with the GPUs of --gpus, without waiting in the queue; stages overlap where they do not need each other."
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

    from workflow_scripts.study.cost_plan import lines, stages

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


def networks(config: Mapping[str, Any]) -> Any:
    """Count the networks' arithmetic by running them without numbers (meta tensors)."""
    import torch

    from workflow_scripts.diffusion.unet import build_unet
    from workflow_scripts.study.cost_plan import Networks
    from workflow_scripts.training.backbone import create_backbone

    size = config["data"]["size"]
    backbone = create_backbone(config["model"]["backbone"]).to("meta")
    keys = ("base_channels", "channel_multipliers", "residual_blocks", "attention_resolutions", "heads", "dropout")
    unet = build_unet(size, **{key: config["diffusion"]["recipe"][key] for key in keys}).to("meta")
    view, step = torch.zeros(1, 1, size, size, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
    one_pass = _operations(backbone, view.expand(-1, 3, -1, -1))
    # Inception at its own 299 x 299 (a published count), or the study's encoder.
    embedding = 0.0115 if config["embedding"]["network"] == "inception" else one_pass
    return Networks(one_pass, _parameters(backbone), _operations(unet, view, step), _parameters(unet), embedding)


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
        "tries": sum(cost.tries for cost in costs),
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
