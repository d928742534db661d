"""Write the manifest of a study that is laid out as in the paper's released code (github.com/AImageLab-zip/TesticulUS).

There, a spreadsheet has one row per patient: the column `ID`, and two columns of the same name, the first for the right
testicle, the second for the left (pandas calls it "….1"): 0 is homogeneous, 1 inhomogeneous. Frames are called
ID<nn>_1.bmp (right) and ID<nn>_2.bmp (left), nn having at least two digits. Image ids are these names: ID07_1.

Any other value is not a label. The released loader accepts 2 and 3, but by a check that it shares with a column of four
functional classes; their meaning here is undocumented, so the frame stays unlabelled and is listed.

The later layout of the same group, a folder with `imgs/` and `masks/`, needs a CSV of labels and flags that say what its
columns and values mean, since that is not public.

    python -m workflow_scripts.tools.import_released --spreadsheet new_meta.xlsx --frames data \\
        --output-manifest data_manifest.csv
    python -m workflow_scripts.tools.import_released --labels labels.csv --frames testiculus --image-column image \\
        --patient-column patient --label-column homogeneity --label-values 0 1 --profile masks --split testiculus/train.txt \\
        --output-manifest data_manifest.csv
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.core.errors import UserError, listed
from workflow_scripts.core.files import write_rows
from workflow_scripts.core.log import say
from workflow_scripts.runtime.arguments import add_outputs
from workflow_scripts.runtime.cli import run, stage_parser
from workflow_scripts.tools.folder_layout import add_flags, missing_flags, read_folder, require_one

LABEL = "omogeneo (0), disomogeneo (1)"
PROFILE = "esaote_mylab"
SIDES = {1: "right", 2: "left"}
FRAME = re.compile(r"ID(\d+)_([12])\.bmp", re.IGNORECASE)
# How an ID may be typed: 7, 07, ID07, and 7.0 from a column that has had gaps.
ID = re.compile(r"(?:ID)?\s*(\d+)(?:\.0+)?", re.IGNORECASE)
# Longer lists are cut here.
SHOWN = 30

Side = tuple[int, int]  # number of the patient, 1 right or 2 left


@dataclass(frozen=True)
class Sheet:
    """What a spreadsheet says: the label cells by side, and what is wrong with its rows."""

    row: dict[int, int]
    """Row of each patient's number, as a spreadsheet program counts: the header is row 1."""
    cell: dict[Side, str]
    problems: list[str]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = stage_parser(__doc__)
    layout = parser.add_mutually_exclusive_group(required=True)
    layout.add_argument("--spreadsheet", type=Path, help="new_meta.xlsx, or the same as CSV")
    layout.add_argument("--labels", type=Path, help="CSV or .xlsx with one row per image of a folder layout")
    parser.add_argument(
        "--frames", type=Path, required=True,
        help="folder of ID<nn>_<side>.bmp, or with --labels that of imgs/ and masks/; becomes data.root",
    )  # fmt: skip
    add_outputs(parser, "manifest")
    parser.add_argument("--organ", default="testicle", help="organ of all frames (default: testicle)")
    parser.add_argument(
        "--classes", nargs=2, default=["homogeneous", "inhomogeneous"], metavar=("ZERO", "ONE"),
        help="names of 0 and 1 (default: homogeneous inhomogeneous)",
    )  # fmt: skip
    parser.add_argument("--profile", help=f"crop profile of all frames (default with --spreadsheet: {PROFILE})")
    parser.add_argument("--force", action="store_true", help="overwrite the manifest")
    add_flags(parser)
    return parser


def read_cells(path: Path) -> list[list[str]]:
    """The cells of a spreadsheet's first sheet as stripped text, empty ones as "": Excel, or CSV by the file's name.

    Raises `UserError` where the file is missing, unreadable or empty.
    """
    if not path.is_file():
        raise UserError(f"the spreadsheet {path} does not exist")
    try:
        cells = _csv_cells(path) if path.suffix.lower() in (".csv", ".txt", ".tsv") else _excel_cells(path)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as .xlsx or as CSV UTF-8") from None
    except Exception as error:  # openpyxl raises nearly anything on what is not a workbook: KeyError, BadZipFile …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} cannot be read as a spreadsheet ({reason}); save it as .xlsx or as CSV UTF-8"
        ) from None
    if not any(any(row) for row in cells):
        raise UserError(f"the first sheet of {path} is empty")
    return cells


def _excel_cells(path: Path) -> list[list[str]]:
    import pandas as pd

    table = pd.read_excel(path, header=None, dtype=object, na_filter=False)
    # What Excel shows as an error (#N/A) arrives as not-a-number.
    return [["" if pd.isna(cell) else str(cell).strip() for cell in row] for row in table.itertuples(index=False)]


