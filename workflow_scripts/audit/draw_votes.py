"""Draw the audit's votes: how many views were flagged in at least n of N evaluations.

With --reference-numbers the paper's released counts appear beside them. With --manifest (phantoms, whose true class is
known) the bars are split into right and wrong labels, and the title gives precision and recall of the suspicious views.

    python -m workflow_scripts.audit.draw_votes --votes audit/votes.csv --index views/labelled.csv --reference-numbers \\
        --output-figure figures/audit_votes.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.audit.labels import require_same_views
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "votes index manifest? patient_key?")
    add_outputs(parser, "figure")
    add_parameters(parser, "reference_numbers origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, count, draw."""
    from workflow_scripts.audit.figures import RELEASED_EVALUATIONS, votes_figure
    from workflow_scripts.core.figures import save
    from workflow_scripts.core.files import read_csv

    votes, index = read_csv(arguments.votes, "votes"), read_csv(arguments.index, "index")
    require_same_views(set(votes["view_id"]), set(index["view_id"]), arguments.votes, arguments.index)
    votes = votes.merge(index[["view_id", "image_id"]], on="view_id", validate="1:1")
    evaluations = int(votes["evaluations"].max())
    if evaluations < 1:
        raise UserError(f"{arguments.votes}: no view was evaluated")
    if arguments.reference_numbers and evaluations != RELEASED_EVALUATIONS:
        say(
            f"the paper's counts are left out: they are of {RELEASED_EVALUATIONS} evaluations, these are of {evaluations}"
        )
    wrong = wrong_labels(votes, arguments.manifest, arguments.patient_key) if arguments.manifest else None
    figure = votes_figure(
        votes["votes"].to_numpy(),
        evaluations,
        wrong,
        arguments.reference_numbers,
        headline(votes, wrong),
        arguments.origin,
    )
    save(figure, arguments.output_figure)


def wrong_labels(votes: pd.DataFrame, manifest: Path, key: Path | None = None) -> np.ndarray:
    """Where the label is not the class that was drawn, bool (V,)."""
    from workflow_scripts.study.manifest import true_classes

    return (votes["image_id"].map(true_classes(manifest, votes["image_id"], key)) != votes["label"]).to_numpy()


def headline(votes: pd.DataFrame, wrong: np.ndarray | None) -> list[str]:
    """The title: suspicious views, by class; frames of which only some views are; precision and recall."""
    suspicious = votes["suspicious"].to_numpy() == 1
    by_class = [
        f"{int(rows.sum())} of {len(rows)} {label}" for label, rows in votes["suspicious"].groupby(votes["label"])
    ]
    per_frame = votes["suspicious"].groupby(votes["image_id"]).mean()
    flagged, partly = int((per_frame > 0).sum()), int(((per_frame > 0) & (per_frame < 1)).sum())
    lines = [f"{int(suspicious.sum())} of {len(votes)} views are suspicious ({', '.join(by_class)})"]
    if flagged:
        lines.append(f"They lie on {flagged} frames; {partly} of these have views that are not suspicious")
    if wrong is not None:
        hits = int((suspicious & wrong).sum())
        precision = f"{hits / suspicious.sum():.2f}" if suspicious.any() else "–"
        recall = f"{hits / wrong.sum():.2f}" if wrong.any() else "–"
        lines.append(f"Planted errors: {int(wrong.sum())} views; found with precision {precision}, recall {recall}")
    return lines


if __name__ == "__main__":
    run(main, parser())
