"""List near-identical views of different patients, within a set and across sets: they leak as a shared patient does.

A perceptual hash proposes pairs, an exact distance (one minus the correlation of local contrast) confirms them. Views
without a patient_id count as a patient per image. Nearly black and flat views are left out, since all of them are alike.

    python -m workflow_scripts.data.find_near_duplicates --names labelled thyroid --views labelled.npy thyroid.npy \\
        --indexes labelled.csv thyroid.csv --output pairs.csv --output-figure pairs.png
"""

from __future__ import annotations

import argparse
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import progress, say
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.config.names import LABELLED_SET

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = ("set_a", "view_a", "patient_a", "set_b", "view_b", "patient_b", "hash_distance", "distance")
SHOWN, PER_LINE = 12, 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--names", nargs="+", required=True, help="names of the sets")
    parser.add_argument("--views", nargs="+", type=Path, required=True, help="their view stores, .npy")
    parser.add_argument("--indexes", nargs="+", type=Path, required=True, help="their indexes, .csv")
    parser.add_argument(
        "--hash-distance", type=int, default=60, help="bits of 256 in which two hashes may differ (default: 60)"
    )
    parser.add_argument(
        "--distance", type=float, default=0.2, help="largest exact distance of near-duplicates, 0 to 2 (default: 0.2)"
    )
    parser.add_argument("--origin", default="", help="what the views come from if not from patients: PHANTOM")
    parser.add_argument("--output", type=Path, required=True, help="the pairs, closest first, .csv")
    parser.add_argument("--output-figure", type=Path, required=True, help="the closest pairs, .png")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, compare, write, draw."""
    import pandas as pd

    from workflow_scripts.core.files import write_csv
    from workflow_scripts.data.duplicates import fingerprints, near_duplicates, patient_numbers

    check(arguments)
    stores, index = read_sets(arguments.names, arguments.views, arguments.indexes)
    prints = fingerprints(progress(each_view(stores), "hash", "view", len(index)))
    patients = patient_numbers(index["patient_id"].tolist(), index["image_id"].tolist())
    pairs = near_duplicates(prints, patients, arguments.hash_distance, arguments.distance)
    sides = {
        f"{column}_{side}": index[source].to_numpy()[rows]
        for side, rows in (("a", pairs.first), ("b", pairs.second))
        for column, source in (("set", "set"), ("view", "view_id"), ("patient", "patient_id"))
    }
    table = pd.DataFrame({**sides, "hash_distance": pairs.hash_distance, "distance": pairs.distance})[list(COLUMNS)]
    write_csv(table, arguments.output)
    compared = compared_pairs(patients[prints.judged])
    closest = zip(pairs.first[:SHOWN], pairs.second[:SHOWN], strict=True)
    shown = [(view_at(stores, first), view_at(stores, second)) for first, second in closest]
    draw(table, shown, compared, arguments.origin, arguments.output_figure)
    report(index, table, int((~prints.judged).sum()), compared)


def check(arguments: argparse.Namespace) -> None:
    """Raise `UserError` where the lists do not match or a threshold lies outside its range."""
    counts = {len(arguments.names), len(arguments.views), len(arguments.indexes)}
    if len(counts) > 1:
        raise UserError(
            f"--names has {len(arguments.names)} entries, --views {len(arguments.views)} and --indexes "
            f"{len(arguments.indexes)}; give each set its name, its store and its index, in the same order"
        )
    if not 0 <= arguments.hash_distance <= 256:
        raise UserError(f"--hash-distance {arguments.hash_distance} is not within 0 and 256, the bits of a hash")
    if not 0 <= arguments.distance <= 2:
        raise UserError(f"--distance {arguments.distance} is not within 0 and 2")


def read_sets(
    names: Sequence[str], views: Sequence[Path], indexes: Sequence[Path]
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """The memory-mapped stores and one index of all their views, with the column `set`."""
    import pandas as pd

    from workflow_scripts.core.files import read_csv, read_npy

    stores, tables = [], []
    for name, store_path, index_path in zip(names, views, indexes, strict=True):
        for path in (store_path, index_path):
            if not path.is_file():
                raise UserError(f"{path} does not exist; cut the views of the set {name!r} first")
        stores.append(read_npy(store_path))
        table = read_csv(index_path)[["view_id", "image_id", "patient_id"]]
        if len(stores[-1]) != len(table):
            raise UserError(
                f"{store_path} holds {len(stores[-1])} views, but {index_path} lists {len(table)}: they are not of "
                f"one run; cut the views of the set {name!r} again"
            )
        tables.append(table.assign(set=name))
    return stores, pd.concat(tables, ignore_index=True)


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
    from workflow_scripts.core.figures import panels, save, stamp

    columns = 2 * min(PER_LINE, max(1, len(shown)))
    figure, axes = panels(max(1, 2 * len(shown)), columns, width=max(2.1, 5 / columns), height=2.5)
    for place, (pair, row) in enumerate(zip(shown, table.to_dict("records"), strict=False)):
        draw_pair(axes[2 * place : 2 * place + 2], pair, row)
    number = f"the {len(shown)} closest of {len(table)}" if shown else "none"
    title = f"Near-duplicates across patients: {number}\n{compared} pairs of views of different patients compared"
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
