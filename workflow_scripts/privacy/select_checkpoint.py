"""Write the model folder with the weights of the snapshot that the rule `diffusion.select` chooses.

`last` takes the trained model as it is, without its snapshots, and needs no measures. Files are linked where the file
system has hard links, and copied elsewhere.

    python -m workflow_scripts.privacy.select_checkpoint --model diffusion/trained --measures diffusion/monitor.csv \\
        --select best --output-model diffusion/model
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import atomic_directory, read_json, write_json, write_text
from workflow_scripts.core.log import say
from workflow_scripts.privacy.selection import choose, read_measures
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

MARKER, WEIGHTS = "model_index.json", Path("unet", "diffusion_pytorch_model.safetensors")
# Snakemake's time stamp belongs to the one folder: it must not be shared by a link.
LEFT_OUT = ("snapshots", ".snakemake_timestamp")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "model measures?")
    add_outputs(parser, "model")
    add_parameters(parser, "select")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Choose, link."""
    trained, output = arguments.model, arguments.output_model
    if output.exists() and not (output / MARKER).is_file():
        raise UserError(f"{output} exists and is not a diffusion model; name another --output-model or move it away")
    if arguments.select == "last":
        say("the last weights of the training run")
        with atomic_directory(output) as folder:
            link_model(trained, trained / WEIGHTS, folder)
        return

    if arguments.measures is None:
        raise UserError(f"--select {arguments.select} needs the measures of the snapshots (--measures)")
    rows = read_measures(arguments.measures)
    step, reason = choose(rows, arguments.select)
    parameters = read_json(trained / "parameters.json")
    weights = trained / WEIGHTS
    if step != parameters["settings"]["steps"]:
        weights = trained / "snapshots" / f"step_{step:07d}.safetensors"
    if not weights.is_file():
        raise UserError(f"{arguments.measures} names step {step}, and {trained} has no such snapshot")
    say(f"step {step} of {parameters['settings']['steps']}: {reason}")
    measures = next(row for row in rows if row["step"] == step)
    chosen: dict[str, Any] = {"select": arguments.select, "step": step, "reason": reason, "measures": measures}
    card = (trained / "README.md").read_text(encoding="utf-8")
    with atomic_directory(output) as folder:
        link_model(trained, weights, folder)
        write_json({**parameters, "checkpoint": chosen}, folder / "parameters.json")
        write_text(f"{card}\nThe weights are those of step {step}: {reason}.\n", folder / "README.md")


def link_model(trained: Path, weights: Path, folder: Path) -> None:
    """Put a trained model with other `weights` into an existing, empty folder."""
    others = shutil.ignore_patterns(*LEFT_OUT, WEIGHTS.name)
    shutil.copytree(trained, folder, dirs_exist_ok=True, ignore=others, copy_function=link_or_copy)
    link_or_copy(weights, folder / WEIGHTS)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


if __name__ == "__main__":
    run(main, parser())
