"""Write the manifest of a phantom study, whose frames draw_phantoms draws.

python -m workflow_scripts.data.make_phantom_manifest --labelled-patients 48 --output-manifest data_manifest.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.arguments import add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_outputs(parser, "manifest")
    add_parameters(parser, "seed")
    study = parser.add_argument_group("study")
    study.add_argument("--labelled-patients", type=int, default=48, help="patients, two testicles each (default: 48)")
    study.add_argument("--unlabelled-testicles", type=int, default=40, help="frames without label (default: 40)")
    study.add_argument("--thyroids", type=int, default=80, help="frames of the second organ (default: 80)")
    study.add_argument("--positive-share", type=float, default=0.2, help="share of positive testicles (default: 0.2)")
    study.add_argument("--wrong-labels", type=float, default=0.08, help="share of labels planted wrong (default: 0.08)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Plan the study and write its rows."""
    from workflow_scripts.core.files import write_rows
    from workflow_scripts.data.phantom import manifest_rows

    for name in ("positive_share", "wrong_labels"):
        if not 0 <= (value := getattr(arguments, name)) <= 1:
            raise UserError(f"--{name.replace('_', '-')} {value} is not within 0 and 1")
    for name, least in (("labelled_patients", 1), ("unlabelled_testicles", 0), ("thyroids", 0)):
        if (value := getattr(arguments, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least {least}")
    rows = manifest_rows(
        arguments.seed, arguments.labelled_patients, arguments.unlabelled_testicles, arguments.thyroids,
        arguments.positive_share, arguments.wrong_labels, ("testicle", "thyroid"), ("homogeneous", "inhomogeneous"),
    )  # fmt: skip
    write_rows(rows, list(rows[0]), arguments.output_manifest)


if __name__ == "__main__":
    run(main, parser())