def _csv_cells(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8-sig")
    # The name of the label columns holds a comma, so counting separators would not tell them apart.
    readings = (list(csv.reader(io.StringIO(text, newline=""), delimiter=separator)) for separator in ",;\t")
    headers = [(rows, (rows or [[]])[0]) for rows in readings]
    cells, _ = max(headers, key=lambda found: (sum(_name(cell) in ("id", LABEL) for cell in found[1]), len(found[1])))
    return [[cell.strip() for cell in row] for row in cells]


def _name(cell: str) -> str:
    """A column's name without line breaks, doubled blanks and capitals."""
    return " ".join(cell.split()).casefold()


def read_sheet(cells: Sequence[Sequence[str]]) -> Sheet:
    """The patients' label cells. A row without any content is skipped; all others need an ID of their own."""
    header = [_name(cell) for cell in cells[0]]
    ids = [i for i, name in enumerate(header) if name == "id"]
    # By name, then by position: the second is called ".1" where pandas has written the file.
    labels = sorted((i for i, name in enumerate(header) if name in (LABEL, f"{LABEL}.1")), key=lambda i: (header[i], i))
    sheet = Sheet({}, {}, [])
    if len(ids) != 1:
        sheet.problems.append(f"row 1: {len(ids)} columns are called ID, there must be one")
    if len(labels) != 2:
        sheet.problems.append(f"row 1: {len(labels)} columns are called {LABEL!r}, there must be two (right, left)")
    if sheet.problems:
        return sheet
    for number, row in enumerate(cells[1:], start=2):
        if any(row):
            _read_row(sheet, number, row, len(header), ids[0], labels)
    if not sheet.row and not sheet.problems:
        sheet.problems.append("holds no patient")
    return sheet


def _read_row(sheet: Sheet, number: int, row: Sequence[str], width: int, id_column: int, labels: Sequence[int]) -> None:
    if len(row) != width:
        sheet.problems.append(f"row {number}: has {len(row)} cells, the header {width}")
        return
    # Cells that are not numbers are not quoted: they may hold a patient's name.
    match = ID.fullmatch(row[id_column])
    if match is None:
        cause = "is not a number such as 7 or ID07" if row[id_column] else "is empty"
        sheet.problems.append(f"row {number}, column ID: {cause}")
        return
    patient = int(match[1])
    if patient in sheet.row:
        sheet.problems.append(f"row {number}, column ID: {patient} already appears in row {sheet.row[patient]}")
        return
    sheet.row[patient] = number
    sheet.cell.update({(patient, side): row[column] for side, column in zip(SIDES, labels, strict=True)})


def find_frames(names: Iterable[str]) -> tuple[dict[Side, str], list[str], int]:
    """File names by side, what is wrong with them, and how many are not called like a frame."""
    frames: dict[Side, str] = {}
    problems, others = [], 0
    for name in sorted(names):
        match = FRAME.fullmatch(name)
        if match is None:
            others += 1
            continue
        side = int(match[1]), int(match[2])
        if side in frames:
            problems.append(f"{frames[side]} and {name} are the same side of the same patient; keep one")
        frames.setdefault(side, name)
    return frames, problems, others


def image_id(side: Side) -> str:
    """The released code's name of a frame: ID07_1."""
    return f"{patient_id(side[0])}_{side[1]}"


def patient_id(number: int) -> str:
    """The released code's name of a patient, with at least two digits: ID07."""
    return f"ID{number:02}"


def read_label(cell: str, classes: Sequence[str]) -> tuple[str, str]:
    """The class that a label cell names, or "" and what is wrong with a cell that is not empty either."""
    try:
        value = float(cell)
    except ValueError:
        return "", "text" if cell else ""
    if value in (0, 1):
        return classes[int(value)], ""
    return "", f"{value:g}"


def manifest_rows(
    sheet: Sheet, frames: Mapping[Side, str], classes: Sequence[str], organ: str, profile: str
) -> tuple[list[dict[str, str]], list[str]]:
    """One manifest row per frame, in the order of patients and sides, and notes on what has no label or no frame."""
    rows, strange = [], []
    for side, name in sorted(frames.items()):
        label, wrong = read_label(sheet.cell.get(side, ""), classes)
        if wrong:
            strange.append(f"row {sheet.row[side[0]]}, {SIDES[side[1]]}: {wrong} is neither 0 nor 1")
        rows.append({
            "image_id": image_id(side), "path": name, "patient_id": patient_id(side[0]), "organ": organ, "label": label,
            "device": profile, "side": SIDES[side[1]],
        })  # fmt: skip
    blank = [image_id(side) for side in sorted(frames) if sheet.cell.get(side) == ""]
    rowless = [image_id(side) for side in sorted(frames) if side not in sheet.cell]
    frameless = [image_id(side) for side in sorted(sheet.cell) if side not in frames]
    notes = [
        _note("frames without a label, their cell is empty", blank),
        _note("frames without a label, their cell cannot be read", strange),
        _note("frames without a label, the spreadsheet has no row for them", rowless),
        _note("sides left out, they have a row but no frame", frameless),
    ]
    return rows, [note for note in notes if note]


def _note(text: str, items: Sequence[str]) -> str:
    """`text`, the number of the items and the first of them, or "" where there is none."""
    more = f" … and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{text} ({len(items)}): {'; '.join(items[:SHOWN])}{more}" if items else ""


def summary(rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> str:
    """Frames and patients by class, and how many patients' two sides differ."""
    counts = Counter(row["label"] for row in rows)
    labels: dict[str, set[str]] = {}
    for row in rows:
        if row["label"]:
            labels.setdefault(row["patient_id"], set()).add(row["label"])
    return (
        f"{len(rows)} frames of {len({row['patient_id'] for row in rows})} patients: "
        f"{', '.join(f'{counts[name]} {name}' for name in classes)}, {counts['']} without a label; "
        f"{len(labels)} patients are labelled, {sum(len(found) == 2 for found in labels.values())} differ between sides"
    )


def advice(arguments: argparse.Namespace) -> str:
    """What to do next: the config's section, and the command that checks it."""
    import yaml

    data = {
        "manifest": arguments.output_manifest.as_posix(), "root": arguments.frames.as_posix(), "source": "files",
        "organs": [arguments.organ], "target_organ": arguments.organ, "classes": arguments.classes,
    }  # fmt: skip
    section = yaml.safe_dump({"data": data}, sort_keys=False, default_flow_style=None, allow_unicode=True, width=1000)
    return (
        f"next, set in config.yaml:\n\n{section}\n"
        f"data.crop_profiles must hold {arguments.profile}; frames of further organs (the paper's thyroids) are added to "
        "the manifest as rows of their own, and to data.organs. Then `snakemake -n` checks both and shows the plan."
    )


def gather(arguments: argparse.Namespace) -> tuple[list[dict[str, str]], list[str]]:
    """The manifest's rows, and notes on what has been left out.

    Raises `UserError` that lists all that is wrong with the files or the arguments.
    """
    source, output = arguments.labels or arguments.spreadsheet, arguments.output_manifest
    rows: list[dict[str, str]] = []
    notes: list[str] = []
    problems: list[str] = []
    if output.resolve() == source.resolve():
        kind = "file of labels" if arguments.labels else "spreadsheet"
        problems.append(f"--output-manifest is the {kind} itself; name another file")
    elif output.exists() and not arguments.force:
        problems.append(f"{output} exists; name another --output-manifest, or overwrite it with --force")
    if len(set(arguments.classes)) != 2 or not all(arguments.classes):
        problems.append("--classes must be two different names")
    missing = missing_flags(arguments) if arguments.labels else []
    problems += missing
    cells: list[list[str]] = []
    try:
        cells = read_cells(source)
    except UserError as error:
        problems.append(str(error))
    if arguments.labels and cells and not missing:
        rows, found, wrong = read_folder(cells, arguments)
        notes = [_note(text, items) for text, items in found if items]
        problems += wrong
    if arguments.spreadsheet:
        rows, notes, wrong = _gather_sheet(cells, arguments)
        problems += wrong
    if problems:
        raise UserError(f"nothing has been imported:\n{listed(problems)}")
    return rows, notes


def _gather_sheet(
    cells: Sequence[Sequence[str]], arguments: argparse.Namespace
) -> tuple[list[dict[str, str]], list[str], list[str]]:
    """Rows, notes and problems of a spreadsheet's cells (none where it could not be read) and the folder of frames."""
    folder = arguments.frames
    sheet, frames, others, problems = Sheet({}, {}, []), dict[Side, str](), 0, list[str]()
    if cells:
        sheet = read_sheet(cells)
        problems += [f"{arguments.spreadsheet} {text}" for text in sheet.problems]
    if folder.is_dir():
        frames, wrong, others = find_frames(file.name for file in folder.iterdir() if file.is_file())
        problems += [f"{folder}: {text}" for text in wrong]
        if not frames:
            problems.append(f"{folder} holds no file that is called ID<nn>_1.bmp or ID<nn>_2.bmp")
    else:
        problems.append(f"the folder of frames {folder} does not exist")
    rows, notes = manifest_rows(sheet, frames, arguments.classes, arguments.organ, arguments.profile)
    if others:
        notes.append(f"files left out, they are not called ID<nn>_1.bmp or ID<nn>_2.bmp ({others})")
    return rows, notes, problems


def main(arguments: argparse.Namespace) -> None:
    """Read labels and folder, write the manifest, say what has been left out and what comes next."""
    require_one(arguments)
    if arguments.spreadsheet:
        arguments.profile = arguments.profile or PROFILE
    rows, notes = gather(arguments)
    if not any(row["label"] for row in rows):
        causes = "\n".join(f"  {note}" for note in notes)
        raise UserError(
            f"{arguments.labels or arguments.spreadsheet} gives none of the {len(rows)} frames a label:\n{causes}"
        )
    write_rows(rows, list(rows[0]), arguments.output_manifest)
    say("\n".join([*notes, f"{arguments.output_manifest}: {summary(rows, arguments.classes)}", advice(arguments)]))


if __name__ == "__main__":
    run(main, parser())
