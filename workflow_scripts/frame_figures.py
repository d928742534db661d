"""Look at the data: `boxes` draws frames with their crop boxes (figure 1), `sheet` a contact sheet of a view store."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.cli import add_patient_key, run, say, stage_parser
from workflow_scripts.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Standard deviation of the blur outside the boxes as a share of the frame's height: larger than any burnt-in letter.
BLUR = 1 / 12
COLOURS = ("#ffb000", "#648fff", "#dc267f", "#fe6100")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    boxes = commands.add_parser("boxes", help="figure 1: frames with their crop boxes", allow_abbrev=False)
    boxes.add_argument("--manifest", type=Path, required=True, help="manifest of the study")
    add_patient_key(boxes)
    boxes.add_argument("--root", type=Path, required=True, help="folder of the frames")
    boxes.add_argument("--profiles", required=True, help="JSON of the config's data.crop_profiles")
    boxes.add_argument("--count", type=int, default=4, help="frames shown (default: 4)")
    boxes.add_argument(
        "--no-blur", action="store_true", help="show what lies outside the boxes, patients' names and all"
    )
    sheet = commands.add_parser("sheet", help="contact sheet of a set of views", allow_abbrev=False)
    sheet.add_argument("--views", type=Path, required=True, help="view store, .npy")
    sheet.add_argument("--index", type=Path, required=True, help="its index, .csv")
    sheet.add_argument("--count", type=int, default=48, help="views shown (default: 48)")
    sheet.add_argument("--title", required=True, help="name of the set")
    for command in (boxes, sheet):
        command.add_argument("--origin", default="", help="what the views come from if not from patients: PHANTOM")
        command.add_argument("--output", type=Path, required=True, help="the figure, .png")
        command.add_argument("--log", type=Path, help="also write messages to this file", default=argparse.SUPPRESS)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw one figure."""
    if arguments.command == "boxes":
        draw_boxes(arguments)
    else:
        draw_sheet(arguments)


def evenly(total: int, count: int) -> list[int]:
    """At most `count` different positions, spread evenly over range(total)."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def blur_outside(frame: np.ndarray, boxes: Sequence[Sequence[int]]) -> np.ndarray:
    """The frame (H, W) uint8 with everything outside its [top, left, height, width] boxes blurred beyond reading."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    hidden = gaussian_filter(frame.astype(np.float32), BLUR * len(frame)).round().astype(np.uint8)
    for top, left, height, width in boxes:
        hidden[top : top + height, left : left + width] = frame[top : top + height, left : left + width]
    return hidden


def draw_boxes(arguments: argparse.Namespace) -> None:
    """Frames of every organ in turn, boxes drawn, the rest of the frame blurred: it may hold a patient's name."""
    from matplotlib.patches import Rectangle

    from workflow_scripts.imaging.crop import view_boxes
    from workflow_scripts.imaging.frames import read_frames
    from workflow_scripts.study.manifest import read_manifest

    rows = read_manifest(arguments.manifest, arguments.patient_key)
    profiles = json.loads(arguments.profiles)
    by_organ = {
        organ: [row for row in rows if row["organ"] == organ] for organ in dict.fromkeys(r["organ"] for r in rows)
    }
    share = -(-arguments.count // len(by_organ))
    chosen = [group[i] for group in by_organ.values() for i in evenly(len(group), share)][: arguments.count]
    columns = min(2, len(chosen))
    figure, axes = panels(len(chosen), columns, width=4.8, height=3.8)
    shown = 0
    for row in chosen:
        profile = profiles.get(row["device"])
        if profile is None:
            raise UserError(f"{row['image_id']}: no crop profile {row['device']!r} in the config")
        try:
            frame = next(read_frames(row["path"], arguments.root, row["image_id"]))
            named = view_boxes(frame, profile, row["image_id"])
        except UserError as error:
            say(f"not shown: {error}")  # whether a bad frame ends the study is the crop stage's decision
            continue
        pixels = frame.grey() if arguments.no_blur else blur_outside(frame.grey(), [box for _, box in named])
        axis = axes[shown]
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        for (name, (top, left, box_height, box_width)), colour in zip(named, COLOURS * len(named), strict=False):
            axis.add_patch(Rectangle((left, top), box_width - 1, box_height - 1, fill=False, edgecolor=colour, lw=2))
            axis.text(left + 6, top + 20, name, color=colour, fontsize=8, va="center")
        axis.set_title(f"{row['organ']}, {row['device']}", fontsize=9)
        shown += 1
    if not shown:
        raise UserError(f"none of the {len(chosen)} chosen frames can be read; the log names them")
    save(figure, f"Frames and crop boxes{stamp(arguments.origin)}", arguments.output)


def draw_sheet(arguments: argparse.Namespace) -> None:
    """Views drawn at random (always the same ones), titled by label where there is one."""
    import numpy as np

    from workflow_scripts.files import read_csv, read_npy

    views, index = read_npy(arguments.views), read_csv(arguments.index)
    count = min(len(views), arguments.count)
    chosen = np.sort(np.random.default_rng(0).choice(len(views), count, replace=False))
    figure, axes = panels(len(chosen), min(8, len(chosen)), width=1.35, height=1.5)
    for axis, i in zip(axes, chosen, strict=False):
        axis.imshow(views[i], cmap="gray", vmin=0, vmax=255)
        axis.set_title(index["label"][i] or index["view"][i], fontsize=6, pad=2)
    title = f"{arguments.title}: {len(chosen)} of {len(views)} views{stamp(arguments.origin)}"
    save(figure, title, arguments.output)


def panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure and its flat list of axes, without ticks; sizes in inches per panel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * width, rows * height + 0.5), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, list(axes.flat)


def stamp(origin: str) -> str:
    """The addition to a title that keeps phantoms from passing for patients."""
    return f"  ·  {origin}" if origin else ""


def save(figure: Figure, title: str, output: Path) -> None:
    """Write the figure atomically."""
    from workflow_scripts.files import atomic_path

    figure.suptitle(title, fontsize=11)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


if __name__ == "__main__":
    run(main, parser())
