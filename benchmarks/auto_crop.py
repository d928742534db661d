"""How well the crop profile `auto` finds the sonograms of DDTI's screenshots, against two hand-checked fixtures.

`ddti_sonograms.csv` holds the sonograms of 40 images drawn at random; their boxes were set by eye, on enlarged frames
and then corners, before the algorithm was run. `ddti_text.csv` holds where scanner and sonographer wrote on all 480
images. On the surround: `bar` (the strip of the grey bar), `column` (settings on the right), and the lower margin's
line, read by eye: `tirads`, `diagnosis` or `label` (side and site). Over the echoes, where a crop cannot remove it:
`numeral` (of the depth scale; where it stands beside the sonogram, it can), `orientation` (the transducer's mark T)
and `note`; numerals and marks were located by their glyphs. Depth dots and callipers are not listed.
The peer is the profile `boxes` with the one box that fits most of the images.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import timed, write_result

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
ON_SURROUND = ("bar", "column", "label", "diagnosis", "tirads")
OVER_ECHOES = ("numeral", "orientation", "note")
# The box of the commonest layout, top, left, height, width: what one would write into a profile `boxes`.
COMMONEST = (8, 87, 301, 385)
TIMED = 20

Box = tuple[int, int, int, int]


def fixture_boxes(path: Path) -> dict[str, list[Box]]:
    """The boxes of each image, in the file's order."""
    boxes = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            boxes[row["image_id"]].append(_box(row))
    return dict(boxes)


def fixture_text(path: Path) -> list[tuple[str, str, Box]]:
    """Image, kind and box of each place with text."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["image_id"], row["what"], _box(row)) for row in csv.DictReader(file)]


def overlap(one: Box, other: Box) -> int:
    """Pixels that two boxes share."""
    height = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    width = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(height, 0) * max(width, 0)


def agreement(truth: Mapping[str, Sequence[Box]], found: Mapping[str, Sequence[Box]]) -> dict[str, float | int]:
    """Share of each true sonogram that its best box keeps, its IoU, and images with another number of boxes."""
    kept, unions = [], []
    for image, boxes in truth.items():
        for box in boxes:
            best = max(found[image], key=partial(overlap, box), default=(0, 0, 0, 0))
            shared = overlap(box, best)
            kept.append(shared / (box[2] * box[3]))
            unions.append(shared / (box[2] * box[3] + best[2] * best[3] - shared))
    return {
        "images": len(truth),
        "sonograms": len(kept),
        "kept_mean": sum(kept) / len(kept),
        "kept_min": min(kept),
        "iou_mean": sum(unions) / len(unions),
        "iou_min": min(unions),
        "images_with_wrong_count": sum(len(found[image]) != len(boxes) for image, boxes in truth.items()),
    }


def held(text: Sequence[tuple[str, str, Box]], found: Mapping[str, Sequence[Box]]) -> dict[str, dict[str, float]]:
    """For each kind of text: images that have it, images whose result holds a pixel of its box, and their share."""
    carriers, holders = defaultdict(set), defaultdict(set)
    for image, what, box in text:
        carriers[what].add(image)
        if any(overlap(box, part) for part in found[image]):
            holders[what].add(image)
    rates = {
        what: {"carry": len(carriers[what]), "hold": len(holders[what]), "share": len(holders[what]) / len(found)}
        for what in (*ON_SURROUND, *OVER_ECHOES)
    }
    anything = set().union(*(holders[what] for what in ON_SURROUND))
    return {**rates, "any on the surround": {"hold": len(anything), "share": len(anything) / len(found)}}


def main(images: Path) -> dict[str, Any]:
    """Measure, write the result and return its rows."""
    import numpy as np
    from PIL import Image

    from workflow_scripts.data.sonogram import find_sonograms

    frames = {}
    for path in sorted(images.glob("*.jpg")):
        with Image.open(path) as picture:
            frames[f"ddti_{path.stem}"] = np.asarray(picture.convert("L"))
    found = {image: find_sonograms(frame) for image, frame in frames.items()}
    truth = fixture_boxes(FIXTURES / "ddti_sonograms.csv")
    text = fixture_text(FIXTURES / "ddti_text.csv")
    some = list(frames.values())[:: max(len(frames) // TIMED, 1)][:TIMED]
    seconds = timed(lambda: [find_sonograms(frame) for frame in some])
    fixed = {image: [COMMONEST] for image in frames}
    rows = [
        {"profile": "auto", **agreement(truth, found), "text": held(text, found)},
        {"profile": "boxes", **agreement(truth, fixed), "text": held(text, fixed)},
    ]
    counts = {str(number): sum(len(boxes) == number for boxes in found.values()) for number in range(4)}
    write_result(
        "auto_crop",
        rows,
        images=len(frames),
        images_by_sonograms=counts,
        milliseconds_per_frame=1000 * float(seconds["seconds_median"]) / len(some),
    )
    return {"rows": rows, "counts": counts, "milliseconds": 1000 * float(seconds["seconds_median"]) / len(some)}


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--images", type=Path, required=True, help="folder of DDTI's 480 JPEG files")
    return command


def _box(row: Mapping[str, str]) -> Box:
    return int(row["top"]), int(row["left"]), int(row["height"]), int(row["width"])


if __name__ == "__main__":
    import json

    print(json.dumps(main(parser().parse_args().images), indent=1))
