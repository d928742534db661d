"""Choose the patients that the diffusion model never sees.

The privacy audit compares the distances of synthetic views to seen and to unseen patients; without the latter, copies cannot
be distinguished from mere similarity.

    python -m workflow_scripts.diffusion.hold_out_patients --index views/labelled.csv --share 0.15 --seed 0 \\
        --output-holdout diffusion/holdout.csv
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.core.randomness import philox
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


def choose_holdout(labels: Mapping[str, str], share: float, seed: int) -> list[str]:
    """Sorted patients, `share` of them (at least one if it is above 0), in proportion to their labels.

    labels: each patient's stratum, any text. A function of (labels, share, seed).
    """
    if not 0 <= share <= 0.5:
        raise UserError(f"the held-out share must be between 0 and 0.5, not {share}")
    if share == 0:
        return []
    if len(labels) < 2:
        raise UserError(f"{len(labels)} patients: at least two are needed to hold one out; set holdout_patients to 0")
    strata: dict[str, list[str]] = {}
    for patient in sorted(labels):
        strata.setdefault(labels[patient], []).append(patient)
    total = max(1, math.floor(share * len(labels) + 0.5))
    # Largest remainders: whole quotas first, then one more where most is missing.
    quotas = {label: total * len(patients) / len(labels) for label, patients in strata.items()}
    counts = {label: math.floor(quota) for label, quota in quotas.items()}
    missing = sorted(strata, key=lambda label: (counts[label] - quotas[label], label))
    for label in missing[: total - sum(counts.values())]:
        counts[label] += 1
    chosen = []
    for label, patients in strata.items():
        order = philox(seed, f"holdout/{label}").permutation(len(patients))
        chosen += [patients[position] for position in order[: counts[label]]]
    return sorted(chosen)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "index folds?")
    add_outputs(parser, "holdout")
    add_parameters(parser, "share seed exclude_fold")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read the index, choose, write."""
    from workflow_scripts.core.files import read_csv, write_rows
    from workflow_scripts.study.patients import real_masks

    index = read_csv(arguments.index, "index")
    nameless = index.index[index["patient_id"] == ""]
    if len(nameless):
        raise UserError(f"{arguments.index}: row {nameless[0] + 2} has no patient_id; every labelled view needs one")
    available = index[real_masks(index, None, arguments.folds, arguments.exclude_fold)[0]]
    # A patient's stratum is the set of the labels of their views, since the two sides may differ.
    labels = {
        str(patient): "+".join(sorted(set(group["label"])))
        for patient, group in available.groupby("patient_id", sort=True)
    }
    chosen = choose_holdout(labels, arguments.share, arguments.seed)
    views = int(available["patient_id"].isin(chosen).sum())
    say(f"held out: {len(chosen)} of {len(labels)} patients, {views} of {len(available)} views")
    write_rows([{"patient_id": patient} for patient in chosen], ("patient_id",), arguments.output_holdout)


if __name__ == "__main__":
    run(main, parser())
