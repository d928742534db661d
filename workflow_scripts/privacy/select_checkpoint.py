"""Write the model folder with the weights of the snapshot that the rule `diffusion.select` chooses.

    python -m workflow_scripts.privacy.select_checkpoint --model diffusion/trained --measures diffusion/monitor.csv \\
        --select best --output diffusion/model
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.privacy.selection import RULES, choose, read_measures
from workflow_scripts.runtime.cli import run, stage_parser

MARKER, WEIGHTS = "model_index.json", Path("unet", "diffusion_pytorch_model.safetensors")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the training's folder, with its `snapshots`")
    parser.add_argument("--measures", type=Path, required=True, help="CSV of monitor_diffusion")
    parser.add_argument("--select", choices=RULES, required=True, help="the rule that chooses")
    parser.add_argument("--output", type=Path, required=True, help="folder of the chosen model")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Choose, copy."""
    from workflow_scripts.core.files import atomic_directory, read_json, write_json, write_text

    if arguments.output.exists() and not (arguments.output / MARKER).is_file():
        raise UserError(f"{arguments.output} exists and is no diffusion model; name another --output or move it away")
    rows = read_measures(arguments.measures)
    step, reason = choose(rows, arguments.select)
    parameters = read_json(arguments.model / "parameters.json")
    weights = arguments.model / WEIGHTS
    if step != parameters["settings"]["steps"]:
        weights = arguments.model / "snapshots" / f"step_{step:07d}.safetensors"
    if not weights.is_file():
        raise UserError(f"{arguments.measures} names step {step}, and {arguments.model} has no such snapshot")
    say(f"step {step} of {parameters['settings']['steps']}: {reason}")
    measures = next(row for row in rows if row["step"] == step)
    chosen = {"select": arguments.select, "step": step, "reason": reason, "measures": measures}
    card = (arguments.model / "README.md").read_text(encoding="utf-8")
    with atomic_directory(arguments.output) as folder:
        others = shutil.ignore_patterns("snapshots", WEIGHTS.name)
        shutil.copytree(arguments.model, folder, dirs_exist_ok=True, ignore=others)
        shutil.copyfile(weights, folder / WEIGHTS)
        write_json({**parameters, "checkpoint": chosen}, folder / "parameters.json")
        write_text(f"{card}\nThe weights are those of step {step}: {reason}.\n", folder / "README.md")


if __name__ == "__main__":
    run(main, parser())
