"""Choose the patients that the diffusion model never sees; copies can only be told from likeness with their help.

python -m workflow_scripts.holdout --index views/labelled.csv --share 0.15 --seed 0 --output diffusion/holdout.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.cli import run, say, stage_parser
from workflow_scripts.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--index", type=Path, required=True, help="CSV index of the labelled views")
    parser.add_argument("--share", type=float, required=True, help="share of the patients to hold out, 0 to 0.5")
    parser.add_argument("--seed", type=int, required=True, help="seed of the choice")
    parser.add_argument(
        "--folds", type=Path, nargs="?", help="CSV of the folds (view_id, patient_id, fold), with --exclude-fold"
    )
    parser.add_argument("--exclude-fold", type=int, help="leave this fold's patients out of everything")
    parser.add_argument("--output", type=Path, required=True, help="CSV patient_id")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the index, choose, write."""
    from workflow_scripts.diffusion.holdout import choose_holdout
    from workflow_scripts.files import read_csv, write_rows
    from workflow_scripts.study.patients import real_masks

    index = read_csv(arguments.index)
    nameless = index.index[index["patient_id"] == ""]
    if len(nameless):
        raise UserError(f"{arguments.index}: row {nameless[0] + 2} has no patient_id; every labelled view needs one")
    available = index[real_masks(index, None, arguments.folds, arguments.exclude_fold)[0]]
    # A patient's stratum is the set of labels of the views: two testicles may differ.
    labels = {
        str(patient): "+".join(sorted(set(group["label"])))
        for patient, group in available.groupby("patient_id", sort=True)
    }
    chosen = choose_holdout(labels, arguments.share, arguments.seed)
    views = int(available["patient_id"].isin(chosen).sum())
    say(f"held out: {len(chosen)} of {len(labels)} patients, {views} of {len(available)} views")
    write_rows([{"patient_id": patient} for patient in chosen], ("patient_id",), arguments.output)


if __name__ == "__main__":
    run(main, parser())
