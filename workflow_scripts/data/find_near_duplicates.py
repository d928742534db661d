"""List near-identical views of different patients, within a set and across sets: they leak as a shared patient does.

A perceptual hash proposes pairs, an exact distance (one minus the correlation of local contrast) confirms them. Views
without a patient_id count as a patient per image. Nearly black and flat views are left out, since they all look alike.

    python -m workflow_scripts.data.find_near_duplicates --names labelled thyroid --views labelled.npy thyroid.npy \\
        --index labelled.csv thyroid.csv --output-pairs pairs.csv --output-figure pairs.png
"""

from __future__ import annotations

import argparse
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.config.names import LABELLED_SET

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = ("set_a", "view_a", "patient_a", "set_b", "view_b", "patient_b", "hash_distance", "distance")
# Bits of 256 in which two hashes may differ, and the largest exact distance of near-duplicates (docs/data.md).
HASH_DISTANCE, DISTANCE = 60, 0.2
SHOWN, PER_LINE = 12, 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "views+ index+")
    add_outputs(parser, "pairs figure")
    add_parameters(parser, "names origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, compare, write, draw."""
    import pandas as pd

    from workflow_scripts.core.files import write_csv
    from workflow_scripts.data.duplicates import fingerprints, near_duplicates, patient_numbers

    stores, index = read_sets(arguments.names, arguments.views, arguments.index)
    prints = fingerprints(progress(each_view(stores), "hash", "view", len(index)))
    patients = patient_numbers(index["patient_id"].tolist(), index["image_id"].tolist())
    pairs = near_duplicates(prints, patients, HASH_DISTANCE, DISTANCE)
    sides = {
        f"{column}_{side}": index[source].to_numpy()[rows]
        for side, rows in (("a", pairs.first), ("b", pairs.second))
        for column, source in (("set", "set"), ("view", "view_id"), ("patient", "patient_id"))
    }
    table = pd.DataFrame({**sides, "hash_distance": pairs.hash_distance, "distance": pairs.distance})[list(COLUMNS)]
    write_csv(table, arguments.output_pairs)
    compared = compared_pairs(patients[prints.judged])
    closest = zip(pairs.first[:SHOWN], pairs.second[:SHOWN], strict=True)
    shown = [(view_at(stores, first), view_at(stores, second)) for first, second in closest]
    draw(table, shown, compared, arguments.origin, arguments.output_figure)
    report(index, table, int((~prints.judged).sum()), compared)


def read_sets(
    names: Sequence[str], views: Sequence[Path], indexes: Sequence[Path]
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """The memory-mapped pixels of each set and one index of all their views, with the column `set`."""
    import pandas as pd

    from workflow_scripts.core.store import ViewStore

    if not len(names) == len(views) == len(indexes):
        raise UserError(
            f"--names has {len(names)} entries, --views {len(views)} and --index {len(indexes)}; give each set its name, "
            "its store and its index, in the same order"
        )
    sets = [ViewStore.open(*files) for files in zip(views, indexes, strict=True)]
    columns = ["view_id", "image_id", "patient_id"]
    tables = [each.index[columns].assign(set=name) for name, each in zip(names, sets, strict=True)]
    return [each.pixels for each in sets], pd.concat(tables, ignore_index=True)


def each_view(stores: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The views of all stores, in their order."""
    for store in stores:
        yield from store


def view_at(stores: Sequence[np.ndarray], position: int) -> np.ndarray:
    """The view at a position of the joint index."""
    for store in stores:
        if position < len(store):
            return store[position]
        position -= len(store)
    raise IndexError(position)


def compared_pairs(patients: np.ndarray) -> int:
    """Number of pairs of views of different patients, given each view's patient (N,)."""
    import numpy as np

    _, counts = np.unique(patients, return_counts=True)
    return (len(patients) ** 2 - int((counts**2).sum())) // 2


def report(index: pd.DataFrame, table: pd.DataFrame, left_out: int, compared: int) -> None:
    """Say how many views and pairs there are, and what to do."""
    if left_out:
        say(f"{left_out} of {len(index)} views are nearly black or flat and were left out")
    concerned = {*zip(table["set_a"], table["view_a"], strict=True), *zip(table["set_b"], table["view_b"], strict=True)}
    say(
        f"near-duplicates: {len(concerned)} of {len(index)} views, {len(table)} of {compared} pairs of different "
        f"patients ({int((table['set_a'] != table['set_b']).sum())} across sets)"
    )
    if not len(table):
        return
    if LABELLED_SET in set(index["set"]):
        labelled = sum(name == LABELLED_SET for name, _ in concerned)
        say(
            f"of the set {LABELLED_SET!r} {labelled} of {int((index['set'] == LABELLED_SET).sum())} views are concerned"
        )
    say("look at each pair; then take one of the two out of the manifest, or give both the same patient_id there")


def draw(
    table: pd.DataFrame, shown: Sequence[tuple[np.ndarray, np.ndarray]], compared: int, origin: str, output: Path
) -> None:
    """The closest pairs side by side; where there is none, a figure that says so."""
    from workflow_scripts.core.figures import pair_panels, save, stamp

    columns = min(PER_LINE, max(1, len(shown)))
    figure, places = pair_panels(max(1, len(shown)), columns, width=max(4.3, 5 / columns), height=2.5)
    for axes, pair, row in zip(places, shown, table.to_dict("records"), strict=False):
        draw_pair(axes, pair, row)
    number = f"the {len(shown)} closest of {len(table)}" if shown else "none"
    title = f"Near-duplicates across patients: {number}\n{compared:,} pairs of views of different patients compared"
    figure.suptitle(title, fontsize=10)
    stamp(figure, origin)
    save(figure, output)


def draw_pair(axes: Sequence[Axes], pair: Sequence[np.ndarray], row: Mapping[Hashable, Any]) -> None:
    """Two views with their sets and ids, and how far they are apart."""
    for axis, side, view in zip(axes, "ab", pair, strict=True):
        axis.imshow(view, cmap="gray", vmin=0, vmax=255)
        note = f"distance {row['distance']:.3f}" if side == "a" else f"{row['hash_distance']} of 256 bits"
        axis.set_title(
            f"{row[f'set_{side}']}\n{short(str(row[f'view_{side}']))}\n{note}", fontsize=7, pad=3, parse_math=False
        )


def short(name: str, letters: int = 30) -> str:
    """A name that fits above a view: pseudonyms and paths may be long; their ends tell them apart."""
    return name if len(name) <= letters else "…" + name[1 - letters :]


if __name__ == "__main__":
    run(main, parser())
