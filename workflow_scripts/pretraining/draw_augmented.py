"""Draw contact sheets of the views that pretraining draws: each image beside pairs of its views.

    python -m workflow_scripts.pretraining.draw_augmented --names ud --sheets pretraining/ud/sheet.npy \\
        --output-figure figures/augmented.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.figures import INK, save, stamp
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# White between images, and wider between pairs, in pixels of the largest view shown.
GAP, WIDE_GAP = 0.04, 0.16


def augmented_figure(sheets: Mapping[str, np.ndarray], origin: str) -> Figure:
    """A block per run; `sheets` maps names to images and their views, uint8 (images, 1 + 2 pairs, H, W)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 0.5 + 9.6 * len(sheets)), layout="constrained")
    for axis, (name, sheet) in zip(figure.subplots(len(sheets), 1, squeeze=False).flat, sheets.items(), strict=True):
        picture, middles = mosaic(sheet)
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        names = ["image", *(f"view {1 + i % 2}" for i in range(sheet.shape[1] - 1))]
        axis.set_xticks(middles, names)
        axis.xaxis.tick_top()
        axis.tick_params(length=0, labelsize=9)
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.set_title(f"Views of pretraining: {name}", loc="left", fontsize=11, color=INK)
    stamp(figure, origin)
    return figure


def mosaic(sheet: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The sheet as one white picture (H', W') with gaps, the widest before each pair, and the columns' middles in pixels."""
    count, columns, height, width = sheet.shape
    gap, wide = max(1, round(GAP * width)), max(2, round(WIDE_GAP * width))
    lefts = [0]
    for column in range(1, columns):
        lefts.append(lefts[-1] + width + (wide if column % 2 else gap))
    picture = np.full((count * (height + gap) - gap, lefts[-1] + width), 255, np.uint8)
    for line in range(count):
        top = line * (height + gap)
        for column, left in enumerate(lefts):
            picture[top : top + height, left : left + width] = sheet[line, column]
    return picture, [left + (width - 1) / 2 for left in lefts]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "sheets+")
    add_outputs(parser, "figure")
    add_parameters(parser, "names origin")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Read, draw."""
    from workflow_scripts.core.files import read_npy

    if len(arguments.names) != len(arguments.sheets):
        raise UserError(
            f"--names names {len(arguments.names)} runs, --sheets {len(arguments.sheets)}; one of each is needed"
        )
    sheets = {name: read_npy(path) for name, path in zip(arguments.names, arguments.sheets, strict=True)}
    for path, sheet in zip(arguments.sheets, sheets.values(), strict=False):
        if sheet.ndim != 4 or not sheet.size or sheet.dtype != "uint8":
            raise UserError(
                f"{path} is not a contact sheet: expected uint8 (images, views, height, width), got {sheet.dtype} {sheet.shape}"
            )
    save(augmented_figure(sheets, arguments.origin), arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
