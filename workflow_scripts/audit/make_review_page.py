"""Make the label audit's review page: one HTML file on which a clinician decides the doubtful views (paper, Sec. 3).

It opens in any browser, needs no network, and gives decisions.csv for the label policy `reviewed`. Blind, the reader
says which class she sees, without label or votes, in random order and with unsuspicious controls mixed in; whether
that keeps or flips the label follows from it. Open, the label and votes are shown and she keeps or flips.

    python -m workflow_scripts.audit.make_review_page --votes audit/votes.csv --losses audit/imagenet_seed0.csv \\
        --views views/labelled.npy --index views/labelled.csv --classes homogeneous inhomogeneous --output-page review.html
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.core.pages import png
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from workflow_scripts.core.store import ViewStore


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "votes losses+ views index")
    add_outputs(parser, "page")
    add_parameters(parser, "classes threshold mode controls seed origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, choose, write the page."""
    from workflow_scripts.audit.review import choose_cards, ordered, review_html, trajectories
    from workflow_scripts.core.files import read_csv, write_text
    from workflow_scripts.core.store import ViewStore
    from workflow_scripts.study.patients import numbered_organ_sides

    if arguments.controls < 0:
        raise UserError(f"--controls {arguments.controls}: it must not be negative")
    store = ViewStore.open(arguments.views, arguments.index)
    index = store.index
    votes = checked_votes(read_csv(arguments.votes, "votes"), index, arguments)
    curves = trajectories(read_csv(path, "losses") for path in arguments.losses)
    mean_loss = curves.groupby("view_id")["mean"].mean()
    organ_side = numbered_organ_sides(index)
    votes["organ_side"] = votes["view_id"].map(dict(zip(index["view_id"], organ_side, strict=True)))
    cards = choose_cards(votes, mean_loss, arguments.controls, arguments.seed)
    if cards.empty:
        raise UserError(f"{arguments.votes}: no view was evaluated, so that there is no view to review")
    cards = ordered(cards, arguments.mode, mean_loss, arguments.seed)
    study = contents(cards, curves, store, organ_side.to_numpy(), arguments)
    write_text(review_html(study), arguments.output_page)
    counts = ", ".join(f"{count} {group}" for group, count in cards["group"].value_counts().items())
    say(
        f"{len(cards)} views to read ({counts}), {arguments.mode}; {arguments.output_page.stat().st_size / 2**20:.1f} MiB"
    )


def checked_votes(votes: pd.DataFrame, index: pd.DataFrame, arguments: argparse.Namespace) -> pd.DataFrame:
    """`votes`, of views that `index` has and with labels that are classes; else `UserError`."""
    unknown = sorted(set(votes["view_id"]) - set(index["view_id"]))
    if unknown:
        raise UserError(
            f"{arguments.votes}: {len(unknown)} of its views are not in {arguments.index}, for example {unknown[0]}; "
            "one of the two is out of date"
        )
    wrong = votes[~votes["label"].isin(arguments.classes)]
    if len(wrong):
        raise UserError(
            f"{arguments.votes}: {wrong['view_id'].iloc[0]} has the label {wrong['label'].iloc[0]!r}; "
            f"the classes are {' and '.join(arguments.classes)}"
        )
    return votes


def contents(
    cards: pd.DataFrame, curves: pd.DataFrame, store: ViewStore, organ_side: np.ndarray, arguments: argparse.Namespace
) -> dict[str, Any]:
    """What the page embeds. Patients stay out of it: an organ side is a number."""
    from workflow_scripts.audit.review import fingerprint, neighbours

    index = store.index
    position = {view: i for i, view in enumerate(index["view_id"])}
    losses = {str(view): rows for view, rows in curves.groupby("view_id")}
    images: dict[int, str] = {}
    listed = []
    for card in cards.to_dict("records"):
        own = position[card["view_id"]]
        others = neighbours(own, index, organ_side)
        for i in (own, *others):
            images.setdefault(i, png(store.pixels[i]))
        rows = losses.get(card["view_id"])
        listed.append(
            {
                "id": card["view_id"],
                "label": card["label"],
                "votes": int(card["votes"]),
                "evaluations": int(card["evaluations"]),
                "group": card["group"],
                "organ_side": int(card["organ_side"]),
                "image": own,
                "plane": index["view"].iloc[own],
                "others": [
                    {
                        "image": i,
                        "plane": index["view"].iloc[i],
                        "same_frame": bool(index["image_id"].iloc[i] == index["image_id"].iloc[own]),
                    }
                    for i in others
                ],
                "losses": [] if rows is None else rows[["epoch", "mean", "low", "high"]].round(4).to_numpy().tolist(),
            }
        )
    return {
        "fingerprint": fingerprint([{**card, "pixels": images[card["image"]]} for card in listed], arguments.mode),
        "mode": arguments.mode,
        "classes": list(arguments.classes),
        "threshold": arguments.threshold,
        "origin": arguments.origin,
        "cards": listed,
        "images": {str(i): image for i, image in images.items()},
    }


if __name__ == "__main__":
    run(main, parser())
