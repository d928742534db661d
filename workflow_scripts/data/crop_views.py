"""Crop the views of one set from the raw frames and write them as a view store.

Only the cropped pixels are kept: no metadata of the files, no file names. Ids are the manifest's, or with --patient-key
keyed hashes of them, in messages too. Every view is read by OCR, since a crop keeps what is written over the echoes:
--on-text says what becomes of text.

    python -m workflow_scripts.data.crop_views --manifest data_manifest.csv --root data/frames --set labelled \\
        --target-organ testicle --profiles '{"whole": {"kind": "none"}}' --size 256 \\
        --output-views views/labelled.npy --output-index views/labelled.csv
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_inputs, add_outputs, add_parameters
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.study.config.names import LABELLED_SET

if TYPE_CHECKING:
    from workflow_scripts.data.text import Text

NEEDED = ("image_id", "path", "patient_id", "organ", "label", "device", "side")
# A view with a larger share of coloured pixels is reported: colour Doppler, or a coloured mark.
COLOURED = 0.01


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    add_inputs(parser, "manifest patient_key?")
    add_outputs(parser, "views index text? figure?")
    add_parameters(parser, "root set target_organ profiles size clip_frames on_bad_frame on_text origin")
    return parser


def belongs(row: Mapping[str, str], name: str, target_organ: str) -> bool:
    """Whether a manifest row's views are of the set `name`; the sets are disjoint."""
    if name == LABELLED_SET:
        return row["organ"] == target_organ and row["label"] != ""
    return row["organ"] == name and row["label"] == ""


def read_profiles(text: str) -> dict[str, Any]:
    """The crop profiles by device, as the config's data.crop_profiles in JSON.

    Raises `UserError` where the text is not such JSON. In a workflow the config's models have checked it already.
    """
    from workflow_scripts.data.profiles import KINDS

    try:
        profiles = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--profiles is not JSON ({error}); expected {{device: {{kind: …}}, …}}") from None
    if not isinstance(profiles, dict):
        raise UserError("--profiles must be a JSON object of crop profiles by device")
    for device, profile in profiles.items():
        kind = profile.get("kind") if isinstance(profile, dict) else None
        if kind not in KINDS:
            raise UserError(f"--profiles, {device}: `kind` must be one of {', '.join(KINDS)}")
        if kind != "boxes":
            continue
        boxes, views = profile.get("boxes", []), profile.get("views", [])
        named = len(boxes) == len(views) == len(set(views))
        if not boxes or not named or any(len(box) != 4 for box in boxes):
            raise UserError(
                f"--profiles, {device}: needs `boxes` of [top, left, height, width] and as many different `views`"
            )
    return profiles


def rows_of_set(
    rows: Sequence[Mapping[str, str]], name: str, target_organ: str, manifest: Path
) -> list[Mapping[str, str]]:
    """The manifest's rows of the set `name`, in its order.

    Raises `UserError` when a column is missing, an image id appears twice or the set is empty.
    """
    missing = [column for column in NEEDED if rows and column not in rows[0]]
    if missing:
        raise UserError(f"{manifest} line 1: missing column {', '.join(missing)}")
    twice = [image_id for image_id, count in Counter(row["image_id"] for row in rows).items() if count > 1]
    if twice:
        raise UserError(
            f"{manifest}: image_id {', '.join(twice)} appears in more than one row; views are named after it"
        )
    chosen = [row for row in rows if belongs(row, name, target_organ)]
    if not chosen:
        organ, label = (target_organ, "with a label") if name == LABELLED_SET else (name, "with an empty label")
        raise UserError(f"the set {name!r} is empty: {manifest} has no row of organ {organ!r} {label}")
    return chosen


def completed(rows: Sequence[Mapping[str, str]], clip_frames: str) -> list[Mapping[str, str]]:
    """The rows, with `clip_frames` in the column frames wherever the manifest does not say."""
    return [{**row, "frames": row.get("frames") or clip_frames} for row in rows]


def note_text(arguments: argparse.Namespace, found: Mapping[str, Sequence[Text]], rows: Sequence[int]) -> None:
    """Say, list and draw which views held text; `rows` are theirs in the store."""
    from workflow_scripts.core.store import open_pixels
    from workflow_scripts.data.text import listing, write_findings

    if found:
        done = "it is blacked out" if arguments.on_text == "blank" else "it stays: data.on_text: blank blacks it out"
        say(f"{listing(found)}\n{done}")
    write_findings(found, open_pixels(arguments.output_views), rows, arguments)


def main(arguments: argparse.Namespace) -> None:
    """Choose the rows, crop their views."""
    from workflow_scripts.data.store import write_store
    from workflow_scripts.data.text import TextReader
    from workflow_scripts.study.manifest import read_manifest

    if arguments.size < 1 or arguments.threads < 1:
        raise UserError("--size and --threads must be at least 1")
    profiles = read_profiles(arguments.profiles)
    manifest = read_manifest(arguments.manifest, arguments.patient_key)
    rows = rows_of_set(manifest, arguments.set, arguments.target_organ, arguments.manifest)
    unknown = sorted({row["device"] for row in rows} - set(profiles))
    if unknown:
        raise UserError(
            f"no crop profile for the device {', '.join(unknown)}; there are: {', '.join(profiles) or 'none'}"
        )
    rows = completed(rows, arguments.clip_frames)
    try:
        count, bad, found, annotated = write_store(
            rows, arguments.root, profiles, arguments.size, arguments.threads, arguments.output_views,
            arguments.output_index, arguments.on_bad_frame == "skip", TextReader(arguments.size), arguments.on_text,
        )  # fmt: skip
    except UserError as error:
        raise UserError(f"the set {arguments.set!r}, {len(rows)} rows of {arguments.manifest}: {error}") from None
    say(f"{arguments.set}: {count} views of {len(rows) - len(bad)} files")
    if bad:
        say("\n".join([f"skipped {len(bad)} of {len(rows)} files:", *(f"  {text}" for text in bad)]))
    if annotated:
        say(
            f"{len(annotated)} DICOM files say that text is burnt into their frames (BurnedInAnnotation); look at the views "
            f"of {_first(annotated)}"
        )
    index = read_rows(arguments.output_index)
    note_text(arguments, {index[row]["view_id"]: texts for row, texts in found.items()}, list(found))
    coloured = [row["view_id"] for row in index if float(row["coloured"]) > COLOURED]
    if coloured:
        say(
            f"{len(coloured)} views hold colour on more than {COLOURED:.0%} of their pixels (Doppler?): {_first(coloured)}"
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (" …" if len(names) > 20 else "")


if __name__ == "__main__":
    run(main, parser())
