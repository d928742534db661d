"""Draw a contact sheet of a set of views."""

from __future__ import annotations

import argparse
from pathlib import Path

from workflow_scripts.runtime.cli import run, stage_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    parser.add_argument("--views", type=Path, required=True, help="view store, .npy")
    parser.add_argument("--index", type=Path, required=True, help="its index, .csv")
    parser.add_argument("--count", type=int, default=48, help="views shown (default: 48)")
    parser.add_argument("--title", required=True, help="name of the set")
    parser.add_argument("--origin", default="", help="what the views come from if not from patients: PHANTOM")
    parser.add_argument("--output", type=Path, required=True, help="the figure, .png")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Views drawn at random (always the same ones), titled by label where there is one."""
    import numpy as np

    from workflow_scripts.core.figures import panels, save, stamp
    from workflow_scripts.core.files import read_csv, read_npy

    views, index = read_npy(arguments.views), read_csv(arguments.index)
    count = min(len(views), arguments.count)
    chosen = np.sort(np.random.default_rng(0).choice(len(views), count, replace=False))
    figure, axes = panels(len(chosen), min(8, len(chosen)), width=1.35, height=1.5)
    for axis, i in zip(axes, chosen, strict=False):
        axis.imshow(views[i], cmap="gray", vmin=0, vmax=255)
        axis.set_title(index["label"][i] or index["view"][i], fontsize=6, pad=2)
    figure.suptitle(f"{arguments.title}: {len(chosen)} of {len(views)} views", fontsize=11)
    stamp(figure, arguments.origin)
    save(figure, arguments.output)


if __name__ == "__main__":
    run(main, parser())
