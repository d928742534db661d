"""The view store: one uint8 array on disk and a CSV index beside it, written frame by frame in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import atomic_path, write_rows
from workflow_scripts.core.log import progress
from workflow_scripts.data.frames import frames_of_row
from workflow_scripts.data.profiles import View, cut_views
from workflow_scripts.data.text import Text, TextReader, blanked, listing
from workflow_scripts.study.config.names import GROUPS

INDEX_COLUMNS = ("view_id", "image_id", "patient_id", "organ", "label", "side", "view", "coloured", "height", "width")
# Rows per task: enough to hide the cost of scheduling, few enough to keep the waiting results small. A row that takes
# many frames of a clip is a task of its own.
CHUNK = 8


class Cut(NamedTuple):
    """A view as it is stored."""

    view_id: str
    view: View
    texts: list[Text]
    annotated: bool
    """Whether its DICOM file says that text is burnt into the frame."""


# The views of a manifest row, or a sentence that says what is wrong with its file.
Views = list[Cut] | str


class Written(NamedTuple):
    """What `write_store` wrote."""

    views: int
    """How many."""
    bad: list[str]
    """What was wrong with each bad file."""
    texts: dict[int, list[Text]]
    """Text that was found, by the row of the index."""
    annotated: list[str]
    """Ids of the images whose DICOM file says that text is burnt in."""


def views_of_row(
    row: Mapping[str, str], root: Path, profiles: Mapping[str, Any], size: int, reader: TextReader | None
) -> Views:
    """View ids, views and their text of one manifest row, or a sentence that says what is wrong with its file.

    `row["frames"]` says which frames of a clip. A view is called image_id#view, in a clip image_id@frame#view.
    """
    image_id, profile = row["image_id"], profiles[row["device"]]
    views = []
    try:
        for frame in frames_of_row(row, root, profile["kind"], row["frames"]):
            name = image_id if frame.number is None else f"{image_id}@{frame.number}"
            views += [
                Cut(f"{name}#{view.name}", view, reader.read(view.pixels) if reader else [], frame.annotated)
                for view in cut_views(frame, profile, size, image_id)
            ]
    except UserError as error:
        return str(error)
    except MemoryError:
        return f"{image_id}: there is not enough memory to cut its views"
    return views


def _views_of_rows(
    rows: Sequence[Mapping[str, str]], root: Path, profiles: Mapping[str, Any], size: int, reader: TextReader | None
) -> list[Views]:
    return [views_of_row(row, root, profiles, size, reader) for row in rows]


def _tasks(rows: Sequence[Mapping[str, str]]) -> Iterator[list[Mapping[str, str]]]:
    """The rows in order, cut into what one process is handed at a time."""
    for is_clip, group in groupby(rows, key=lambda row: row["frames"] != "first"):
        members, step = list(group), 1 if is_clip else CHUNK
        yield from (members[start : start + step] for start in range(0, len(members), step))


def write_store(
    rows: Sequence[Mapping[str, str]], root: Path, profiles: Mapping[str, Any], size: int, threads: int,
    views_path: Path, index_path: Path, skip_bad: bool, reader: TextReader | None = None, on_text: str = "report",
) -> Written:  # fmt: skip
    """Decode and crop the files of `rows` in `threads` threads, and write their views in the order of the rows.

    A row has the manifest's cells and in `frames` which of a clip's frames to take. The text that `reader` finds in a
    view is, by `on_text`, reported, blanked before the view is written, or an error. Raises `UserError` that lists all
    bad files unless `skip_bad`, or the views with text, and where no view is left; then nothing is written. The index is
    written last: where it exists, the store is complete.
    """
    index: list[dict[str, str]] = []
    bad: list[str] = []
    found: dict[int, list[Text]] = {}
    annotated: list[str] = []
    # The views take their place before the index does, and neither does where the other cannot be written.
    with atomic_path(index_path) as index_part, atomic_path(views_path) as temporary:
        # Appended rather than mapped: skipped frames make the length known only at the end, and a full disk is then
        # an error with a message, where a mapped file would end the process.
        with temporary.open("wb") as file:
            _write_header(file, 0, size)
            start = file.tell()
            decoded = _decoded(rows, root, profiles, size, threads, reader)
            for row, views in zip(rows, progress(decoded, "crop", "frame", len(rows)), strict=True):
                if isinstance(views, str):
                    bad.append(views)
                    continue
                if any(cut.annotated for cut in views):
                    annotated.append(row["image_id"])
                for view_id, view, texts, _ in views:
                    if texts:
                        found[len(index)] = texts
                    file.write((blanked(view.pixels, texts) if on_text == "blank" else view.pixels).tobytes())
                    index.append(_entry(row, view_id, view))
            file.seek(0)
            # NumPy leaves room in the header for any number of rows.
            _write_header(file, len(index), size)
            if file.tell() != start:
                raise RuntimeError("the header of the view store has changed its length")
        if bad and not skip_bad:
            raise UserError(
                f"{_listing(bad)}\nrepair them or take their rows out of the manifest; "
                "data.on_bad_frame: skip goes on without them"
            )
        if not index:
            raise UserError(f"no frame is left, all were skipped: {_listing(bad)}")
        if found and on_text == "fail":
            raise UserError(
                f"{listing({index[row]['view_id']: texts for row, texts in found.items()})}\ndata.on_text: blank blacks it "
                "out, report goes on and shows where it is"
            )
        write_rows(index, [*INDEX_COLUMNS, *(name for name in GROUPS if name in rows[0])], index_part)
        index_path.unlink(missing_ok=True)  # if the process dies in between, no old index is left beside new views
    return Written(len(index), bad, found, annotated)


def _write_header(file: Any, count: int, size: int) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(file, header)


def _entry(row: Mapping[str, str], view_id: str, view: View) -> dict[str, str]:
    kept = {key: row[key] for key in ("image_id", "patient_id", "organ", "label", "side")}
    groups = {key: row[key] for key in GROUPS if key in row}
    height, width = map(str, view.shape)
    return {
        "view_id": view_id, **kept, "view": view.name, "coloured": f"{view.coloured:.4g}", "height": height, "width": width,
        **groups,
    }  # fmt: skip


def _decoded(
    rows: Sequence[Mapping[str, str]], root: Path, profiles: Mapping[str, Any], size: int, threads: int,
    reader: TextReader | None,
) -> Iterator[Views]:  # fmt: skip
    """Views or error messages in the order of the rows; at most 2 `threads` + 1 tasks wait, which bounds the memory.

    Threads are enough: Pillow releases Python's lock while it decodes, converts and resizes.
    """
    waiting: deque[Future[list[Views]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for task in _tasks(rows):
                waiting.append(pool.submit(_views_of_rows, task, root, profiles, size, reader))
                if len(waiting) > 2 * threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _listing(bad: Sequence[str]) -> str:
    frames = "1 frame cannot be used" if len(bad) == 1 else f"{len(bad)} frames cannot be used"
    return "\n".join([f"{frames}:", *(f"  {text}" for text in bad)])
