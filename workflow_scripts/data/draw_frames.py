"""Figure 1: frames of every organ with their crop boxes; what lies outside the boxes is blurred.

    python -m workflow_scripts.data.draw_frames --manifest data_manifest.csv --root data/frames \\
        --profiles '{"whole": {"kind": "none"}}' --shown 4 --output-figure figures/figure1.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser

if TYPE_CHECKING:
    import numpy as np

# Standard deviation of the blur outside the boxes as a share of the frame's height: larger than any burnt-in letter.
BLUR = 1 / 12
COLOURS = ("#ffb000", "#648fff", "#dc267f", "#fe6100")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "manifest patient_key?")
    add_outputs(parser, "figure")
    add_parameters(parser, "root profiles shown blur origin")
    return parser


def blur_outside(frame: np.ndarray, boxes: Sequence[Sequence[int]]) -> np.ndarray:
    """The frame (H, W) uint8 with everything outside its [top, left, height, width] boxes blurred beyond reading."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    hidden = gaussian_filter(frame.astype(np.float32), BLUR * len(frame)).round().astype(np.uint8)
    for top, left, height, width in boxes:
        hidden[top : top + height, left : left + width] = frame[top : top + height, left : left + width]
    return hidden


def main(arguments: argparse.Namespace) -> None:
    """Draw frames of every organ with their boxes; the rest of a frame may show a patient's name, so it is blurred."""
    from matplotlib.patches import Rectangle

    from workflow_scripts.core.figures import evenly, panels, save, stamp
    from workflow_scripts.data.frames import frames_of_row
    from workflow_scripts.data.profiles import view_boxes
    from workflow_scripts.study.manifest import read_manifest

    rows = read_manifest(arguments.manifest, arguments.patient_key)
    profiles = json.loads(arguments.profiles)
    by_organ = {
        organ: [row for row in rows if row["organ"] == organ] for organ in dict.fromkeys(r["organ"] for r in rows)
    }
    share = -(-arguments.shown // len(by_organ))
    chosen = [group[i] for group in by_organ.values() for i in evenly(len(group), share)][: arguments.shown]
    columns = min(2, len(chosen))
    figure, axes = panels(len(chosen), columns, width=4.8, height=3.8)
    shown = 0
    for row in chosen:
        profile = profiles.get(row["device"])
        if profile is None:
            raise UserError(f"{row['image_id']}: no crop profile {row['device']!r} in the config")
        try:
            frame = next(frames_of_row(row, arguments.root, profile["kind"], "first"))
            named = view_boxes(frame, profile, row["image_id"])
        except UserError as error:
            say(f"not shown: {error}")  # whether a bad frame ends the study is the crop stage's decision
            continue
        pixels = blur_outside(frame.grey(), [box for _, box in named]) if arguments.blur else frame.grey()
        axis = axes[shown]
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        for (name, (top, left, box_height, box_width)), colour in zip(named, COLOURS * len(named), strict=False):
            axis.add_patch(Rectangle((left, top), box_width - 1, box_height - 1, fill=False, edgecolor=colour, lw=2))
            axis.text(left + 6, top + 20, name, color=colour, fontsize=8, va="center")
        axis.set_title(f"{row['organ']}, {row['device']}", fontsize=9)
        shown += 1
    if not shown:
        raise UserError(f"none of the {len(chosen)} chosen frames can be read; the log names them")
    figure.suptitle("Frames and crop boxes", fontsize=11)
    stamp(figure, arguments.origin)
    save(figure, arguments.output_figure)


if __name__ == "__main__":
    run(main, parser())
