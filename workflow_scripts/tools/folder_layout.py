"""The later released layout: a folder with `imgs/` and perhaps `masks/`, a CSV of labels, and files that list a split.

How its labels are stored is not public, so the user names the columns and values; nothing is guessed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from workflow_scripts.core.errors import UserError
from workflow_scripts.study.manifest import PATTERNS

IMAGES, MASKS = "imgs", "masks"
SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")
NEEDED = ("image_column", "patient_column", "label_column", "label_values", "profile")

Row = dict[str, str]
Notes = list[tuple[str, list[str]]]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what a CSV of labels means."""
    group = parser.add_argument_group("with --labels (no defaults: how the labels are stored is not public)")
    group.add_argument("--image-column", help="column with the images' file names, with or without their ending")
    group.add_argument("--patient-column", help="column with the patients' ids")
    group.add_argument("--label-column", help="column with the labels")
    group.add_argument("--label-values", nargs=2, metavar=("ZERO", "ONE"), help="its cells for the two --classes")
    group.add_argument("--side-column", help="column with the side, if there is one")
    group.add_argument("--side-values", nargs=2, metavar=("RIGHT", "LEFT"), help="its cells for the two sides")
    group.add_argument(
        "--split", type=Path, nargs="+", default=[], help="files that list images, one a line: only these are imported"
    )


def missing_flags(arguments: argparse.Namespace) -> list[str]:
    """What the user has to say and has not."""
    missing = [name for name in NEEDED if getattr(arguments, name) is None]
    if (arguments.side_column is None) != (arguments.side_values is None):
        missing.append("side_values" if arguments.side_values is None else "side_column")
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
    return [f"--labels needs {flags}: how the labels are stored is not guessed"] if missing else []


def read_folder(cells: Sequence[Sequence[str]], arguments: argparse.Namespace) -> tuple[list[Row], Notes, list[str]]:
    """Manifest rows in the order of the CSV (`cells`), notes on what has no label or is left out, and problems.

    An image without a row is left out, since its patient is not known and folds could leak.
    """
    images, problems = _files(arguments.frames / IMAGES)
    masks, wrong = _files(arguments.frames / MASKS) if (arguments.frames / MASKS).is_dir() else ({}, [])
    listed, unread = _listed(arguments.split)
    problems += wrong + unread
    columns = [arguments.image_column, arguments.patient_column, arguments.label_column, arguments.side_column]
    header = list(cells[0])
    for column in columns:
        if column is not None and header.count(column) != 1:
            text = f"{header.count(column)} columns are called {column!r}; there are {', '.join(header)}"
            problems.append(f"{arguments.labels} row 1: {text}")
    if problems:
        return [], [], problems
    places = [None if column is None else header.index(column) for column in columns]
    labels = dict(zip(arguments.label_values, arguments.classes, strict=True))
    sides = dict(zip(arguments.side_values or (), ("right", "left"), strict=False))
    rows: list[Row] = []
    seen: dict[str, int] = {}
    notes: dict[str, list[str]] = {
        "images without a label, their cell is empty": [],
        "images without a label, their cell is none of --label-values": [],
        "images without a mask": [],
        "rows left out, imgs/ has no such image": [],
    }
    blank, strange, maskless, imageless = notes.values()
    for number, row in enumerate(cells[1:], start=2):
        if not any(row):
            continue
        if len(row) != len(header):
            problems.append(f"{arguments.labels} row {number}: has {len(row)} cells, the header {len(header)}")
            continue
        name, patient, label, side = ("" if place is None else row[place] for place in places)
        stem = _stem(name)
        # Cells that are not ids are not quoted: they may hold a patient's name.
        for column, cell in (("image_id", stem), ("patient_id", patient)):
            if not cell or not PATTERNS[column].match(cell):
                text = "empty, or has other characters than letters, digits, _ . -"
                problems.append(
                    f"{arguments.labels} row {number}: the cell of the {column.partition('_')[0]} is {text}"
                )
        if side and side not in sides:
            problems.append(f"{arguments.labels} row {number}: the cell of the side is none of --side-values")
        if stem in seen:
            problems.append(f"{arguments.labels} row {number}: the image of row {seen[stem]} again")
        seen.setdefault(stem, number)
        if listed is not None and stem not in listed:
            continue
        if stem not in images:
            imageless.append(f"row {number}")
            continue
        if label not in labels:
            (strange if label else blank).append(f"row {number}")
        if masks and stem not in masks:
            maskless.append(stem)
        rows.append({
            "image_id": stem, "path": f"{IMAGES}/{images[stem]}", "patient_id": patient, "organ": arguments.organ,
            "label": labels.get(label, ""), "device": arguments.profile, "side": sides.get(side, ""),
            **({"mask": f"{MASKS}/{masks[stem]}" if stem in masks else ""} if masks else {}),
        })  # fmt: skip
    notes["images left out, the CSV has no row for them and so no patient"] = sorted(
        stem for stem in images if stem not in seen and (listed is None or stem in listed)
    )
    if listed is not None:
        notes["images that a split lists and that are not there"] = sorted(listed - set(images))
    return rows, list(notes.items()), problems


def _files(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Names of the pictures in a folder by their stem, and what is wrong with the folder."""
    if not folder.is_dir():
        return {}, [f"the folder {folder} does not exist"]
    found: dict[str, str] = {}
    problems = []
    for name in sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES):
        if (stem := Path(name).stem) in found:
            problems.append(f"{folder}: {found[stem]} and {name} differ in their ending only; keep one")
        found.setdefault(stem, name)
    return found, problems if found else [f"{folder} holds no picture"]


def _listed(files: Sequence[Path]) -> tuple[set[str] | None, list[str]]:
    """The images that split files list, None without any file, and what is wrong with the files."""
    listed: set[str] = set()
    problems = []
    for file in files:
        try:
            names = {_stem(line.strip()) for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()}
        except (OSError, UnicodeDecodeError):
            problems.append(f"the split {file} is not a text file that can be read")
            continue
        if not names:
            problems.append(f"the split {file} lists no image")
        listed |= names
    return listed if files else None, problems


def _stem(name: str) -> str:
    """A file's name without folders and, where it is a picture's, its ending."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def require_one(arguments: argparse.Namespace) -> None:
    """Raise `UserError` where flags of one layout are given with the file of the other."""
    if arguments.spreadsheet is not None:
        given = [name for name in (*NEEDED[:4], "side_column", "side_values", "split") if getattr(arguments, name)]
        if given:
            raise UserError(f"--{given[0].replace('_', '-')} belongs to --labels; leave it out with --spreadsheet")
