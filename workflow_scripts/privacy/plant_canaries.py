"""Mark training views with canaries, for a training run of the generator that is never released.

Of `--canaries` patients whom the generator learns from, one view each carries a code of its own; as many codes are drawn and
kept out. Writes all views with the marked ones in their places, and per code `canary, planted, view_id, patient_id, row,
column`: a code that is kept out has a place and no view. The labels and all other pixels stay.

    python -m workflow_scripts.privacy.plant_canaries --views views/labelled.npy --index views/labelled.csv \\
        --holdout diffusion/canaries/holdout.csv --canaries 20 --seed 0 --output-views canaries/views.npy \\
        --output-planted canaries/planted.csv
"""

from __future__ import annotations

import argparse

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views index holdout")
    add_outputs(parser, "views planted")
    add_parameters(parser, "canaries seed")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw, mark, write."""
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.files import write_csv, write_npy
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.privacy.canaries import choose_patients, draw_canaries, marked
    from workflow_scripts.study.patients import real_masks

    count, seed = arguments.canaries, arguments.seed
    if count < 1:
        raise UserError(f"--canaries {count} must be at least 1")
    store = ViewStore.open(arguments.views, arguments.index)
    training, _ = real_masks(store.index, arguments.holdout, None, None)
    rows = np.flatnonzero(training)
    rows = rows[choose_patients(store.patients[rows], count, seed)]
    canaries = draw_canaries(seed, 2 * count, store.side)
    views = np.array(store.pixels)
    for row, code, place in zip(rows, canaries.codes[:count], canaries.places[:count], strict=True):
        views[row] = marked(views[row], code, place)
    none = [""] * count
    table = pd.DataFrame({
        "canary": np.arange(2 * count),
        "planted": np.repeat([1, 0], count),
        "view_id": [*store.index["view_id"].to_numpy()[rows], *none],
        "patient_id": [*store.patients[rows], *none],
        "row": canaries.places[:, 0],
        "column": canaries.places[:, 1],
    })  # fmt: skip
    say(f"{count} of {len(set(store.patients[training]))} patients carry a canary, {count} more are kept out")
    write_npy(views, arguments.output_views)
    write_csv(table, arguments.output_planted)


if __name__ == "__main__":
    run(main, parser())
